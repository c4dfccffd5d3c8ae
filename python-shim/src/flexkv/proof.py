"""The proof that the sidecar sees a rank's KV memory as we do, both ways, before it is trusted.

While no block is live: blocks 0, 1, n/2 and n-1 are filled with a pattern that is unique to (seed,
region, block); the sidecar reads them over the real path and compares; then it writes another
pattern, and we compare; then the blocks are zeroed, as vLLM had them, or get back what was in them,
where the memory is somebody's whose data may be there already.

That only when nothing writes them any more.  A sidecar that does not answer may be paused between
its look at the clock and its copy, so its answer is waited for, or its end: see ``last_resort``.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from flexkv.errors import ControlError, FlexKVError
from flexkv.last_resort import end_writer
from flexkv.layout import KvLayout, Region
from flexkv.session_api import Session

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
CONTROL_TIMEOUT_S = 30.0
EXPIRY_S = 20.0
"""So long after a request of the proof was sent the sidecar begins no copy for it any more; what
has begun by then it drains, within 6 s, so that its answer comes before we stop waiting."""


class ProofError(FlexKVError):
    """The sidecar does not see the memory as vLLM does; the layout must not be trusted."""


def proof_blocks(num_blocks: int) -> list[int]:
    """The first two, the middle and the last block."""
    return sorted({0, min(1, num_blocks - 1), num_blocks // 2, num_blocks - 1})


def signed(value: int) -> int:
    """``value`` modulo 2^64 as torch's signed 64-bit integer."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def pattern(seed: int, region: int, block: int, length: int, device: Any) -> Any:
    """``length`` bytes (a uint8 tensor) of the pattern of one block of one region.

    Word i is splitmix64(base + i) in 64-bit wrapping arithmetic, little-endian; the sidecar
    computes the same in ``io.flexkv.protocol.ProofPattern``.
    """
    import torch

    base = seed ^ (region << 40) ^ (block * _GOLDEN)
    words = torch.arange((length + 7) // 8, dtype=torch.int64, device=device)
    words += signed(base + _GOLDEN)
    for bits, factor in _MIX:
        words = (words ^ _shift_right(words, bits)) * signed(factor)
    words = words ^ _shift_right(words, 31)
    return words.view(torch.uint8)[:length]


def _shift_right(words: Any, bits: int) -> Any:
    """Logical shift right of 64-bit words (torch's is arithmetic)."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def expires_ns() -> int:
    """The end of a request that is sent now, on the clock that the sidecar reads too."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(EXPIRY_S * 1e9)


class LayoutProof:
    """Runs the proof of one rank's layout over one session.  Engine thread only."""

    def __init__(self, layout: KvLayout, *, keep: bool = False) -> None:
        self._layout = layout
        self._keep = keep
        self._blocks = proof_blocks(layout.num_blocks)
        self._flat = [_flat_bytes(storage.tensor) for storage in layout.storages]

    def run(self, session: Session) -> None:
        """Proves both directions; raises ``ProofError``, or what ``control`` raises."""
        kept = [seen.clone() for *_, seen in self._each()] if self._keep else []
        try:
            seed = secrets.randbits(62)
            self._fill(seed)
            answer = self._ask(session, "prove_read", seed)
            if answer.get("equal") is not True:
                raise ProofError(
                    "the sidecar reads other bytes than vLLM wrote: "
                    f"{answer.get('detail') or 'no detail'}"
                )
            seed = secrets.randbits(62)
            self._let_write(session, seed)
            self._compare(seed)
        finally:
            self._restore(kept)

    def _let_write(self, session: Session, seed: int) -> None:
        """Comes back, or raises, only when the sidecar does not write any more."""
        try:
            self._ask(session, "prove_write", seed)
        except Exception as error:
            if not _says_that_it_ended(error):
                end_writer(session, str(error))
            raise

    def _ask(self, session: Session, op: str, seed: int) -> dict[str, Any]:
        args = {
            "session_id": session.session_id,
            "seed": seed,
            "blocks": self._blocks,
            "expires_ns": expires_ns(),
        }
        return session.control(op, args, CONTROL_TIMEOUT_S)

    def _slice(self, region: Region, block: int) -> Any:
        start = region.offset + block * region.block_stride
        return self._flat[region.allocation][start : start + region.bytes_per_block]

    def _each(self) -> Any:
        for index, region in enumerate(self._layout.regions):
            for block in self._blocks:
                yield index, region, block, self._slice(region, block)

    def _fill(self, seed: int) -> None:
        for index, region, block, target in self._each():
            target.copy_(pattern(seed, index, block, region.bytes_per_block, target.device))
        self._synchronize()

    def _compare(self, seed: int) -> None:
        import torch

        self._synchronize()
        for index, region, block, seen in self._each():
            wanted = pattern(seed, index, block, region.bytes_per_block, seen.device)
            if not torch.equal(seen, wanted):
                raise ProofError(
                    f"the sidecar wrote other bytes than agreed into region {index}, block {block}"
                )

    def _restore(self, kept: list[Any]) -> None:
        for index, (_, _, _, target) in enumerate(self._each()):
            if kept:
                target.copy_(kept[index])
            else:
                target.zero_()
        self._synchronize()

    def _synchronize(self) -> None:
        import torch

        if any(flat.device.type == "cuda" for flat in self._flat):
            torch.cuda.synchronize()


def _says_that_it_ended(error: Exception) -> bool:
    return isinstance(error, ControlError) and not error.may_run and error.code != "undrained"


def _flat_bytes(tensor: Any) -> Any:
    """The whole storage of a tensor as bytes."""
    import torch

    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
