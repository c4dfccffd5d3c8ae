"""Jobs of the Python API between launch and end, on one manager's sessions.

A task becomes one job for every part of its blocks: the first is small, so that its copies begin
while the others are prepared.  A job has ended when each rank said so (``JobDone``) and, for a
save, when the sidecar said what became of its blocks (``SaveDone``).

A load is over in one of two ways only, for its blocks go back to the caller then: the sidecar said
that no copy of it can touch memory any more, or the sidecar's process has ended.  At its deadline
it is taken back; if it has not drained some seconds later the sidecar is killed, as a worker of
vLLM would (``loads.py``).  If only the session breaks, the load is taken back through the next one
with the same life of the sidecar.  A save only reads the caller's memory: one whose session is gone
has failed at once, as has one that is far too late.  Both are disowned, by raising the counters of
their blocks, so that a copy which still runs finds them changed and caches nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexkv import protocol as p
from flexkv.kvtask import Task, TaskStatus, TaskType
from flexkv.ring import GenerationTable
from flexkv.session import Session
from flexkv.tokens import KEY_BYTES

logger = logging.getLogger(__name__)

SAVE_S = 60.0
"""How long a save may take."""

FIRST_PART, LEAST_PART, MOST_PARTS = 64, 128, 16
"""Blocks of a task's first job, of the others at least, and how many others there are at most."""


@dataclass(slots=True, eq=False)
class _Job:
    """One job of a task: ``block_ids`` for its blocks from ``offset`` on."""

    task: Task
    session: Session
    offset: int
    block_ids: tuple[int, ...]
    ranks_open: int
    verdict_open: bool
    deadline: float
    ok_blocks: int
    ok: bool = True
    revoked_at: float | None = None
    killed: bool = False


def part_ends(blocks: int) -> list[int]:
    """Where the parts of a task of so many blocks end."""
    if blocks <= FIRST_PART + LEAST_PART:
        return [blocks]
    rest = blocks - FIRST_PART
    size = min(max(LEAST_PART, -(-rest // MOST_PARTS)), p.MAX_BLOCKS_A_PLAN)
    return [*range(FIRST_PART, blocks, size), blocks]


class Transfers:
    """The running jobs.  Called under the manager's lock; times in seconds of ``clock``."""

    def __init__(
        self,
        generations: GenerationTable,
        ranks: int,
        load_s: float,
        drain_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generations = generations
        self._ranks = ranks
        self._load_s = load_s
        self._drain_s = drain_s
        self._clock = clock
        self._jobs: dict[int, _Job] = {}
        self._results: dict[int, list[_Job]] = {}
        self._counter = 0
        self._told: Session | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def sessions(self) -> list[Session]:
        """The sessions that running jobs belong to."""
        return list({id(job.session): job.session for job in self._jobs.values()}.values())

    # ------------------------------------------------------------------ start
    def launch(self, task: Task, block_ids: Sequence[int], room: Callable[[], bool]) -> int:
        """Hands a matched task to the sidecar, part by part; returns how many blocks it took.

        ``room`` is called while the ring is full, and says whether to try again.  Of a task that
        was handed over in part, the rest has failed, and its request is the caller's to end.
        """
        assert task.session is not None
        assert len(block_ids) == task.blocks
        ends = part_ends(task.blocks)
        task.jobs_open = len(ends)
        self._results[task.task_id] = []
        offset = 0
        for number, end in enumerate(ends):
            ids = tuple(block_ids[offset:end])
            if task.kind is TaskType.GET:
                # A put that still reads one of these blocks must find that it is no longer what it
                # was, and cache nothing of it.
                for block in ids:
                    self._generations.raise_(block)
            while not self._send_part(task, task.session, offset, ids):
                if not room():
                    self._give_up_rest(task, offset, len(ends) - number)
                    return offset
            task.status = TaskStatus.RUNNING
            offset = end
        return offset

    def _send_part(self, task: Task, session: Session, offset: int, ids: tuple[int, ...]) -> bool:
        """One job, with the keys that it needs, and the request's end if it is the last."""
        loads = task.kind is TaskType.GET
        self._counter += 1
        job_id = p.job_id(session.session_id, self._counter)
        records = self._keys_before(task, offset + len(ids))
        records += [self._plan(task, job_id, offset, ids), self._go(job_id, loads)]
        if offset + len(ids) == task.blocks:
            # The plans keep what they need: chain and lease may go.
            records.append(p.EndRequest(task.request))
        if not session.send(*records):
            return False
        if task.keys is not None:
            task.keys.take(task.first + offset + len(ids))
        deadline = self._clock() + (self._load_s if loads else SAVE_S)
        job = _Job(task, session, offset, ids, self._ranks, not loads, deadline, len(ids))
        self._jobs[job_id] = job
        self._results[task.task_id].append(job)
        return True

    @staticmethod
    def _keys_before(task: Task, end: int) -> list[p.Record]:
        """The keys of the task's blocks before ``end`` that the sidecar has not been told."""
        if task.keys is None or task.first + end <= task.keys.given:
            return []
        at, keys, most = task.keys.given, task.keys.next_keys(task.first + end), p.MAX_KEYS_A_RECORD
        return [
            p.Extend(task.request, at + i // KEY_BYTES, KEY_BYTES, keys[i : i + most * KEY_BYTES])
            for i in range(0, len(keys), most * KEY_BYTES)
        ]

    def _give_up_rest(self, task: Task, offset: int, parts: int) -> None:
        """Nothing from ``offset`` on was handed over: the task fails, when what was has ended."""
        session = task.session
        assert session is not None
        lost = _Job(task, session, offset, (), 0, False, 0.0, 0, ok=False)
        self._results[task.task_id].append(lost)
        task.jobs_open -= parts
        if task.jobs_open == 0:
            self._end(task)

    def _plan(self, task: Task, job_id: int, offset: int, ids: tuple[int, ...]) -> p.Record:
        first = task.first + offset
        if task.kind is TaskType.GET:
            return p.PlanLoad(job_id, task.request, task.lease, task.generation, first, ids)
        counters = tuple(self._generations[block] for block in ids)
        return p.PlanSave(job_id, task.request, first, ids, counters)

    def _go(self, job_id: int, loads: bool) -> p.Record:
        deadline_ms = int((self._load_s if loads else SAVE_S) * 1000)
        kind = p.KIND_LOAD if loads else p.KIND_SAVE
        return p.Go(job_id, 0, p.NO_INDEX, p.NO_INDEX, deadline_ms, kind)

    # ------------------------------------------------------------------ what comes back
    def job_done(self, session: Session, record: p.JobDone) -> Task | None:
        """A rank's part of a job has ended; the task, if that was its last."""
        job = self._jobs.get(record.job_id)
        if job is None or job.session is not session or record.boot_epoch != session.boot_epoch:
            return None
        job.ranks_open -= 1
        if job.task.kind is TaskType.GET:  # what became of a put its SaveDone says
            job.ok = job.ok and record.status == p.STATUS_OK
            job.ok_blocks = min(job.ok_blocks, record.blocks_ok)
        return self._settle(record.job_id, job)

    def save_done(self, session: Session, record: p.SaveDone) -> Task | None:
        """A save's blocks are in, or lost; the task, if that was its last."""
        job = self._jobs.get(record.job_id)
        if job is None or job.session is not session or not job.verdict_open:
            return None
        job.verdict_open = False
        job.ok_blocks = min(record.committed + record.skipped, len(job.block_ids))
        # Dropped blocks are no failure of the put: the pool may be full, and the caller may use
        # its memory again all the same.
        job.ok = record.status == p.STATUS_OK
        return self._settle(record.job_id, job)

    def _settle(self, job_id: int, job: _Job) -> Task | None:
        if job.ranks_open > 0 or job.verdict_open:
            return None
        del self._jobs[job_id]
        task = job.task
        task.jobs_open -= 1
        return None if task.jobs_open else self._end(task)

    def _end(self, task: Task) -> Task:
        done, good = 0, True
        for part in self._results.pop(task.task_id):
            good = good and part.ok
            if part.offset == done:
                done += part.ok_blocks
        task.end(TaskStatus.COMPLETED if good else TaskStatus.FAILED, done)
        return task

    # ------------------------------------------------------------------ time, and death
    def take_loads_back(self) -> None:
        """Every running load's deadline is now."""
        now = self._clock()
        for job in self._jobs.values():
            job.deadline = min(job.deadline, now) if job.task.kind is TaskType.GET else job.deadline

    @property
    def loads_open(self) -> bool:
        """Whether a copy may still write into a caller's blocks."""
        return any(job.task.kind is TaskType.GET for job in self._jobs.values())

    def advance(self, present: Session | None = None) -> list[Task]:
        """Ends what the end of a sidecar ended, takes back what is late; the tasks that ended.

        ``present`` is the session that the manager has now.
        """
        ended: list[Task] = []
        now = self._clock()
        for job_id, job in list(self._jobs.items()):
            if present is not None and job.task.kind is TaskType.GET:
                self._hand_over(job_id, job, present, now)
            if self._is_lost(job, now):
                job.ranks_open, job.verdict_open = 0, False
                job.ok, job.ok_blocks = False, 0
                task = self._settle(job_id, job)
                if task is not None:
                    ended.append(task)
            elif job.task.kind is TaskType.GET and now >= job.deadline:
                self._take_back(job_id, job, now)
        return ended

    def _hand_over(self, job_id: int, job: _Job, present: Session, now: float) -> None:
        """A load's session broke, its sidecar did not: the next session takes it back.

        There the sidecar answers once for each rank, also for those that have ended.
        """
        before = job.session
        if (
            present is not before
            and not before.alive()
            and present.alive()
            and present.boot_epoch == before.boot_epoch
            and present.send(p.Revoke(job_id))
        ):
            job.session, job.ranks_open = present, self._ranks
            job.deadline = min(job.deadline, now)
            if job.revoked_at is None:  # however often connections break, one time to drain
                job.revoked_at = now

    def _is_lost(self, job: _Job, now: float) -> bool:
        """Whether nothing can come back for a job, nor touch the caller's memory any more."""
        session = job.session
        if job.task.kind is not TaskType.GET:
            return self._disowned(job, now)
        if session.alive():
            return False
        if session.server_dead():
            return True
        if job.revoked_at is None:
            job.revoked_at = now
        self._kill_when_due(job, now)
        return False

    def _disowned(self, job: _Job, now: float) -> bool:
        """Gives a save up that its sidecar has not ended in time, or whose session is over.

        The sidecar may not have seen yet that it is, and the caller may write its blocks now.
        """
        if job.session.alive() and now < job.deadline + self._drain_s:
            return False
        for block in job.block_ids:
            self._generations.raise_(block)
        return True

    def _take_back(self, job_id: int, job: _Job, now: float) -> None:
        if job.revoked_at is None:
            job.revoked_at = now
            job.session.send(p.Revoke(job_id))
        self._kill_when_due(job, now)

    def _kill_when_due(self, job: _Job, now: float) -> None:
        assert job.revoked_at is not None
        if job.killed or now < job.revoked_at + self._drain_s:
            return
        if job.session is not self._told:
            self._told = job.session
            logger.error(
                "FlexKV kills the sidecar (pid %d): a load did not drain within %.1f s of its "
                "revocation, and its blocks go back to the caller only when nothing writes them",
                job.session.server_pid, self._drain_s,
            )  # fmt: skip
        job.killed = job.session.kill_server()
