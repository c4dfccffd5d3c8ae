"""The ring of interprocess events: what may be recorded again, and when."""

from __future__ import annotations

from flexkv.fences import EventFences
from flexkv.protocol import FENCE_EVENT


class StubEvent:
    """An event that completes when the test says so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.records = 0
        self.complete = True

    def record(self) -> None:
        self.records += 1
        self.complete = False

    def ipc_handle(self) -> bytes:
        return bytes([self.number]) * 64

    def query(self) -> bool:
        return self.complete


class StubSession:
    """Has seen as much of each fence as the test says."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def fence_seen(self, index: int) -> int:
        return self.seen.get(index, 0)


def ring(size: int) -> tuple[EventFences, list[StubEvent], StubSession]:
    events = [StubEvent(i) for i in range(size)]
    return EventFences(events), events, StubSession()


def test_record_sequences_rise_and_name_their_event() -> None:
    fences, _, session = ring(3)
    made = [fences.record(session) for _ in range(3)]  # type: ignore[arg-type]
    assert [(f.kind, f.index, f.sequence) for f in made if f] == [
        (FENCE_EVENT, 0, 1), (FENCE_EVENT, 1, 2), (FENCE_EVENT, 2, 3),
    ]  # fmt: skip


def test_record_event_still_outstanding_is_not_recorded_again() -> None:
    fences, events, session = ring(2)
    fences.record(session)  # type: ignore[arg-type]
    fences.record(session)  # type: ignore[arg-type]
    assert fences.record(session) is None  # type: ignore[arg-type]
    assert events[0].records == 1
    assert fences.exhausted == 1


def test_record_after_the_sidecar_saw_it_reuses_the_event() -> None:
    fences, events, session = ring(2)
    fences.record(session)  # type: ignore[arg-type]
    fences.record(session)  # type: ignore[arg-type]
    session.seen[0] = 1
    assert fences.record(session) is not None  # type: ignore[arg-type]
    assert events[0].records == 2


def test_record_fence_that_no_job_polls_does_not_use_up_the_ring() -> None:
    """A refused plan's fence is seen by nobody: the event's own word must do."""
    fences, events, session = ring(2)
    for _ in range(20):
        assert fences.record(session) is not None  # type: ignore[arg-type]
        for event in events:
            event.complete = True
    assert fences.exhausted == 0


def test_record_new_session_starts_with_a_clean_ring() -> None:
    fences, _, session = ring(1)
    fences.record(session)  # type: ignore[arg-type]
    assert fences.record(StubSession()) is not None  # type: ignore[arg-type]
