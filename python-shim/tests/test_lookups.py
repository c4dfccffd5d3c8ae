"""How long a lookup waits, and what becomes of one that does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from flexkv import protocol as p
from flexkv.lookups import SPIN_KEYS, SPIN_SHARES_MAX, LookupLimits, Lookups
from flexkv.requests import RequestState

BLOCK = 16
LIMITS = LookupLimits(lookup_spin_us=50.0, step_spin_us=1000.0)


class StillSession:
    """Takes ``room`` hashes a call, answers nothing, and notes how long it was waited for."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.waited: list[float] = []

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        sent = min(len(hashes), first + self.room)
        return sent, sent == len(hashes)

    def wait_for(self, query_id: int, spin_us: float) -> None:
        self.waited.append(spin_us)


class Now:
    """Seconds; each look takes a microsecond, which keeps the budget of a step almost whole."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


def request_of(keys: int) -> RequestState:
    request = SimpleNamespace(
        request_id="a", block_hashes=[b"x" * 32] * keys, num_tokens=keys * BLOCK + 1
    )
    return RequestState(1, "a", request)


def spin_of(keys: int, limits: LookupLimits = LIMITS) -> float:
    session = StillSession()
    lookups = Lookups(BLOCK, limits, Now())
    lookups.answer(session, request_of(keys), lambda _: None)  # type: ignore[arg-type]
    return session.waited[0]


@pytest.mark.parametrize(
    ("keys", "shares"), [(1, 1.0), (SPIN_KEYS, 2.0), (2048, 4.0), (100_000, 1.0 + SPIN_SHARES_MAX)]
)
def test_answer_more_new_hashes_waits_longer_within_bounds(keys: int, shares: float) -> None:
    assert spin_of(keys) == pytest.approx(50.0 * shares, rel=0.01)


def test_answer_step_budget_bounds_the_wait() -> None:
    assert spin_of(2048, LookupLimits(lookup_spin_us=50.0, step_spin_us=70.0)) <= 70.0


def test_answer_no_spin_asked_for_looks_once() -> None:
    assert spin_of(2048, LookupLimits(lookup_spin_us=0.0)) == 0.0


def test_answer_hashes_sent_before_are_not_waited_for_again() -> None:
    session = StillSession()
    state = request_of(2048)
    state.sent = 2048
    Lookups(BLOCK, LIMITS, Now()).answer(session, state, lambda _: None)  # type: ignore[arg-type]
    assert session.waited == [50.0]


def test_answer_chain_longer_than_the_ring_goes_in_several_steps() -> None:
    session = StillSession(room=1000)
    state = request_of(2500)
    lookups = Lookups(BLOCK, LIMITS, Now())
    for sent in (1000, 2000):
        assert lookups.answer(session, state, lambda _: None) == (None, True)  # type: ignore[arg-type]
        assert state.sent == sent
        assert not session.waited, "nothing was asked yet"
        lookups.new_step()
    lookups.answer(session, state, lambda _: None)  # type: ignore[arg-type]
    assert state.query_id
    assert session.waited


def test_answer_ring_that_stays_full_is_no_reason_to_wait() -> None:
    lookups = Lookups(BLOCK, LIMITS, Now())
    session = StillSession(room=0)
    assert lookups.answer(session, request_of(20), lambda _: None) == (None, False)  # type: ignore[arg-type]
