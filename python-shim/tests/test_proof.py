"""The layout proof: the worker's pattern is the protocol's; every kind of wrong layout shows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flexkv import protocol as p

torch = pytest.importorskip("torch", reason="torch is not installed: no KV tensors to prove")

from flexkv.layout import KvLayout, derive_layout  # noqa: E402
from flexkv.proof import LayoutProof, ProofError, pattern, proof_blocks  # noqa: E402


@pytest.mark.parametrize("length", [8, 16, 13, 4096, 1])
@pytest.mark.parametrize("place", [(1, 2, 3), (0, 0, 0), ((1 << 62) - 1, 700, 1 << 20)])
def test_pattern_is_that_of_the_protocol(place: tuple[int, int, int], length: int) -> None:
    assert bytes(pattern(*place, length, "cpu").tolist()) == p.proof_bytes(*place, length)


def test_proof_blocks_of_any_number() -> None:
    assert proof_blocks(100) == [0, 1, 50, 99]
    assert proof_blocks(2) == [0, 1]
    assert proof_blocks(1) == [0]


class Sidecar:
    """A session that proves honestly, through the regions it was given."""

    session_id = 7

    def __init__(self, layout: KvLayout, flat: Any, shift: int = 0, swap: bool = False) -> None:
        self.layout, self.flat, self.shift, self.swap = layout, flat, shift, swap
        self.ends: list[float] = []
        """When each request ended, in seconds after its answer was waited for no longer."""

    def control(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.ends.append((args["expires_ns"] - time.monotonic_ns()) / 1e9 - timeout_s)
        for block in args["blocks"]:
            for index, region in enumerate(self.layout.regions):
                start = region.offset + block * region.block_stride + self.shift
                part = self.flat[start : start + region.bytes_per_block]
                key = 1 - index if self.swap and index < 2 else index
                wanted = p.proof_bytes(args["seed"], key, block, region.bytes_per_block)
                if op == "prove_write":
                    part.copy_(torch.frombuffer(bytearray(wanted), dtype=torch.uint8))
                elif bytes(part.tolist()) != wanted:
                    return {"equal": False, "detail": f"block {block}, region {index}"}
        return {"equal": True}


def layers() -> tuple[KvLayout, Any]:
    buffer = torch.zeros(2 * 10 * 64, dtype=torch.int8)
    views = {f"l{i}": buffer[i * 640 : (i + 1) * 640].view(10, 4, 16) for i in range(2)}
    flat = torch.empty(0, dtype=torch.uint8).set_(buffer.untyped_storage())
    return derive_layout(views, num_blocks=10, block_tokens=4), flat


def test_honest_sidecar_is_proved_and_leaves_zeros() -> None:
    layout, flat = layers()
    LayoutProof(layout).run(Sidecar(layout, flat))  # type: ignore[arg-type]
    assert not flat.any()


def test_requests_end_well_before_nobody_waits_for_their_answer() -> None:
    layout, flat = layers()
    sidecar = Sidecar(layout, flat)
    LayoutProof(layout).run(sidecar)  # type: ignore[arg-type]
    assert len(sidecar.ends) == 2
    assert all(end <= -10.0 for end in sidecar.ends)


@pytest.mark.parametrize("wrong", [{"shift": 8}, {"swap": True}])
def test_wrong_view_of_the_memory_is_refused(wrong: dict[str, Any]) -> None:
    layout, flat = layers()
    with pytest.raises(ProofError, match="reads other bytes"):
        LayoutProof(layout).run(Sidecar(layout, flat, **wrong))  # type: ignore[arg-type]


def test_sidecar_that_writes_elsewhere_is_refused() -> None:
    layout, flat = layers()
    sidecar = Sidecar(layout, flat)
    honest = sidecar.control

    def lying(op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        sidecar.shift = 16 if op == "prove_write" else 0
        args = {**args, "blocks": args["blocks"][:-1]} if sidecar.shift else args
        return honest(op, args, timeout_s)

    sidecar.control = lying  # type: ignore[method-assign]
    with pytest.raises(ProofError, match="wrote other bytes"):
        LayoutProof(layout).run(sidecar)  # type: ignore[arg-type]
