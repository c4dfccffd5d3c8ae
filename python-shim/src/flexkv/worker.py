"""The worker side of one rank: fences, go-aheads, and the end of every load.

Lives in the worker's engine thread; every method is one hook of the connector.  It knows jobs, not
requests' meaning, and asks nobody: what a step's metadata says is enough to finish or fail every
job with the sidecar dead.  It never sleeps; what is not there yet is looked at in the next step.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from flexkv.fences import Fence, Fences
from flexkv.loads import OpenLoads
from flexkv.metadata import AFTER_FORWARD, StepJob, StepMetadata
from flexkv.protocol import KIND_LOAD, KIND_SAVE, NO_INDEX, Go, JobDone
from flexkv.session_api import Session, WorkerLink

logger = logging.getLogger(__name__)

MAX_SAVES_KEPT = 1024
REVOKE_WORDS = 1024


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """Bounds of a load, in milliseconds."""

    load_deadline_ms: int = 10_000
    drain_timeout_ms: int = 5_000


@dataclass(slots=True)
class _Waiting:
    """A load that could not be started yet: no free fence, or the ring was full."""

    job: StepJob
    give_up_at: float


class WorkerSide:
    """Starts jobs behind fences and reports loads.  Engine thread of one rank only."""

    def __init__(
        self,
        link: WorkerLink,
        fences: Fences,
        limits: WorkerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        revoke_words: int = REVOKE_WORDS,
    ) -> None:
        self._link = link
        self.fences = fences
        self._limits = limits or WorkerLimits()
        self._clock = clock
        self._deadline_s = self._limits.load_deadline_ms / 1000
        self._loads = OpenLoads(
            self._deadline_s, self._limits.drain_timeout_ms / 1000, revoke_words, clock
        )
        self._waiting: deque[_Waiting] = deque()
        self._saves: deque[StepJob] = deque(maxlen=MAX_SAVES_KEPT)
        self._off = False
        self.saves_done = self.saves_dropped = self.bytes_moved = 0

    # ------------------------------------------------------------------ hooks, in vLLM's order
    def expect(self, loads: list[StepJob]) -> None:
        """Takes a step's loads over: from here on each of them is reported, once."""
        give_up_at = self._clock() + self._deadline_s
        self._waiting.extend(_Waiting(job, give_up_at) for job in loads)

    def begin_step(self, meta: StepMetadata) -> None:
        """First thing of a step: fences the loads, and the saves of what earlier steps wrote.

        Saves left from a step whose ``wait_for_save`` did not come go first; their bytes are as
        complete now as the others'.
        """
        session = self._link.session()
        leftover = list(self._saves)
        self._saves.clear()
        if not self._off:
            saves = [job for job in meta.jobs if job.kind == KIND_SAVE]
            before = [job for job in saves if job.when != AFTER_FORWARD]
            self._start_saves(session, leftover + before)
            self._saves.extend(job for job in saves if job.when == AFTER_FORWARD)
        self._void(meta.void)
        self._start_loads(session)

    def wait_for_save(self) -> None:
        """The forward has been launched: fences the saves of what it writes."""
        session = self._link.session()
        self._start_saves(session, list(self._saves))

    def get_finished(self) -> set[str]:
        """Requests whose load has ended on this rank, each named once."""
        try:
            self._poll()
        except Exception:
            logger.exception("FlexKV is off on this rank: what the sidecar sent cannot be read")
            self.switch_off()
        self._loads.advance(self._link.session(), give_up=self._off)
        return self._loads.take_received()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that the loads reported by the last ``get_finished`` left unwritten."""
        return self._loads.take_failed_blocks()

    def switch_off(self) -> None:
        """Starts nothing more; open loads are revoked and end as they must."""
        self._off = True
        self._saves.clear()
        while self._waiting:
            self._loads.never_started(self._waiting.popleft().job)

    def shutdown(self) -> None:
        """Ends the session; the sidecar stops this rank's copies."""
        self._link.close()

    @property
    def open_loads(self) -> int:
        """Loads not reported yet."""
        return len(self._loads) + len(self._waiting)

    @property
    def loads(self) -> OpenLoads:
        """The loads' own counters."""
        return self._loads

    # ------------------------------------------------------------------ starting jobs
    def _void(self, job_ids: list[int]) -> None:
        """Ends loads that were planned before a reset."""
        if not job_ids:
            return
        self._loads.make_void(job_ids)
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            if waiting.job.job_id in job_ids:
                self._loads.never_started(waiting.job)
            else:
                self._waiting.append(waiting)

    def _start_loads(self, session: Session | None) -> None:
        """Publishes a ``Go`` for each load that can start; the others fail or wait, bounded."""
        fence: Fence | None = None
        now = self._clock()
        later: list[_Waiting] = []
        try:
            while self._waiting:
                # Taken off only once it is somebody else's to report, whatever raises on the way.
                job = self._waiting[0].job
                if (
                    self._off
                    or session is None
                    or session.boot_epoch != job.boot_epoch
                    or not session.alive()
                    or now >= self._waiting[0].give_up_at
                ):
                    self._loads.never_started(job)
                    self._waiting.popleft()
                    continue
                fence = fence or self.fences.record(session)
                if fence is None or not self._go_load(session, job, fence):
                    later.append(self._waiting.popleft())
        finally:
            self._waiting.extend(later)

    def _go_load(self, session: Session, job: StepJob, fence: Fence) -> bool:
        """Hands the first waiting load to the sidecar; false if there is no room for it now."""
        word = self._loads.free_word()
        if word is None:
            return False
        go = Go(
            job.job_id, fence.sequence, fence.index, word, self._limits.load_deadline_ms,
            KIND_LOAD, fence.kind,
        )  # fmt: skip
        self._loads.started(job, session, word)
        waiting = self._waiting.popleft()
        session.set_revoke(word, 0)
        if session.send(go):
            return True
        self._loads.withdraw(job.job_id)
        self._waiting.appendleft(waiting)
        return False

    def _start_saves(self, session: Session | None, jobs: list[StepJob]) -> None:
        """Publishes the saves behind one fence; what finds no room stays for the next step.

        So do those that come while no session is published: the sidecar may take plans of the
        scheduler from the moment in which this rank confirmed, a little before its session is here,
        and would wait a minute for the go of each.  What a dead one had planned goes with the next.
        """
        self._saves.clear()
        if session is None:
            self._saves.extend(jobs)
            self.saves_dropped += max(0, len(jobs) - MAX_SAVES_KEPT)
            return
        if not jobs:
            return
        present = [job for job in jobs if job.boot_epoch == session.boot_epoch]
        self.saves_dropped += len(jobs) - len(present)
        if not present:
            return
        fence = self.fences.record(session)
        if fence is None:
            self._saves.extend(present)
            return
        gos = [
            Go(job.job_id, fence.sequence, fence.index, NO_INDEX, 0, KIND_SAVE, fence.kind)
            for job in present
        ]
        if session.send(*gos):
            return
        for index, go in enumerate(gos):
            if not session.send(go):
                self._saves.extend(present[index:])
                return

    # ------------------------------------------------------------------ what comes back
    def _poll(self) -> None:
        sessions = self._loads.sessions()
        present = self._link.session()
        if present is not None and present not in sessions:
            sessions.insert(0, present)
        for session in sessions:
            for record in session.poll():
                if not isinstance(record, JobDone):
                    continue
                self.bytes_moved += record.bytes_moved
                if record.kind == KIND_LOAD:
                    self._loads.done(record)
                else:
                    self.saves_done += 1
