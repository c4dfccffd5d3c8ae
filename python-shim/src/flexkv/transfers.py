"""Jobs of the Python API between launch and end, on one manager's sessions.

A task becomes one job for every 8,192 blocks.  A job has ended when each rank said so (``JobDone``)
and, for a save, when the sidecar said what became of its blocks (``SaveDone``).

A load is over in one of two ways only, for its blocks go back to the caller then: the sidecar said
that no copy of it can touch memory any more, or the sidecar's process has ended.  At its deadline
it is taken back; if it has not drained some seconds later the sidecar is killed, as a worker of
vLLM would (``loads.py``).  A save only reads the caller's memory: one whose session is gone has
failed at once, and one that is far too late is disowned, by raising the counters of its blocks, so
that a copy which still comes finds them changed and caches nothing.
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

logger = logging.getLogger(__name__)

SAVE_S = 60.0
"""How long a save may take."""


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
    def launch(self, task: Task, block_ids: Sequence[int]) -> bool:
        """Hands a matched task to the sidecar; false if its ring has no room for it now."""
        session = task.session
        assert session is not None
        assert len(block_ids) == task.blocks
        loads = task.kind is TaskType.GET
        if loads:
            # A put that still reads one of these blocks must find that it is no longer what it
            # was, and cache nothing of it.
            for block in block_ids:
                self._generations.raise_(block)
        records: list[p.Record] = []
        jobs: dict[int, _Job] = {}
        for offset in range(0, task.blocks, p.MAX_BLOCKS_A_PLAN):
            ids = tuple(block_ids[offset : offset + p.MAX_BLOCKS_A_PLAN])
            self._counter += 1
            job_id = p.job_id(session.session_id, self._counter)
            records.append(self._plan(task, job_id, offset, ids))
            records.append(self._go(job_id, loads))
            deadline = self._clock() + (self._load_s if loads else SAVE_S)
            jobs[job_id] = _Job(
                task, session, offset, ids, self._ranks, not loads, deadline, len(ids)
            )
        # The plans keep what they need: chain and lease may go.
        records.append(p.EndRequest(task.request))
        if not session.send(*records):
            return False
        task.status = TaskStatus.RUNNING
        task.jobs_open = len(jobs)
        self._jobs.update(jobs)
        self._results[task.task_id] = list(jobs.values())
        return True

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
        if task.jobs_open:
            return None
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

    def advance(self) -> list[Task]:
        """Ends what the end of a sidecar ended, takes back what is late; the tasks that ended."""
        ended: list[Task] = []
        now = self._clock()
        for job_id, job in list(self._jobs.items()):
            if self._is_lost(job, now):
                job.ranks_open, job.verdict_open = 0, False
                job.ok, job.ok_blocks = False, 0
                task = self._settle(job_id, job)
                if task is not None:
                    ended.append(task)
            elif job.task.kind is TaskType.GET and now >= job.deadline:
                self._take_back(job_id, job, now)
        return ended

    def _is_lost(self, job: _Job, now: float) -> bool:
        """Whether nothing can come back for a job, nor touch the caller's memory any more."""
        session = job.session
        if session.alive():
            return job.task.kind is not TaskType.GET and self._disowned(job, now)
        if job.task.kind is not TaskType.GET or session.server_dead():
            return True
        if job.revoked_at is None:
            job.revoked_at = now
        self._kill_when_due(job, now)
        return False

    def _disowned(self, job: _Job, now: float) -> bool:
        """Gives a save up that its sidecar has not ended in time."""
        if now < job.deadline + self._drain_s:
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
