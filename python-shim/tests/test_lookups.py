"""How long a lookup waits, and what becomes of one that does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from memory_sidecar import FakeGenerations

from flexkv import protocol as p
from flexkv.lookups import SPIN_KEYS, SPIN_SHARES_MAX, LookupLimits, Lookups, SpinBound
from flexkv.requests import RequestState
from flexkv.scheduler import SchedulerFacts, SchedulerSide

BLOCK = 16
LIMITS = LookupLimits(lookup_spin_us=50.0, step_spin_us=1000.0)


class StillSession:
    """Takes ``room`` hashes a call, answers nothing, and notes how long it was waited for."""

    server_pid = 4242

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


def alone_spin(limits: LookupLimits) -> float:
    session = StillSession()
    Lookups(BLOCK, limits, Now()).answer(
        session,  # type: ignore[arg-type]
        request_of(1),
        lambda _: None,
        alone=True,
    )
    return session.waited[0]


def test_answer_the_only_request_waits_for_the_whole_budget_of_the_step() -> None:
    assert alone_spin(LIMITS) == pytest.approx(1000.0, rel=0.01)


def test_answer_the_only_request_no_spin_asked_for_looks_once() -> None:
    assert alone_spin(LookupLimits(lookup_spin_us=0.0)) == 0.0


def test_answer_the_only_request_in_vain_waits_for_less_the_next_time() -> None:
    session = StillSession()
    lookups = Lookups(BLOCK, LIMITS, Now())
    for number in range(1, 9):
        lookups.new_step()
        lookups.answer(
            session,  # type: ignore[arg-type]
            request_of(number),
            lambda _: None,
            alone=True,
        )
    assert session.waited[0] == pytest.approx(1000.0, rel=0.01)
    assert session.waited[-1] < 60.0


def test_spin_bound_follows_the_answers_and_probes_in_between() -> None:
    bound = SpinBound(50.0, 1000.0)
    for _ in range(40):
        bound.next_us()
        bound.answered(100.0)
    assert bound.next_us() == pytest.approx(200.0)
    for _ in range(6):
        bound.in_vain()
    spins = [bound.next_us() for _ in range(SpinBound.PROBE_EVERY)]
    assert sorted(spins)[-2:] == [50.0, 1000.0], "one spin in sixteen finds out anew"
    bound.answered(600.0)
    assert bound.next_us() == 1000.0, "twice what it took, but never more than the step's budget"


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


class LiveSession(StillSession):
    """The same, as a scheduler side wants it."""

    boot_epoch, session_id, server_pid = 1, 1, 1

    def alive(self) -> bool:
        return True

    def poll(self) -> list[p.Record]:
        return []

    def send(self, *records: p.Record) -> bool:
        return True


def test_matched_tokens_only_while_no_other_request_is_there_waits_long() -> None:
    session = LiveSession()
    link = SimpleNamespace(
        generations=FakeGenerations(64), session=lambda: session, close=lambda: None
    )
    side = SchedulerSide(SchedulerFacts(BLOCK, 64), link, LIMITS, Now())

    def request(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            request_id=name, block_hashes=[name.encode() * 32] * 4, num_tokens=4 * BLOCK + 1
        )

    assert side.get_num_new_matched_tokens(request("a"), 0) == (None, False)
    assert session.waited[-1] == pytest.approx(1000.0, rel=0.01)
    side.lookups.new_step()
    assert side.get_num_new_matched_tokens(request("b"), 0) == (None, False)
    assert session.waited[-1] == pytest.approx(50.0, rel=0.02)


def test_answer_no_room_for_longer_than_a_silence_is_one(caplog: pytest.LogCaptureFixture) -> None:
    now = Now()
    lookups, session = Lookups(BLOCK, LIMITS, now), StillSession(room=0)

    def ask_for(seconds: int) -> None:
        for _ in range(seconds):
            now.now += 1.0
            answer = lookups.answer(session, request_of(4), lambda _: None)  # type: ignore[arg-type]
            assert answer == (None, False), "nobody waits for room"
            lookups.end_step()

    for _ in range(2):
        ask_for(2)
        assert caplog.text == "", "not for long enough"
        lookups.heard()
    ask_for(10)
    assert caplog.text.count("has answered nothing for 2.0 s") == 1
    lookups.heard()
    assert "answers again, after 9.0 s" in caplog.text
    ask_for(50)
    assert caplog.text.count("has answered nothing") == 1, "not twice in a minute"
    ask_for(20)
    assert caplog.text.count("has answered nothing") == 2
