"""A reset is owed until a sidecar has confirmed the very question that is open."""

from __future__ import annotations

from itertools import count

import pytest
from memory_sidecar import FakeSession, FakeSidecar

from flexkv.owed_reset import OwedReset
from flexkv.protocol import STATUS_FAILED, STATUS_OK, Reset, ResetAnswer


def a_session(sidecar: FakeSidecar) -> FakeSession:
    sidecar.prompt = False
    return sidecar.open_worker(0, memory=None)  # type: ignore[arg-type]


def asked(session: FakeSession) -> list[int]:
    return [record.query_id for record in session.inbox if isinstance(record, Reset)]


@pytest.fixture
def reset() -> OwedReset:
    return OwedReset(count(1).__next__)


def test_nothing_owed_asks_nobody(reset: OwedReset) -> None:
    session = a_session(FakeSidecar())
    assert reset.ask(session)
    assert asked(session) == []
    assert not reset.owed


def test_session_is_asked_once_and_its_answer_ends_it(reset: OwedReset) -> None:
    session = a_session(FakeSidecar())
    reset.owe()
    assert reset.ask(session)
    assert reset.ask(session)
    assert asked(session) == [1]
    assert reset.owed
    assert reset.heard(ResetAnswer(1, 2, STATUS_OK))
    assert not reset.owed


def test_full_ring_is_asked_again(reset: OwedReset) -> None:
    session = a_session(FakeSidecar())
    session.full = True
    reset.owe()
    assert not reset.ask(session)
    session.full = False
    assert reset.ask(session)
    assert len(asked(session)) == 1


def test_next_session_is_asked_anew_whatever_the_last_one_says_then(reset: OwedReset) -> None:
    sidecar = FakeSidecar()
    before, after = a_session(sidecar), a_session(sidecar)
    reset.owe()
    reset.ask(before)
    reset.ask(after)
    assert asked(after) == [2]
    assert reset.heard(ResetAnswer(1, 2, STATUS_OK))
    assert reset.owed, "the answer to an earlier question"


def test_same_number_of_another_life_is_another_session(reset: OwedReset) -> None:
    before, after = a_session(FakeSidecar()), a_session(FakeSidecar())
    assert before.session_id == after.session_id
    reset.owe()
    reset.ask(before)
    reset.ask(after)
    assert len(asked(after)) == 1


def test_second_reset_is_asked_though_the_first_is_open(reset: OwedReset) -> None:
    session = a_session(FakeSidecar())
    reset.owe()
    reset.ask(session)
    reset.owe()
    reset.ask(session)
    assert asked(session) == [1, 2]
    assert reset.heard(ResetAnswer(1, 2, STATUS_OK))
    assert reset.owed


def test_answer_that_does_not_last_leaves_it_owed_to_the_next_session(reset: OwedReset) -> None:
    sidecar = FakeSidecar()
    session = a_session(sidecar)
    reset.owe()
    reset.ask(session)
    assert not reset.heard(ResetAnswer(1, 2, STATUS_FAILED))
    assert reset.owed
    reset.ask(session)
    assert asked(session) == [1], "the same would say the same"
    after = a_session(sidecar)
    reset.ask(after)
    assert len(asked(after)) == 1
