"""Which blocks of a request are saved in this step, and the records that say so.

Saves are optimistic: a plan carries the generation counters that its blocks had when the request
got them, the sidecar copies and drops what has been handed out again meanwhile.  So nothing here
holds a block back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flexkv.blocks import BlockTable
from flexkv.events import EventFeed
from flexkv.lookups import extensions
from flexkv.metadata import BEFORE_FORWARD, StepJob
from flexkv.protocol import KIND_SAVE, MAX_BLOCKS_A_PLAN, EndRequest, PlanSave, Record
from flexkv.requests import RequestState
from flexkv.session_api import Session

MAX_ENDS_KEPT = 65_536


class SavePlanner:
    """Plans saves in chain order, once each.  Scheduler thread only."""

    def __init__(
        self,
        block_tokens: int,
        table: BlockTable,
        new_job: Callable[[Session], int],
        events: EventFeed | None = None,
    ) -> None:
        self._block_tokens = block_tokens
        self._table = table
        self._new_job = new_job
        self._events = events
        self._ends: deque[EndRequest] = deque(maxlen=MAX_ENDS_KEPT)
        self.jobs = self.blocks = self.ring_full = 0

    def mark_filled(self, state: RequestState, tokens: int) -> None:
        """This step's forward fills the blocks that end within its ``tokens`` tokens.

        Only what is computed over bytes that we saw written counts: what builds on a block from
        before a reset is as stale as that block, and may meet a fresh parent later.
        """
        computed = state.request.num_computed_tokens
        first = computed // self._block_tokens
        end = min((computed + tokens) // self._block_tokens, len(state.blocks))
        if state.tainted or end <= first:
            return
        state.verified = self._table.intact_prefix(
            state.blocks, state.held_at, state.verified, first
        )
        if state.verified == first:
            self._table.filled(state.blocks[first:end])

    def nothing_to_do(self, state: RequestState, tokens: int) -> bool:
        """Whether a step of so many tokens completes no block and no older one waits for a plan.

        So it is for most running requests in most steps.
        """
        computed = state.request.num_computed_tokens
        block = computed // self._block_tokens
        return (computed + tokens) // self._block_tokens == block and (
            state.saved >= block or state.resident >= block or state.no_save
        )

    def plan(
        self, session: Session, state: RequestState, tokens_complete: int, when: int
    ) -> list[StepJob]:
        """Plans what is complete up to a token count and covered by hashes; sends it at once."""
        if state.no_save or state.tainted or state.load is not None:
            return []
        covered = min(
            tokens_complete // self._block_tokens,
            len(state.request.block_hashes),
            len(state.blocks),
        )
        if state.verified < covered:
            state.verified = self._table.intact_prefix(
                state.blocks, state.held_at, state.verified, covered
            )
        first = max(state.saved, state.resident)
        end = min(covered, state.verified)
        if first >= end:
            return []
        # Blocks of a request that has ended may have been handed out again since, and filled.
        end = self._table.intact_prefix(state.blocks, state.held_at, first, end)
        return self._send(session, state, first, end, when) if first < end else []

    def _send(
        self, session: Session, state: RequestState, first: int, end: int, when: int
    ) -> list[StepJob]:
        ahead = self._send_chain(session, state)
        if ahead is None:
            return []
        records = ahead
        jobs: list[StepJob] = []
        events = self._events
        most = MAX_BLOCKS_A_PLAN
        if events is not None:
            most = min(most, events.blocks_a_plan(len(state.request.block_hashes[first])))
        for start in range(first, end, most):
            stop = min(start + most, end)
            ids = state.blocks[start:stop]
            if events is not None:
                records += events.facts(state, start, stop)
            job = self._new_job(session)
            records.append(PlanSave(job, state.number, start, ids, state.held_at[start:stop]))
            if not session.send(*records):
                # Dropped for now: the next step tries again, from the same block.
                self.ring_full += 1
                break
            records = []
            jobs.append(StepJob(job, session.boot_epoch, state.request_id, KIND_SAVE, when))
            state.sent = max(state.sent, len(state.request.block_hashes))
            state.saved = stop
            self.blocks += stop - start
        self.jobs += len(jobs)
        if events is not None:
            events.planned(len(jobs))
        return jobs

    def _send_chain(self, session: Session, state: RequestState) -> list[Record] | None:
        """Sends the hashes that are new but for the last record of them, which is returned.

        Each goes by itself: those of a long chain have no room in the ring at once.  ``None``: they
        have none now; the next step goes on where this one ended.
        """
        records = extensions(state)
        for record in records[:-1]:
            if not session.send(record):
                self.ring_full += 1
                return None
            state.sent = record.first_index + len(record.hashes) // record.hash_bytes
        return list(records[-1:])

    def plan_finished(
        self, session: Session, state: RequestState, tokens_complete: int
    ) -> list[StepJob]:
        """The last save of a request that has ended; its fence is before the next forward."""
        return self.plan(session, state, tokens_complete, BEFORE_FORWARD)

    def end(self, state: RequestState) -> None:
        """The sidecar may forget the request's chain, after the plans sent so far."""
        if state.sent:
            self._ends.append(EndRequest(state.number))

    def send_ends(self, session: Session) -> None:
        """Sends what ``end`` collected; what does not fit waits for the next step."""
        while self._ends:
            if not session.send(self._ends[0]):
                return
            self._ends.popleft()

    def new_session(self) -> None:
        """Another sidecar knows none of those chains."""
        self._ends.clear()
