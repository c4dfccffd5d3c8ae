"""What is true: which blocks the sidecar's tiers hold, from the sidecar's own notices.

A notice is applied when it arrives, whatever becomes of the events that are made of it; the
benchmark compares it with the sidecar's answers to lookups all along, and block for block at the
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexkv import protocol as p

_CLEARED = (p.NOTICE_CLEARED, p.NOTICE_LIST_BEGIN)


@dataclass(frozen=True, slots=True)
class Reach:
    """Blocks of a prompt that can be used from its start on, cumulative by tier."""

    gpu: int
    host: int
    ssd: int


class Residency:
    """One sidecar's two tiers."""

    def __init__(self) -> None:
        # By the last 8 bytes of a hash, which is all that a notice of an eviction names.
        self.tiers: dict[int, set[bytes]] = {p.TIER_HOST: set(), p.TIER_SSD: set()}

    def heard(self, notice: p.KvNotice) -> None:
        """One notice."""
        if notice.kind in _CLEARED:
            for tier in self.tiers.values():
                tier.clear()
            return
        width = notice.hash_bytes or 1
        ends = range(width, len(notice.hashes) + 1, width)
        hashes = [notice.hashes[end - 8 : end] for end in ends]
        if notice.kind == p.NOTICE_STORED:
            self.tiers[notice.tier].update(hashes)
        elif notice.kind == p.NOTICE_EVICTED:
            self.tiers[notice.tier].difference_update(hashes)

    def host_run(self, hashes: Sequence[bytes], first: int) -> int:
        """How far host memory reaches from block ``first`` on."""
        return _run(self.tiers[p.TIER_HOST], hashes, first, len(hashes))

    def reach(self, hashes: Sequence[bytes], gpu: int, most: int) -> Reach:
        """How far the first ``most`` blocks of a prompt are there, after ``gpu`` in the GPU."""
        host = _run(self.tiers[p.TIER_HOST], hashes, gpu, most)
        return Reach(gpu, host, _run(self.tiers[p.TIER_SSD], hashes, host, most))


def _run(held: set[bytes], hashes: Sequence[bytes], first: int, most: int) -> int:
    while first < most and bytes(hashes[first][-8:]) in held:
        first += 1
    return first
