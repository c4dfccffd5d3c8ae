"""What a router makes of KV events, as strictly as Dynamo's counts allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flexkv.events import Wire
from flexkv.protocol import TIER_HOST, TIER_SSD

Event = tuple[Any, ...]


class TupleEvents:
    """Events as plain tuples: ("stored", tier, block, parent, tokens, extra), ("removed", …)."""

    def __init__(self, *, whole_hashes: bool = False) -> None:
        self.whole_hashes = whole_hashes

    def stored(
        self, tier: int, block: Wire, parent: Wire | None, tokens: list[int], extra: bytes
    ) -> Event:
        return ("stored", tier, block, parent, tuple(tokens), extra)

    def removed(self, tier: int, block: Wire) -> Event:
        return ("removed", tier, block)

    def extra_keys(self, request: Any, first: int, end: int) -> list[bytes] | None:
        extra: list[bytes] | None = getattr(request, "extra", [])
        return extra and extra[first:end]


class Router:
    """Counts references: a second store of a block would never be taken back."""

    def __init__(self) -> None:
        self.tiers: dict[int, dict[Wire, Event]] = {TIER_HOST: {}, TIER_SSD: {}}
        self.seen = 0

    def apply(self, events: Iterable[Event]) -> Router:
        for event in events:
            self.seen += 1
            if event[0] == "cleared":
                for blocks in self.tiers.values():
                    blocks.clear()
            elif event[0] == "stored":
                _, tier, block, parent, *_rest = event
                assert block not in self.tiers[tier], f"{block} was stored twice"
                known = parent is None or any(parent in blocks for blocks in self.tiers.values())
                assert known, f"{block} before its parent {parent}"
                self.tiers[tier][block] = event
            else:
                _, tier, block = event
                assert self.tiers[tier].pop(block, None), f"{block} was removed, not stored"
        return self

    @property
    def host(self) -> set[Wire]:
        return set(self.tiers[TIER_HOST])
