"""Questions to the sidecar: how deep a request's chain can be served.

A question goes out when a request is admitted and is answered, as a rule, before the scheduler asks
for it.  Where it is not, the scheduler spins for some microseconds and then skips the request for
this step.  Every wait has two bounds, in questions and in seconds.  A sidecar that has said nothing
at all for two seconds is *silent*: until it says anything, no request waits for it.  (A killed
one with a large pool keeps its sockets open for seconds while the kernel takes its memory back.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flexkv.latency import Latencies
from flexkv.protocol import (
    LOOKUP_NOT_READY,
    LOOKUP_OK,
    LOOKUP_PENDING,
    LOOKUP_UNKNOWN,
    MAX_BLOCKS_A_PLAN,
    MAX_HASH_BYTES,
    MAX_KEYS_A_RECORD,
    MAX_RECORD_BYTES,
    MIN_HASH_BYTES,
    Extend,
    Lookup,
    LookupAnswer,
    Record,
)
from flexkv.requests import RequestState
from flexkv.session_api import Session
from flexkv.silence import Silence

_EXTEND_OVERHEAD = 64

SPIN_KEYS = 512
SPIN_SHARES_MAX = 3


@dataclass(frozen=True, slots=True)
class LookupLimits:
    """Bounds of what a lookup may cost.  Times in the unit of their names.

    A lookup waits for ``lookup_spin_us``, and as long again for each ``SPIN_KEYS`` hashes that went
    with it, at most ``SPIN_SHARES_MAX`` times more.  That of the engine's only request may use all
    of ``step_spin_us``: nobody else waits, and a step skipped costs it two milliseconds.  Unless
    the sidecar does not answer in that time anyway, having no core to do so: see ``SpinBound``.
    """

    lookup_spin_us: float = 50.0
    step_spin_us: float = 1000.0
    asks_max: int = 1000
    asks_s_max: float = 2.0
    silent_s: float = 2.0
    answer_lost_s: float = 0.1
    answer_fresh_s: float = 0.5
    probe_every_s: float = 0.02

    def patience_us(self, new_keys: int) -> float:
        """How long a lookup waits that has brought so many hashes with it."""
        return self.lookup_spin_us * (1 + min(new_keys / SPIN_KEYS, SPIN_SHARES_MAX))


class SpinBound:
    """How long it pays to spin for an answer, as the last answers came.

    Twice what they took; half of the last bound after each spin in vain, down to ``least_us``, for
    then the spinning itself may be what keeps the sidecar from answering.  One in ``PROBE_EVERY``
    spins may take ``most_us`` all the same, to find out whether that is still so.
    """

    PROBE_EVERY = 16

    def __init__(self, least_us: float, most_us: float) -> None:
        self._least_us = min(least_us, most_us)
        self._most_us = most_us
        self._bound_us = most_us
        self._spins = 0

    def next_us(self) -> float:
        """The bound of the spin that begins now."""
        self._spins += 1
        return self._most_us if self._spins % self.PROBE_EVERY == 0 else self._bound_us

    def answered(self, after_us: float) -> None:
        """That spin ended with an answer."""
        settled = max(2 * after_us, 0.75 * self._bound_us)
        self._bound_us = min(max(settled, self._least_us), self._most_us)

    def in_vain(self) -> None:
        """That spin ended without."""
        self._bound_us = max(self._bound_us / 2, self._least_us)


def extensions(state: RequestState) -> list[Extend]:
    """Records that carry the request's hashes which the sidecar does not have yet.

    Raises ``ValueError`` if vLLM's hashes have a width that the protocol does not carry.
    """
    hashes = state.request.block_hashes
    total = len(hashes)
    if state.sent >= total:
        return []
    width = len(hashes[state.sent])
    if not MIN_HASH_BYTES <= width <= MAX_HASH_BYTES:
        raise ValueError(f"block hashes of {width} bytes, must be 16 to 64 (vLLM: sha256, xxhash)")
    at_most = min(MAX_KEYS_A_RECORD, (MAX_RECORD_BYTES - _EXTEND_OVERHEAD) // width)
    return [
        Extend(state.number, first, width, b"".join(hashes[first : min(first + at_most, total)]))
        for first in range(state.sent, total, at_most)
    ]


class Lookups:
    """Asks, waits a little, remembers answers.  Scheduler thread only."""

    def __init__(self, block_tokens: int, limits: LookupLimits, clock: Callable[[], float]) -> None:
        self._block_tokens = block_tokens
        self._limits = limits
        self._clock = clock
        self._waiting: dict[int, RequestState] = {}
        self._next_query = 1
        self._spin_left_us = limits.step_spin_us
        self._alone = SpinBound(limits.lookup_spin_us, limits.step_spin_us)
        self._silence = Silence(clock, limits.silent_s)
        self._heard_at = float("-inf")
        self._full_since = float("inf")
        self._probed_at = float("-inf")
        self.ready = False
        """Whether the sidecar has said that every rank is registered: before, plans are dropped."""
        self.asked = self.asked_again = self.gave_up = 0
        self.times = Latencies()
        """What each question cost the scheduler's thread, spinning included."""

    def new_step(self) -> None:
        """The scheduler begins the next step: its budget for spinning is whole again."""
        self._spin_left_us = self._limits.step_spin_us

    def end_step(self) -> None:
        """The step is planned, and all that has arrived was heard."""
        if self._silence.on:
            self._silence.goes_on()

    def new_session(self) -> None:
        """What was asked of another session is never answered."""
        self.reset()
        self._silence.forget()
        self._full_since = float("inf")
        self.ready = False

    def reset(self) -> None:
        """Nor what was asked before a reset."""
        self._waiting.clear()
        self._probed_at = float("-inf")

    def probe(self, session: Session, states: Iterable[RequestState]) -> None:
        """Finds out whether the sidecar is ready, at most every ``probe_every_s`` seconds."""
        now = self._clock()
        if now - self._probed_at < self._limits.probe_every_s:
            return
        for state in states:
            depth = self.loadable_blocks(state)
            if depth > 0 and not state.query_id and self.ask(session, state, depth - 1):
                self._probed_at = now
                return

    def next_query(self) -> int:
        """A number for a question, never used twice."""
        self._next_query += 1
        return self._next_query - 1

    def loadable_blocks(self, state: RequestState) -> int:
        """Blocks of the chain that a load may cover: all but the one with the last token."""
        request = state.request
        before_last = (int(request.num_tokens) - 1) // self._block_tokens
        return min(before_last, len(request.block_hashes))

    def ask(self, session: Session, state: RequestState, first_block: int) -> bool:
        """Sends the hashes that are new and the question; false if the ring is full.

        Then some of the hashes may have gone: ``state.sent`` tells.
        """
        most = min(self.loadable_blocks(state) - first_block, MAX_BLOCKS_A_PLAN)
        if most <= 0:
            return False
        hashes = state.request.block_hashes
        total = len(hashes)
        new = total - state.sent
        query = self.next_query()
        lookup = Lookup(query, state.number, total, first_block, most)
        state.sent, asked = session.ask(lookup, hashes, state.sent)
        if not asked:
            return False
        self.forget(state)
        state.query_id = query
        state.asked_keys = max(0, new)
        state.answer = None
        state.asked_at = self._clock()
        self._waiting[query] = state
        self.asked += 1
        return True

    def is_open(self, state: RequestState) -> bool:
        """Whether an answer is on its way, and not long enough for it to be lost."""
        if not state.query_id:
            return False
        if self._clock() - state.asked_at <= self._limits.answer_lost_s:
            return True
        self.forget(state)
        return False

    def forget(self, state: RequestState) -> None:
        """Whatever is on its way for this request is no longer waited for."""
        self._waiting.pop(state.query_id, None)
        state.query_id = 0

    def arrived(self, answer: LookupAnswer) -> None:
        """Files an answer; one that nobody waits for is dropped."""
        self.ready = answer.status != LOOKUP_NOT_READY
        state = self._waiting.pop(answer.query_id, None)
        if state is None or state.query_id != answer.query_id:
            return
        state.query_id = 0
        state.answer = answer
        state.answered_at = self._clock()
        if answer.status == LOOKUP_OK:
            state.resident = answer.resident
        elif answer.status == LOOKUP_UNKNOWN:
            state.sent = 0

    def heard(self) -> None:
        """The sidecar said something: it is not silent."""
        self._heard_at = self._clock()
        self._full_since = float("inf")
        if self._silence.on:
            self._silence.end()

    def answer(
        self,
        session: Session,
        state: RequestState,
        dispatch: Callable[[Record | None], None],
        *,
        alone: bool = False,
    ) -> tuple[LookupAnswer | None, bool]:
        """The present answer, or ``None`` and whether asking again in the next step makes sense.

        ``alone`` says that the engine has no other request that this one could hold up.
        """
        now = self._clock()
        try:
            return self._answer(session, state, dispatch, now, alone)
        finally:
            self.times.add((self._clock() - now) * 1e6)

    def _answer(
        self,
        session: Session,
        state: RequestState,
        dispatch: Callable[[Record | None], None],
        now: float,
        alone: bool,
    ) -> tuple[LookupAnswer | None, bool]:
        fresh = state.answer
        if fresh is not None and now - state.answered_at > self._limits.answer_fresh_s:
            # Leases have a time limit, and others may have saved since.
            fresh = state.answer = None
        if fresh is None:
            sent = state.sent
            if not self.is_open(state) and not self.ask(session, state, state.local):
                if state.sent == sent:
                    self._has_no_room(session, now)
                    return None, False
                # A chain longer than the ring goes in several steps.
                return None, self._may_ask_again(state, now, session)
            spin_us = self._spin(state, alone)
            dispatch(session.wait_for(state.query_id, spin_us))
            fresh = state.answer
            spent_us = (self._clock() - now) * 1e6
            self._spin_left_us -= spent_us
            if alone and fresh is not None:
                self._alone.answered(spent_us)
            elif alone and spin_us > 0:
                self._alone.in_vain()
        if fresh is not None:
            if fresh.status == LOOKUP_OK:
                return fresh, False
            state.answer = None
            if fresh.status == LOOKUP_NOT_READY:
                return None, False
            if fresh.status not in (LOOKUP_PENDING, LOOKUP_UNKNOWN):
                return None, False
        return None, self._may_ask_again(state, now, session if fresh is None else None)

    def may_be_put_off(self, state: RequestState) -> bool:
        """Whether a request whose answer is here may wait once more: as often as for an answer."""
        return self._may_ask_again(state, self._clock(), None)

    def _spin(self, state: RequestState, alone: bool) -> float:
        """How long to wait now: the sidecar has to file the hashes before it can answer."""
        if self._silence.on or not self._limits.lookup_spin_us:
            return 0.0
        if alone:
            # An idle sidecar has to wake up first, which takes longer than any answer.
            bound_us = max(self._alone.next_us(), self._limits.patience_us(state.asked_keys))
            return max(0.0, min(bound_us, self._spin_left_us))
        return max(0.0, min(self._limits.patience_us(state.asked_keys), self._spin_left_us))

    def _has_no_room(self, session: Session, now: float) -> None:
        """Nothing of a question went; one that reads its ring makes room in less than a step."""
        self._full_since = min(self._full_since, now)
        if not self._silence.on and now - self._full_since > self._limits.silent_s:
            self._silence.begin(session.server_pid, self._full_since)

    def _may_ask_again(self, state: RequestState, now: float, mute: Session | None) -> bool:
        """``mute``: who has not answered; ``None`` if somebody has."""
        if self._silence.on:
            return False
        if state.asks == 0:
            state.asks_since = now
        state.asks += 1
        self.asked_again += 1
        waited = now - state.asks_since
        silent = self._heard_at < state.asks_since and waited > self._limits.silent_s
        if not silent and state.asks <= self._limits.asks_max and waited <= self._limits.asks_s_max:
            return True
        self.gave_up += 1
        if mute is not None:
            self._silence.begin(mute.server_pid, max(state.asks_since, self._heard_at))
        return False
