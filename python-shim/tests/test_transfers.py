"""Tasks of the Python API in parts: what goes to the sidecar when, and what becomes of a half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flexkv import protocol as p
from flexkv.kvtask import Task, TaskStatus, TaskType
from flexkv.ring import GenerationTable
from flexkv.tokens import KEY_BYTES, ChainHasher
from flexkv.transfers import FIRST_PART, LEAST_PART, Transfers, part_ends

BLOCK = 4


class Ring:
    """A session whose ring takes so many batches."""

    def __init__(self, room: int = 1 << 30, session_id: int = 3, boot_epoch: int = 7) -> None:
        self.room, self.session_id, self.boot_epoch = room, session_id, boot_epoch
        self.sent: list[list[Any]] = []
        self.over = self.killed = False
        self.server_pid = 1

    def alive(self) -> bool:
        return not self.over

    def server_dead(self) -> bool:
        return False

    def kill_server(self) -> bool:
        self.killed = True
        return True

    def send(self, *records: Any) -> bool:
        if self.room == 0:
            return False
        self.room -= 1
        self.sent.append(list(records))
        return True

    def of(self, kind: type) -> list[Any]:
        return [r for batch in self.sent for r in batch if isinstance(r, kind)]


def transfers(ranks: int = 1, clock: Callable[[], float] = lambda: 0.0) -> Transfers:
    """With 10 s for a load and 5 s to drain one that was taken back."""
    return Transfers(GenerationTable(4096), ranks, 10.0, 5.0, clock)


def put_of(blocks: int, session: Ring, first: int = 0, known: int = 0) -> Task:
    """A put of the chain's blocks from ``first`` on, whose first ``known`` keys have been sent."""
    end = first + blocks
    task = Task(1, TaskType.PUT, end * BLOCK, BLOCK, session, 5, first, blocks)  # type: ignore[arg-type]
    task.keys = ChainHasher(BLOCK).stream(np.arange(end * BLOCK))
    task.keys.make(known)
    task.keys.take(known)
    return task


def ended(work: Transfers, session: Ring, plan: p.PlanSave, committed: int) -> Task | None:
    """The sidecar says that a job's copies and its save have ended."""
    count = len(plan.block_ids)
    done = p.JobDone(plan.job_id, session.boot_epoch, 0, count, 0, p.KIND_SAVE, p.STATUS_OK)
    assert work.job_done(session, done) is None  # type: ignore[arg-type]
    verdict = p.SaveDone(plan.job_id, committed, 0, count - committed)
    return work.save_done(session, verdict)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [1, 192, 193, 1024, 8192, 500_000])
def test_part_ends_cover_all_in_plans_that_the_protocol_carries(blocks: int) -> None:
    ends = part_ends(blocks)
    sizes = np.diff([0, *ends])
    assert ends[-1] == blocks
    assert (sizes > 0).all()
    assert sizes.max() <= max(p.MAX_BLOCKS_A_PLAN, FIRST_PART + LEAST_PART)
    assert sizes[0] == FIRST_PART or len(ends) == 1
    assert len(ends) <= max(18, blocks // p.MAX_BLOCKS_A_PLAN + 3)


@pytest.mark.parametrize(("first", "known"), [(0, 0), (10, 64), (70, 100), (3, 1003)])
def test_launch_of_a_put_sends_each_key_once_before_the_plan_that_needs_it(
    first: int, known: int
) -> None:
    session, work = Ring(), transfers()
    task = put_of(1000, session, first, known)
    assert work.launch(task, range(1000), lambda: False) == 1000
    given = known
    hashed = ChainHasher(BLOCK).keys(np.arange((first + 1000) * BLOCK))
    for batch in session.sent:
        for record in batch:
            if isinstance(record, p.Extend):
                count = len(record.hashes) // KEY_BYTES
                assert record.first_index == given
                assert record.hashes == hashed[given * KEY_BYTES : (given + count) * KEY_BYTES]
                given += count
            elif isinstance(record, p.PlanSave):
                assert record.first_block + len(record.block_ids) <= given
    assert given == first + 1000
    assert len(session.of(p.PlanSave)) == len(part_ends(1000))
    assert session.of(p.EndRequest) == [session.sent[-1][-1]], "once, behind the last plan"


def test_launch_first_part_goes_before_the_other_keys_are_hashed() -> None:
    task = put_of(1000, Ring())
    hasher = ChainHasher(BLOCK)
    task.keys = hasher.stream(np.arange(4000))
    seen: list[int] = []

    class Watched(Ring):
        def send(self, *records: Any) -> bool:
            seen.append(hasher.hashed_blocks)
            return super().send(*records)

    task.session = Watched()  # type: ignore[assignment]
    assert transfers().launch(task, range(1000), lambda: False) == 1000
    assert seen[0] < 300, "a chunk of 1,024 tokens"
    assert seen[-1] == 1000


def test_launch_ring_full_amid_the_parts_fails_the_rest_and_keeps_what_went() -> None:
    session, work = Ring(room=2), transfers()
    task = put_of(1000, session)
    waits = [True, True, False]
    went = work.launch(task, range(1000), lambda: waits.pop(0))
    assert went == FIRST_PART + LEAST_PART
    assert not waits
    first, second = session.of(p.PlanSave)
    assert not session.of(p.EndRequest), "the caller ends the request"
    assert ended(work, session, second, LEAST_PART) is None
    assert task.status is TaskStatus.RUNNING
    assert ended(work, session, first, FIRST_PART) is task
    assert (task.status, task.done) == (TaskStatus.FAILED, went)
    assert len(work) == 0


def test_launch_no_room_at_all_has_failed_at_once() -> None:
    work = transfers()
    task = put_of(1000, Ring(room=0))
    assert work.launch(task, range(1000), lambda: False) == 0
    assert (task.status, task.done) == (TaskStatus.FAILED, 0)
    assert len(work) == 0


def test_part_that_lost_blocks_cuts_what_is_done_there() -> None:
    session, work = Ring(), transfers()
    task = put_of(400, session)
    work.launch(task, range(400), lambda: False)
    plans = session.of(p.PlanSave)
    answers = [
        ended(work, session, plan, len(plan.block_ids) - (i == 1)) for i, plan in enumerate(plans)
    ]
    assert answers[-1] is task
    assert (task.status, task.done) == (TaskStatus.COMPLETED, FIRST_PART + LEAST_PART - 1)


def test_get_in_parts_raises_the_counter_of_each_of_its_blocks_before_its_plan() -> None:
    generations = GenerationTable(4096)
    work = Transfers(generations, 1, 10.0, 5.0, lambda: 0.0)

    class Watched(Ring):
        def send(self, *records: Any) -> bool:
            for record in records:
                if isinstance(record, p.PlanLoad):
                    assert all(generations[block] == 1 for block in record.block_ids)
            return super().send(*records)

    session = Watched()
    task = Task(1, TaskType.GET, 2000, BLOCK, session, 5, 0, 500, 9, 1)  # type: ignore[arg-type]
    assert work.launch(task, range(100, 600), lambda: False) == 500
    assert [plan.first_block for plan in session.of(p.PlanLoad)] == [0, *part_ends(500)[:-1]]
    assert sum(generations[block] for block in range(4096)) == 500


def test_put_whose_session_breaks_fails_and_what_still_reads_its_blocks_caches_nothing() -> None:
    generations = GenerationTable(4096)
    work = Transfers(generations, 1, 10.0, 5.0, lambda: 0.0)
    session = Ring()
    task = put_of(100, session)
    work.launch(task, range(100), lambda: False)
    session.over = True
    assert work.advance(None) == [task]
    assert task.status is TaskStatus.FAILED
    assert [generations[block] for block in range(101)] == [1] * 100 + [0]


def get_of(blocks: int, session: Ring) -> Task:
    return Task(1, TaskType.GET, blocks * BLOCK, BLOCK, session, 5, 0, blocks, 9, 1)  # type: ignore[arg-type]


def test_get_whose_session_breaks_is_taken_back_through_the_next_one() -> None:
    work, before, after = transfers(ranks=2), Ring(), Ring(session_id=4)
    task = get_of(100, before)
    work.launch(task, range(100), lambda: False)
    (plan,) = before.of(p.PlanLoad)
    done = p.JobDone(plan.job_id, 7, 0, 100, 0, p.KIND_LOAD, p.STATUS_OK)
    assert work.job_done(before, done) is None  # type: ignore[arg-type]
    before.over = True
    assert work.advance(after) == []  # type: ignore[arg-type]
    assert work.advance(after) == []  # type: ignore[arg-type]
    assert after.of(p.Revoke) == [p.Revoke(plan.job_id)], "once"
    assert work.job_done(before, done) is None  # type: ignore[arg-type]
    gone = p.JobDone(plan.job_id, 7, 0, 0, 0, p.KIND_LOAD, p.STATUS_VOID)
    assert work.job_done(after, gone) is None  # type: ignore[arg-type]
    assert work.job_done(after, gone) is task, "each rank is answered for anew"  # type: ignore[arg-type]
    assert (task.status, task.done, len(work)) == (TaskStatus.FAILED, 0, 0)


def test_get_whose_connections_break_again_and_again_has_one_time_to_drain() -> None:
    now = [0.0]
    work, session = transfers(clock=lambda: now[0]), Ring()
    work.launch(get_of(100, session), range(100), lambda: False)
    for later in range(1, 6):
        session.over = True
        session, now[0] = Ring(session_id=3 + later), now[0] + 1.5
        assert work.advance(session) == []  # type: ignore[arg-type]
        assert session.killed == (now[0] > 1.5 + 5), "5 s after the first hand-over"


def test_ended_put_lets_go_of_its_prompt() -> None:
    session = Ring()
    task = put_of(1024, session)
    task.end(TaskStatus.COMPLETED, 1024)
    assert task.keys is None, "ended tasks are kept by the thousand"


def test_get_whose_sidecar_has_another_life_is_not_handed_over() -> None:
    work, before, after = transfers(), Ring(), Ring(session_id=4, boot_epoch=8)
    task = get_of(100, before)
    work.launch(task, range(100), lambda: False)
    before.over = True
    assert work.advance(after) == []  # type: ignore[arg-type]
    assert not after.sent
    assert work.loads_open, "until the old one's process has ended"
