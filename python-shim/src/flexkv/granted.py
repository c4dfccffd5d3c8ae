"""Loads from vLLM's grant to the word that they have ended: the scheduler's half of ``loads``.

vLLM runs a request no sooner than its load is named in ``finished_recving``, by all of its workers
or by us (``arrivals``), and computes what the workers name as failed.  So each granted load becomes
a job, be it one that fails at once, and each is counted as ended once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flexkv.arrivals import Arrivals
from flexkv.blocks import NULL_BLOCK, BlockTable
from flexkv.metadata import VOID_EPOCH, StepJob, StepMetadata
from flexkv.older_vllm import Parking
from flexkv.protocol import KIND_LOAD, PlanLoad
from flexkv.requests import OpenLoad, RequestState
from flexkv.session_api import Session


class GrantedLoads:
    """The loads that vLLM waits for.  Scheduler thread only.

    ``states`` are the requests that have not finished, by id.  ``granted`` and ``failed`` count
    loads since the start, ``blocks`` those that arrived.
    """

    def __init__(
        self,
        block_tokens: int,
        table: BlockTable,
        states: Mapping[str, RequestState],
        arrivals: Arrivals,
        parking: Parking | None,
        new_job: Callable[[Session | None], int],
    ) -> None:
        self._block_tokens = block_tokens
        self._table = table
        self._states = states
        self._arrivals = arrivals
        self._parking = parking
        self._new_job = new_job
        self._open: dict[str, RequestState] = {}
        self._outbox: list[StepJob] = []
        self._void: list[int] = []
        self.granted = self.failed = self.blocks = 0

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: str) -> bool:
        """Whether a load of this request is open that not every rank has reported yet."""
        return request_id in self._open

    # ------------------------------------------------------------------ from the grant to the step
    def open(self, session: Session | None, state: RequestState, num_external_tokens: int) -> None:
        """Plans exactly what vLLM granted.  What cannot be planned is a job that fails at once."""
        offer, state.offer = state.offer, None
        count = -(-num_external_tokens // self._block_tokens)
        ids = state.blocks[state.local : state.local + count] or state.blocks
        epoch = VOID_EPOCH
        job = self._new_job(session)
        if (
            session is not None
            and offer is not None
            and offer.first_block == state.local
            and count <= offer.blocks
            and len(ids) == count
            and NULL_BLOCK not in ids
        ):
            plan = PlanLoad(job, state.number, offer.lease_id, offer.generation, state.local, ids)
            if session.send(plan):
                epoch = session.boot_epoch
        state.load = OpenLoad(job, state.local, ids)
        if epoch != VOID_EPOCH:
            self._arrivals.opened(state.load)
        if self._parking is not None:
            self._parking.park(state.request_id, state.request.num_tokens)
        self._open[state.request_id] = state
        self._outbox.append(StepJob(job, epoch, state.request_id, KIND_LOAD, blocks=ids))
        self.granted += 1

    def make_void(self) -> None:
        """The cache was reset: what is open ends as failed, on every rank."""
        for state in self._open.values():
            if state.load is not None:
                self._void.append(state.load.job_id)
        self._arrivals.leave_all()

    def has_planned(self, request_id: str) -> bool:
        """Whether the next step carries a load of this request."""
        return any(job.request_id == request_id for job in self._outbox)

    def take(self) -> StepMetadata:
        """The loads planned since the last step: what a step carries even if all else fails."""
        meta = StepMetadata(self._outbox, self._void)
        self._outbox, self._void = [], []
        return meta

    # ------------------------------------------------------------------ ends
    def reported(self, output: Any, listen: Callable[[], bool]) -> None:
        """Some blocks of a load are invalid, or every rank has reported a load.

        The ranks' failed blocks may come in earlier steps than the last rank's report.  What vLLM
        has been told before is taken out of ``finished_recving``, which it reads afterwards: first
        of all, whatever breaks behind it.  ``listen`` hears the sidecar out.
        """
        reported = self._arrivals.take_out(output.finished_recving)
        output.finished_recving = reported or None
        if self._open:
            listen()
        invalid = set(getattr(output, "invalid_block_ids", None) or ())
        for state in self._open.values() if invalid else ():
            if state.load is not None:
                state.load.note_invalid(invalid)
        whole = getattr(output, "failed_recving", None) or ()
        for request_id in reported:
            ended = self._open.pop(request_id, None)
            if ended is not None:
                if ended.load is not None:
                    self._arrivals.reported(ended.load)
                self._end(ended, whole_failed=request_id in whole)

    def wait(self, listen: Callable[[], bool]) -> None:
        """Waits for one of them, a little, where no other request could run meanwhile.

        ``listen`` hears the sidecar out, and answers false when it is gone.
        """
        if self._states and all(name in self._open for name in self._states):
            self._arrivals.wait([state.load for state in self._open.values()], listen)

    def tell_ahead(self, output: Any) -> None:
        """Adds the loads that the sidecar says are whole to ``finished_recving``.

        Each is handed to vLLM as it is counted as told: a failure at one leaves it, and those after
        it, to the workers' word.
        """
        for name, state in list(self._open.items()):
            if state.load is None or not self._arrivals.is_whole(state.load):
                continue
            self._end(state, whole_failed=False)
            del self._open[name]
            self._arrivals.told(name)
            output.finished_recving = {*(output.finished_recving or ()), name}

    def forget(self, request_id: str) -> None:
        """Every rank has ended the load of a request that was aborted: nobody needs its blocks."""
        self._open.pop(request_id, None)
        if self._parking is not None:
            self._parking.leave([request_id])

    def _end(self, state: RequestState, *, whole_failed: bool) -> None:
        load, state.load = state.load, None
        if load is None:
            return
        self._arrivals.leave(load)
        if self._parking is not None and state.request_id not in self._states:
            self._parking.leave([state.request_id])  # aborted meanwhile
        if whole_failed:
            load.fail_at(0)
        good = len(load.blocks) if load.failed is None else load.failed
        if not state.tainted:
            self._table.filled(load.blocks[:good])
        self.blocks += good
        state.loaded += good
        if load.failed is not None:
            # Offered again it could fail again, and so on for ever.
            state.load_failed = True
            self.failed += 1
