"""Questions of the Python API to a sidecar with slower tiers, which answers by script."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import pytest

from flexkv import protocol as p
from flexkv.kvtask import Task, TaskStatus, TaskType
from flexkv.matching import Matcher
from flexkv.tokens import ChainHasher

BLOCK = 4


class Scripted:
    """A session that answers each lookup with the next line of a script."""

    boot_epoch = 1

    def __init__(self, *answers: tuple[int, int, int]) -> None:
        self.script = deque(answers)  # status, host depth, ssd depth
        self.sent: list[Any] = []
        self.answers: deque[p.LookupAnswer] = deque()
        self.dead = False

    def alive(self) -> bool:
        return not self.dead

    def send(self, *records: Any) -> bool:
        self.sent += records
        for record in records:
            if isinstance(record, p.Lookup) and self.script:
                status, host, ssd = self.script.popleft()
                depth = ssd if status == p.LOOKUP_OK and self._asked(record) > 1 else host
                self.answers.append(
                    p.LookupAnswer(
                        record.query_id, record.request_id, 9, 1, depth, depth, host, ssd, ssd,
                        status,
                    )
                )  # fmt: skip
        return True

    def _asked(self, lookup: p.Lookup) -> int:
        return sum(isinstance(r, p.Lookup) and r.request_id == lookup.request_id for r in self.sent)

    def wait_for(self, query: int, spin_us: float) -> Any:
        if self.answers and self.answers[0].query_id == query:
            return self.answers.popleft()
        return None

    def lookups(self) -> list[p.Lookup]:
        return [r for r in self.sent if isinstance(r, p.Lookup)]

    def ended(self) -> list[int]:
        return [r.request_id for r in self.sent if isinstance(r, p.EndRequest)]


def started(session: Scripted, kind: TaskType) -> tuple[Matcher, Task, Any]:
    matcher = Matcher(ChainHasher(BLOCK))
    matcher.attach(session)  # type: ignore[arg-type]
    task = Task(1, kind, 8 * BLOCK, BLOCK, session)  # type: ignore[arg-type]
    return matcher, task, np.arange(8 * BLOCK)


OK, PENDING = p.LOOKUP_OK, p.LOOKUP_PENDING


def test_match_slower_tier_has_more_asks_until_it_is_on_its_way() -> None:
    session = Scripted((OK, 2, 6), (PENDING, 2, 6), (PENDING, 2, 6), (OK, 3, 6))
    matcher, task, tokens = started(session, TaskType.GET)
    matcher.match(task, tokens, 0, 8, None, cpu_only=False)
    assert (task.first, task.blocks) == (0, 6)
    assert len(session.lookups()) == 4
    assert session.ended() == [], "the lease lives until launch or cancel"


def test_match_cpu_only_takes_what_the_host_tier_has() -> None:
    session = Scripted((OK, 2, 6))
    matcher, task, tokens = started(session, TaskType.GET)
    matcher.match(task, tokens, 0, 8, None, cpu_only=True)
    assert task.blocks == 2
    assert len(session.lookups()) == 1


def test_match_promised_for_too_long_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexkv.matching.MATCH_WAIT_S", 0.02)
    session = Scripted((OK, 2, 6), *[(PENDING, 2, 6)] * 1000)
    matcher, task, tokens = started(session, TaskType.GET)
    matcher.match(task, tokens, 0, 8, None, cpu_only=False)
    assert (task.blocks, task.status) == (0, TaskStatus.COMPLETED)
    assert session.ended() == [task.request]


def test_match_no_answer_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late answer must not leave a lease behind."""
    monkeypatch.setattr("flexkv.matching.MATCH_WAIT_S", 0.02)
    session = Scripted()
    for kind, status in ((TaskType.GET, TaskStatus.COMPLETED), (TaskType.PUT, TaskStatus.FAILED)):
        matcher, task, tokens = started(session, kind)
        matcher.match(task, tokens, 0, 8, None, cpu_only=False)
        assert task.status is status
        assert task.request in session.ended()


def test_match_slow_answers_share_one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexkv.matching.MATCH_WAIT_S", 0.3)
    session = Slow((OK, 2, 6), *[(PENDING, 2, 6)] * 10)
    matcher, task, tokens = started(session, TaskType.GET)
    began = time.monotonic()
    matcher.match(task, tokens, 0, 8, None, cpu_only=False)
    assert time.monotonic() - began < 0.45
    assert task.blocks == 0


class Slow(Scripted):
    """Each answer takes 0.25 s."""

    def __init__(self, *answers: tuple[int, int, int]) -> None:
        super().__init__(*answers)
        self._sent_at = 0.0

    def send(self, *records: Any) -> bool:
        self._sent_at = time.monotonic()
        return super().send(*records)

    def wait_for(self, query: int, spin_us: float) -> Any:
        late = time.monotonic() - self._sent_at > 0.25
        return super().wait_for(query, spin_us) if late else None


def test_put_match_takes_no_lease_and_wakes_no_tier() -> None:
    session = Scripted((OK, 2, 6))
    matcher, task, tokens = started(session, TaskType.PUT)
    matcher.match(task, tokens, 0, 8, None, cpu_only=False)
    (lookup,) = session.lookups()
    assert (lookup.first_block, lookup.max_blocks) == (8, 0)
    assert (task.first, task.blocks) == (2, 6)


def drive(matcher: Matcher, session: Scripted, task: Task, most: int = 200) -> None:
    for _ in range(most):
        for answer in list(session.answers):
            matcher.answered(answer)
        session.answers.clear()
        if matcher.advance():
            return
        time.sleep(0.001)


def test_prefetch_asks_on_until_the_host_tier_has_it() -> None:
    session = Scripted((OK, 2, 6), (PENDING, 2, 6), (OK, 4, 6), (OK, 6, 6))
    matcher, task, tokens = started(session, TaskType.PREFETCH)
    matcher.prefetch(task, tokens, 8, None)
    assert task.status is TaskStatus.RUNNING
    drive(matcher, session, task)
    assert (task.status, task.done) == (TaskStatus.COMPLETED, 6)
    assert session.ended() == [task.request]
    assert matcher.advance() == []


def test_prefetch_session_ends_is_over_too() -> None:
    session = Scripted((OK, 2, 6))
    matcher, task, tokens = started(session, TaskType.PREFETCH)
    matcher.prefetch(task, tokens, 8, None)
    session.dead = True
    drive(matcher, session, task)
    assert (task.status, task.done) == (TaskStatus.FAILED, 0)


def test_prefetch_late_says_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexkv.matching.PREFETCH_S", 0.02)
    session = Scripted((OK, 2, 6), *[(PENDING, 3, 6)] * 1000)
    matcher, task, tokens = started(session, TaskType.PREFETCH)
    matcher.prefetch(task, tokens, 8, None)
    drive(matcher, session, task)
    assert (task.status, task.done) == (TaskStatus.FAILED, 3)
    assert session.ended() == [task.request]
