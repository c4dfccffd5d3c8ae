"""KV events: what the sidecar's tiers hold, told to whoever listens to this engine.

The sidecar sends notices (``docs/protocol.md``, "KV events"); this module turns them into events,
one a block: a store when a tier has it, a remove when it has not any more, once each a residency.
For that it remembers what it has announced, and nothing else: tokens stay with the sidecar.

Everything is done in slices, so that no step gets longer by what happens to wait: at most
``EVENTS_A_STEP`` events a step, and what is to be taken back is taken from the end of a dictionary,
children before parents.  Scheduler thread only.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Protocol

from flexkv.protocol import (
    MAX_RECORD_BYTES,
    NOTICE_CLEARED,
    NOTICE_EVICTED,
    NOTICE_LIST_BEGIN,
    NOTICE_LIST_END,
    NOTICE_STORED,
    NOTICES_ANEW,
    TIER_HOST,
    TIER_SSD,
    Extend,
    KvNotice,
    NoticesTaken,
    Record,
)
from flexkv.requests import RequestState

EVENTS_A_STEP = 256
"""Made in one step, give or take the blocks of one notice."""
TELL_EVERY = 8
"""Notices after which the sidecar is told that there is room for more (its window is 32)."""
STALLED_S = 1.0
"""An idle engine is kept stepping so long for what does not come."""
MORE_S = 0.05
"""… and so long for more notices, once room was made for them."""
FACTS_BYTES = MAX_RECORD_BYTES // 2
"""About the size of the tokens that one save plan brings along."""
MAX_BLOCK_BYTES = 64 * 1024
"""Tokens and extra keys of one block that can travel."""

Wire = int | bytes
"""A block hash as vLLM's events carry it."""
Announced = dict[int, dict[int, Wire]]
"""By tier, then by the hash's last 8 bytes: in the order of announcement."""


class EventMaker(Protocol):
    """Makes the engine's own event objects."""

    whole_hashes: bool
    """Events carry whole hashes instead of their last 8 bytes."""

    def stored(
        self, tier: int, block: Wire, parent: Wire | None, tokens: list[int], extra: bytes
    ) -> Any:
        """A block entered a tier."""

    def removed(self, tier: int, block: Wire) -> Any:
        """A block left a tier."""

    def extra_keys(self, request: Any, first: int, end: int) -> list[bytes] | None:
        """What else is in the hashes of blocks [first, end), encoded; empty if nothing is.

        ``None``: this engine does not say, so these blocks cannot be announced.
        """


class EventFeed:
    """See the module."""

    def __init__(self, block_tokens: int, maker: EventMaker, clock: Callable[[], float]) -> None:
        self._block_tokens = block_tokens
        self._maker = maker
        self._clock = clock
        self._queue: deque[KvNotice] = deque()
        self._announced = _nothing()
        self._unconfirmed: list[Announced] = []
        """Announced before the listing that runs now, and not named by it so far."""
        self._leaving: deque[Announced] = deque()
        """To be taken back, whatever comes next."""
        self._anew = False
        self._taken = self._told = 0
        self._open_saves = 0
        self._listing_due = False
        self._more_until = 0.0
        self._moves = 0
        self._stalled: tuple[int, float] = (-1, 0.0)
        self.stored = self.removed = self.listings = self.untold = 0

    # ------------------------------------------------------------------ to the sidecar
    def blocks_a_plan(self, hash_bytes: int) -> int:
        """Blocks whose facts fit in one record."""
        return max(1, FACTS_BYTES // (hash_bytes + 4 * self._block_tokens + 4))

    def facts(self, state: RequestState, first: int, end: int) -> list[Extend]:
        """What events need of blocks [first, end) of a request, for the plan that saves them."""
        request = state.request
        extra = self._maker.extra_keys(request, first, end)
        try:
            ids = request.all_token_ids[first * self._block_tokens : end * self._block_tokens]
            tokens = array("I", ids)
        except (AttributeError, OverflowError, TypeError):
            extra = None
        if extra is None or any(len(keys) > MAX_BLOCK_BYTES for keys in extra):
            self.untold += end - first
            return []
        begin = max(0, first - 1)  # the parent comes along
        hashes = request.block_hashes[begin:end]
        packed = b"".join(len(keys).to_bytes(4, "little") + keys for keys in extra)
        record = Extend(
            state.number, begin, len(hashes[0]), b"".join(hashes), tokens.tobytes(), packed
        )
        if len(record.hashes) + len(record.tokens) + len(packed) > MAX_RECORD_BYTES - 64:
            self.untold += end - first
            return []
        return [record]

    def planned(self, jobs: int) -> None:
        """Saves are on their way: their blocks will be announced."""
        self._open_saves += jobs
        self._moves += jobs

    def tell(self, send: Callable[[Record], bool]) -> None:
        """Says how many notices were taken, where that makes room or a listing is wanted."""
        behind = self._taken - self._told
        if not (self._anew or behind >= TELL_EVERY or (behind and not self._queue)):
            return
        if send(NoticesTaken(self._taken, NOTICES_ANEW if self._anew else 0)):
            self._told = self._taken
            if behind >= TELL_EVERY:
                self._more_until = self._clock() + MORE_S
            self._listing_due |= self._anew
            self._anew = False

    # ------------------------------------------------------------------ from the sidecar
    def heard(self, notice: KvNotice) -> None:
        """A notice has come; its events are made step by step."""
        self._queue.append(notice)
        self._moves += 1

    def save_done(self) -> None:
        """A save has ended; the notices of its blocks have come before."""
        self._open_saves = max(0, self._open_saves - 1)
        self._moves += 1

    def lost(self) -> None:
        """The sidecar is gone: nothing of what was announced can be served."""
        self._queue.clear()
        if self._unconfirmed or any(self._announced.values()):
            self._leaving.extend(self._unconfirmed)
            self._leaving.append(self._announced)
            self._unconfirmed = []
            self._announced = _nothing()
        self._taken = self._told = self._open_saves = 0
        self._anew = self._listing_due = False
        self._more_until = 0.0

    def attached(self) -> None:
        """Another sidecar: it begins with a listing, once every rank is there."""
        self.lost()
        self._listing_due = True
        self._moves += 1

    def forgotten(self) -> None:
        """All who listen have been told to forget everything: announce it all again."""
        self._unconfirmed = []
        self._leaving.clear()
        self._announced = _nothing()
        self._anew = True
        self._moves += 1

    # ------------------------------------------------------------------ to the engine
    def take(self) -> list[Any]:
        """The next events, at most about ``EVENTS_A_STEP``."""
        events: list[Any] = []
        self._take_back(events)
        queue = self._queue
        while queue and not self._leaving and len(events) < EVENTS_A_STEP:
            self._taken += 1
            self._hear(queue.popleft(), events)
            self._take_back(events)
        if events:
            self._moves += 1
        return events

    @property
    def waiting(self) -> bool:
        """Whether ``take`` has something to do."""
        return bool(self._queue or self._leaving)

    def keeps_engine_awake(self) -> bool:
        """Whether an idle engine should go on stepping; true at most ``STALLED_S`` for nothing."""
        now = self._clock()
        due = self._open_saves or self._listing_due or self._anew or now < self._more_until
        if not (self.waiting or due):
            return False
        if self._stalled[0] != self._moves:
            self._stalled = (self._moves, now)
        return now - self._stalled[1] < STALLED_S

    # ------------------------------------------------------------------ notices
    def _hear(self, notice: KvNotice, events: list[Any]) -> None:
        kind = notice.kind
        if kind == NOTICE_STORED:
            if notice.group == 0 and notice.tier in self._announced:
                self._stored(notice, events)
        elif kind == NOTICE_EVICTED:
            if notice.group == 0 and notice.tier in self._announced:
                self._evicted(notice, events)
        elif kind == NOTICE_LIST_BEGIN:
            self.listings += 1
            if any(self._announced.values()):
                self._unconfirmed.append(self._announced)
                self._announced = _nothing()
        elif kind == NOTICE_LIST_END:
            self._listing_due = False
            self._leaving.extend(self._unconfirmed)
            self._unconfirmed = []
        elif kind == NOTICE_CLEARED:
            self._leaving.extend(self._unconfirmed)
            self._leaving.append(self._announced)
            self._unconfirmed = []
            self._announced = _nothing()

    def _stored(self, notice: KvNotice, events: list[Any]) -> None:
        width = notice.hash_bytes
        keys = _keys(notice.hashes, width)
        wires: list[Any] = keys
        parent: Wire | None = None
        if self._maker.whole_hashes:
            wires = [notice.hashes[at : at + width] for at in range(0, width * len(keys), width)]
            parent = notice.parent or None
        elif notice.parent:
            parent = int.from_bytes(notice.parent[-8:], "big")
        ids = array("I", notice.tokens).tolist()
        extras = _split(notice.extra_keys, len(keys))
        known = self._announced[notice.tier]
        size = self._block_tokens
        stored = self._maker.stored
        for i, key in enumerate(keys):
            wire = wires[i]
            if key not in known:
                known[key] = wire
                if not self._unconfirmed or not self._confirmed(notice.tier, key):
                    tokens = ids[i * size : i * size + size]
                    events.append(stored(notice.tier, wire, parent, tokens, extras[i]))
                    self.stored += 1
            parent = wire

    def _confirmed(self, tier: int, key: int) -> bool:
        """Whether a block had been announced before the listing that names it."""
        return any(earlier[tier].pop(key, None) is not None for earlier in self._unconfirmed)

    def _evicted(self, notice: KvNotice, events: list[Any]) -> None:
        tier = notice.tier
        for key in _keys(notice.hashes, notice.hash_bytes):
            for known in (self._announced, *self._unconfirmed):
                wire = known[tier].pop(key, None)
                if wire is not None:
                    events.append(self._maker.removed(tier, wire))
                    self.removed += 1

    def _take_back(self, events: list[Any]) -> None:
        """Removes of what is leaving: the last announced first, as far as this step goes."""
        while self._leaving:
            for tier, blocks in self._leaving[0].items():
                while blocks:
                    if len(events) >= EVENTS_A_STEP:
                        return
                    events.append(self._maker.removed(tier, blocks.popitem()[1]))
                    self.removed += 1
            self._leaving.popleft()


def _nothing() -> Announced:
    return {TIER_HOST: {}, TIER_SSD: {}}


_STRUCTS: dict[int, Struct] = {}


def _keys(hashes: bytes, width: int) -> list[int]:
    """The last 8 bytes of each hash, as vLLM makes a number of them."""
    layout = _STRUCTS.get(width)
    if layout is None:
        layout = _STRUCTS[width] = Struct(f">{width - 8}xQ")
    return [key for (key,) in layout.iter_unpack(hashes)]


def _split(extra_keys: bytes, count: int) -> list[bytes] | tuple[bytes, ...]:
    """Each block's extra keys."""
    if not extra_keys:
        return (b"",) * count
    parts: list[bytes] = []
    at = 0
    for _ in range(count):
        length = int.from_bytes(extra_keys[at : at + 4], "little")
        parts.append(extra_keys[at + 4 : at + 4 + length])
        at += 4 + length
    return parts
