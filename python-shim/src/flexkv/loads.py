"""Open loads of one rank: each is reported exactly once, and never while a copy may still write.

vLLM has no way to hold a block that a late copy may touch: once a failed load is reported its
blocks are recomputed into, or handed to another request.  So a load ends only in one of these ways:

* *never started*: no ``Go`` for it was ever published;
* *drained*: the sidecar said so (``JobDone``): no copy of it can touch memory any more;
* *dead*: the sidecar's process has ended, and with it its copies, and what it said until then has
  been read: it may have told the scheduler too that the load ended well.

If only the session breaks, the load is taken back through the next one with the same life of the
sidecar, once.  At the deadline the load is revoked; if it has not drained some seconds later the
sidecar is killed.  The engine's thread never sleeps here: each step looks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flexkv.metadata import StepJob
from flexkv.protocol import STATUS_FAILED, STATUS_OK, STATUS_REVOKED, JobDone, Revoke
from flexkv.session_api import Session

logger = logging.getLogger(__name__)

_COPIED = (STATUS_OK, STATUS_FAILED, STATUS_REVOKED)
"""Ends of a load after which its first ``blocks_ok`` blocks may be used."""


@dataclass(slots=True)
class RunningLoad:
    """A load whose ``Go`` was published to ``session``.

    ``earlier`` is the session it was handed over from: the sidecar may have answered there.
    ``server_gone``: its sidecar was seen dead; what that said before is read by the next poll.
    """

    job: StepJob
    session: Session
    revoke_index: int
    deadline: float
    void: bool = False
    handed_over: bool = False
    revoked_at: float | None = None
    killed: bool = False
    server_gone: bool = False
    blocks_ok: int | None = None
    earlier: Session | None = None


class OpenLoads:
    """The loads between ``Go`` and report.  Engine thread of one rank only.  Times in seconds."""

    def __init__(
        self, deadline_s: float, drain_s: float, revoke_words: int, clock: Callable[[], float]
    ) -> None:
        self._deadline_s = deadline_s
        self._drain_s = drain_s
        self._clock = clock
        self._running: dict[int, RunningLoad] = {}
        self._free_words = list(range(revoke_words - 1, -1, -1))
        self._killed: list[Session] = []
        self._complained = False
        self._received: list[str] = []
        self._failed_blocks: set[int] = set()
        self.ok = self.failed = self.revoked = self.kills = 0

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._running

    def free_word(self) -> int | None:
        """A revoke word for one load, or ``None`` if too many are open."""
        return self._free_words.pop() if self._free_words else None

    def started(self, job: StepJob, session: Session, revoke_index: int) -> None:
        """The load's ``Go`` is being published: from now on it must drain or its sidecar die."""
        deadline = self._clock() + self._deadline_s
        self._running[job.job_id] = RunningLoad(job, session, revoke_index, deadline)

    def withdraw(self, job_id: int) -> None:
        """The ``Go`` was not published after all."""
        self._free_words.append(self._running.pop(job_id).revoke_index)

    def never_started(self, job: StepJob) -> None:
        """The load failed before any copy could begin."""
        self._report(job, 0)

    def make_void(self, job_ids: list[int]) -> None:
        """These loads end as failed, even if their bytes arrive: the cache was reset."""
        for job_id in job_ids:
            load = self._running.get(job_id)
            if load is not None:
                load.void = True

    def done(self, record: JobDone) -> None:
        """The sidecar says that no copy of this load can touch memory any more.

        Where it says so twice, to a broken session that the load ended well and to the next one
        that there is no such load, the good word counts: the scheduler may have heard it too.
        """
        load = self._running.get(record.job_id)
        if load is not None and record.boot_epoch == load.job.boot_epoch:
            arrived = record.blocks_ok if record.status in _COPIED else 0
            load.blocks_ok = max(load.blocks_ok or 0, min(arrived, len(load.job.blocks)))

    def sessions(self) -> list[Session]:
        """The sessions that loads are open on; usually one, the present one.

        Those that loads were handed over from come last: what the sidecar said there, it said
        before it answered in the next one.
        """
        found: list[Session] = []
        for load in self._running.values():
            if load.session not in found:
                found.append(load.session)
        for load in self._running.values():
            if load.earlier is not None and load.earlier not in found:
                found.append(load.earlier)
        return found

    def advance(self, present: Session | None = None, *, give_up: bool = False) -> None:
        """Looks at every open load once.  With ``give_up`` all deadlines are now.

        Whoever calls it has polled ``sessions()`` since the last call.  ``present`` is the session
        that the worker has now.
        """
        now = self._clock()
        for load in list(self._running.values()):
            try:
                if load.blocks_ok is None and present is not None:
                    self._hand_over(load, present, now)
                if load.blocks_ok is None:
                    self._urge(load, now, give_up=give_up)
                if load.blocks_ok is not None:
                    self._end(load)
            except Exception:  # one load must not strand the others
                if not self._complained:
                    logger.exception("FlexKV cannot end load %d yet", load.job.job_id)
                self._complained = True

    def take_received(self) -> set[str]:
        """Requests whose load has ended since the last call; each is named once."""
        received, self._received = set(self._received), []
        return received

    def take_failed_blocks(self) -> set[int]:
        """Blocks that did not arrive, of the loads reported since the last call."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    # ------------------------------------------------------------------
    def _hand_over(self, load: RunningLoad, present: Session, now: float) -> None:
        """The load's session broke, its sidecar did not: another session asks how it ended."""
        before = load.session
        if (
            present is before
            or load.handed_over
            or load.killed
            or present.boot_epoch != before.boot_epoch
            or before.alive()
            or not present.alive()
            or not present.send(Revoke(load.job.job_id))
        ):
            return
        load.handed_over = True
        load.earlier, load.session = before, present
        self.revoked += load.revoked_at is None
        load.revoked_at = now

    def _urge(self, load: RunningLoad, now: float, *, give_up: bool) -> None:
        """Revokes what is late, kills what does not drain, buries what is dead."""
        session = load.session
        alive = session.alive()
        if load.server_gone:
            load.blocks_ok = 0
            return
        if not alive and session.server_dead():
            # Its last word may have come since the rings were read, and the scheduler may have told
            # vLLM of it already: the rings are read once more.
            load.server_gone = True
            return
        if load.revoked_at is None and (give_up or not alive or now >= load.deadline):
            load.revoked_at = now
            self.revoked += 1
            session.set_revoke(load.revoke_index, load.job.job_id)
            session.send(Revoke(load.job.job_id))
        if load.revoked_at is None or now < load.revoked_at + self._drain_s or load.killed:
            return
        if session not in self._killed:
            # A killed sidecar ends only when the kernel has taken its pool back, seconds for a
            # large one; until then its copies may run, and a kill more does no harm.
            logger.error(
                "FlexKV kills the sidecar (pid %d): %s, a load did not drain within %.1f s of its "
                "revocation, and its blocks go back to vLLM only when nothing writes them",
                session.server_pid,
                "its socket is open"
                if alive
                else "its socket is closed but its process is not gone",
                self._drain_s,
            )
            self._killed = [session]
            self.kills += 1
        load.killed = session.kill_server()

    def _end(self, load: RunningLoad) -> None:
        del self._running[load.job.job_id]
        load.session.set_revoke(load.revoke_index, 0)
        self._free_words.append(load.revoke_index)
        self._report(load.job, 0 if load.void else load.blocks_ok or 0)

    def _report(self, job: StepJob, blocks_ok: int) -> None:
        bad = [block for block in job.blocks[blocks_ok:] if block != 0]
        self._failed_blocks.update(bad)
        self._received.append(job.request_id)
        if bad:
            self.failed += 1
        else:
            self.ok += 1
