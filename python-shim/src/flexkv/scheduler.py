"""The scheduler side: what to look up, what to load, what to save.

Lives in vLLM's scheduler thread; every method is one hook of the connector.  It never sleeps: an
answer that is not there is asked for again in a later step.  The rules are those of "Never wrong
bytes" in the design; the comments name the vLLM behaviour each depends on.

* A block may be saved once we saw it filled since it was handed out (``blocks.BlockTable``, and
  ``holdings`` for who holds it), and with it everything before it: a hole ends what can be saved,
  because the sidecar keeps chains.
* With c tokens computed, s scheduled and H covered by hashes, blocks up to min(c, H) are complete
  before this step's forward, those up to min(c + s, H) after it.  A hash may exist one step before
  the KV of its last token, and drafts may count as computed before they are confirmed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from flexkv.arrivals import Arrivals
from flexkv.blocks import BlockTable
from flexkv.events import EventFeed
from flexkv.granted import GrantedLoads
from flexkv.holdings import Holdings
from flexkv.lookups import LookupLimits, Lookups
from flexkv.metadata import AFTER_FORWARD, BEFORE_FORWARD, StepJob, StepMetadata
from flexkv.older_vllm import Parking, whole_table
from flexkv.owed_reset import OwedReset
from flexkv.protocol import (
    JobDone,
    KvNotice,
    LookupAnswer,
    Record,
    ResetAnswer,
    SaveDone,
    job_id,
)
from flexkv.pulse import Pulse
from flexkv.requests import Offer, RequestState
from flexkv.saves import SavePlanner
from flexkv.session_api import SchedulerLink, Session

logger = logging.getLogger(__name__)

RESET_WAIT_US = 50_000.0
RESET_SPIN_US = 50.0
MAX_FINISHED_KEPT = 256
"""Ended requests whose last save waits for a sidecar that is not ready; the oldest give way."""


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """What the engine is: tokens of a scheduler block, GPU blocks, ranks, what it lets us do.

    ``lockstep``: its steps are those of other engines too.
    ``by_priority``: blocks may come and go within one step, see ``holdings``.
    ``reads_ahead``: the last block of a match is not to be loaded, see ``_loadable``.
    ``admits_without_room``, ``shows_new_blocks_only`` and ``resumes_loads_as_new``: this vLLM is
    before 0.23, before 0.14, see ``older_vllm``.
    """

    block_tokens: int
    num_blocks: int
    can_load: bool = True
    can_save: bool = True
    ranks: int = 1
    lockstep: bool = False
    reads_ahead: bool = False
    by_priority: bool = False
    admits_without_room: bool = False
    shows_new_blocks_only: bool = False
    resumes_loads_as_new: bool = False


_Scheduled = tuple[RequestState, int]
"""A request, and the tokens that this step computes (or, at its end, that it had computed)."""


class SchedulerSide:
    """Plans loads and saves for one engine.  Not thread-safe; vLLM's scheduler thread only."""

    def __init__(
        self,
        facts: SchedulerFacts,
        link: SchedulerLink,
        limits: LookupLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        log_interval_requests: int = 200,
        events: EventFeed | None = None,
        load_wait_ms: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._facts = facts
        self._link = link
        self._table = BlockTable(link.generations, facts.num_blocks)
        self.lookups = Lookups(facts.block_tokens, limits or LookupLimits(), clock)
        self.events = events
        self.arrivals = Arrivals(
            facts.ranks, load_wait_ms / 1000, clock, sleep, lockstep=facts.lockstep
        )
        self.saves = SavePlanner(facts.block_tokens, self._table, self._new_job, events)
        self._states: dict[str, RequestState] = {}
        self.holdings = Holdings(
            self._table,
            self._states,
            by_priority=facts.by_priority,
            loads_resume_as_new=facts.resumes_loads_as_new,
        )
        self._parking = (
            Parking(facts.num_blocks, facts.block_tokens) if facts.admits_without_room else None
        )
        self.loads = GrantedLoads(
            facts.block_tokens, self._table, self._states, self.arrivals, self._parking,
            self._new_job,
        )  # fmt: skip
        self.barred: Container[str] = ()
        """Request ids that nothing may be loaded for, see ``older_vllm``."""
        self._session: Session | None = None
        self._next_number = 1
        self._next_job = 1
        self._finished: list[tuple[RequestState, int]] = []
        self._answer_waits = False
        self._reset = OwedReset(self.lookups.next_query)
        self.blocks_committed = self.blocks_dropped = 0
        self._pulse = Pulse(log_interval_requests, facts.block_tokens)

    # ------------------------------------------------------------------ hooks, in vLLM's order
    def on_new_request(self, request: Any) -> None:
        """Starts the lookup while the request waits in the queue."""
        state = self._state(request)
        session = self._ready_session()
        if session is not None and self._may_load(state):
            self.lookups.ask(session, state, first_block=0)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Tokens that can be loaded beyond the local hit; ``None`` = ask again next step.

        vLLM asks only for a request that holds no blocks (fresh, preempted, or after a load that
        failed from its first block), so whatever we knew of its table is void.
        """
        state = self._state(request)
        self.holdings.taken(state)
        state.offer = None
        if self._parking is not None:
            self._parking.leave([state.request_id])
        state.local, partial = divmod(num_computed_tokens, self._facts.block_tokens)
        session = self._ready_session()
        if partial or session is None or not self._may_load(state):
            return 0, False
        wanted = self.lookups.loadable_blocks(state) - state.local
        if wanted <= 0:
            return 0, False
        answer, again = self.lookups.answer(
            session, state, self._dispatch, alone=len(self._states) == 1
        )
        if answer is None:
            return (None if again else 0), False
        blocks = min(self._loadable(answer) - state.local, wanted)
        if blocks <= 0 or answer.lease_id == 0 or session is not self._ready_session():
            return 0, False
        if self._parking is not None and not self._finds_room(self._parking, state):
            # Who is parked will run soon; with nobody parked there is nothing to wait for.
            wait = len(self._parking) > 0 and self.lookups.may_be_put_off(state)
            return (None if wait else 0), False
        state.offer = Offer(answer.lease_id, answer.generation, state.local, blocks)
        return blocks * self._facts.block_tokens, True

    def update_state_after_alloc(
        self, request: Any, block_ids: list[int], num_external_tokens: int
    ) -> None:
        """Blocks were allocated: count the new blocks, then plan the load that it granted.

        ``block_ids`` is the whole table (before vLLM 0.14 what is new in it).  Called a second
        time, with 0 tokens, once an asynchronous load has ended.
        """
        state = self._state(request)
        if self._facts.shows_new_blocks_only:
            block_ids = whole_table(state.blocks, block_ids)
        self.holdings.shown(state, block_ids)
        state.asks = 0
        if num_external_tokens > 0:
            self.loads.open(self._ready_session(), state, num_external_tokens)

    def build_connector_meta(self, output: Any) -> StepMetadata:
        """Counts the step's new blocks, plans its saves, and hands all jobs to the workers."""
        self._answer_waits = False  # what earlier steps brought is out by now
        self.lookups.new_step()
        if self._parking is not None:
            self._parking.leave(output.num_scheduled_tokens)
        self.holdings.end_step(output)
        states, nothing_to_do = self._states, self.saves.nothing_to_do
        scheduled = [
            (state, tokens)
            for request_id, tokens in output.num_scheduled_tokens.items()
            if (state := states.get(request_id)) is not None and not nothing_to_do(state, tokens)
        ]
        session = self._ready_session() if self._facts.can_save else None
        if session is not None and not self._takes_saves(session, scheduled):
            self._put_finished_off()
            session, saves = None, []
        else:
            saves = self._plan_finished(session)
        saves += self._plan_scheduled(session, scheduled)
        live = self._live_session()
        if live is not None:
            self.saves.send_ends(live)
        self.lookups.end_step()
        meta = self.loads.take()
        meta.jobs += saves
        return meta

    def update_connector_output(self, output: Any) -> None:
        """Loads have ended: what the ranks report, and what the sidecar says ahead of them.

        Where a request has ended with this step, the last of its answer goes out when this hook is
        through: nothing is waited for.
        """
        answer_waits, self._answer_waits = self._answer_waits, False
        self.loads.reported(output, self._is_attached)
        if self.loads and not answer_waits:
            self.loads.wait(self._is_attached)
        self.loads.tell_ahead(output)

    def request_finished(self, request: Any) -> None:
        """The last save goes into the next step; a finish alone forces one more step.

        A request whose load is open gets no save: its computed tokens are only promised.  vLLM
        keeps its blocks until every rank has reported the load.
        """
        self._answer_waits = True
        state = self._states.pop(request.request_id, None)
        if state is None:
            return
        if self._parking is not None and state.load is None:
            self._parking.leave([state.request_id])
        self.lookups.forget(state)
        self._pulse.finished(self, state)
        self._finished.append((state, request.num_computed_tokens))

    def reset_cache(self) -> bool:
        """Nothing saved before is served from this call on, whatever the sidecar does.

        Until it has confirmed the reset (at once, or when it can be reached again) lookups answer
        0 and nothing is saved.  Requests that hold blocks now computed them before the reset: they
        save nothing more.  Their open loads end as failed.
        """
        self._reset.owe()
        self._table.forget_all()
        self.lookups.reset()
        self.loads.make_void()
        for state in self._states.values():
            held = state.known > 0
            state.forget_session()
            state.tainted = held
        session = self._live_session()
        if session is not None and self._reset.owed:
            self._dispatch(self._reset.wait_for(session, RESET_WAIT_US))
        return True

    def take_events(self) -> list[Any]:
        """KV events of this step; removes of everything while there is no sidecar."""
        feed = self.events
        if feed is None:
            return []
        session = self._live_session()
        events = feed.take()
        if session is not None:
            feed.tell(session.send)
        return events

    def keeps_engine_awake(self) -> bool:
        """Whether an idle engine should step on, because events wait for a step to go out with."""
        feed = self.events
        return feed is not None and self._live_session() is not None and feed.keeps_engine_awake()

    def abandon(self) -> None:
        """This side failed and counts no assignment any more: no save that is open may commit."""
        self._table.disown_all()
        self.arrivals.leave_all()
        if self.events is not None:
            self.events.lost()

    def reset_abandoned(self) -> None:
        """A reset of a side that failed: the sidecar serves others, and this engine's next life.

        Goes out now, or by ``send_owed_reset`` once there is a session.
        """
        self._reset.owe()
        self.send_owed_reset()

    def send_owed_reset(self) -> None:
        """All that a side that failed still does: nothing of what may have broken it is touched."""
        session = self._link.session() if self._reset.owed else None
        if session is None or not session.alive() or not self._reset.ask(session):
            return
        answer = self._reset.wait_for(session, RESET_SPIN_US)
        if isinstance(answer, ResetAnswer):
            self._reset.heard(answer)

    def shutdown(self) -> None:
        """Ends the session; the sidecar frees what this engine held."""
        self._link.close()

    # ------------------------------------------------------------------ the session
    def _live_session(self) -> Session | None:
        """The present session, heard out, with a reset that is owed sent first."""
        session = self._link.session()
        if session is not self._session:
            self._session = session
            self.lookups.new_session()
            self.saves.new_session()
            self.arrivals.new_session()
            for state in self._states.values():
                state.forget_session()
            for state, _ in self._finished:
                state.forget_session()
            if self.events is not None and session is not None:
                self.events.attached()
        if session is None or not session.alive():
            if self.events is not None:
                self.events.lost()
            return None
        for record in session.poll():
            self._dispatch(record)
        return session if self._reset.ask(session) else None

    def _is_attached(self) -> bool:
        """Hears the sidecar out; false when it is gone."""
        return self._live_session() is not None

    def _ready_session(self) -> Session | None:
        """The present session, unless it has a reset to confirm."""
        session = self._live_session()
        return None if self._reset.owed else session

    def _dispatch(self, record: Record | None) -> None:
        if record is None:
            return
        self.lookups.heard()
        if isinstance(record, LookupAnswer):
            self.lookups.arrived(record)
        elif isinstance(record, ResetAnswer):
            if not self._reset.heard(record):
                logger.warning(
                    "FlexKV serves nothing more: the sidecar cannot make a reset durable on its "
                    "SSD tier. Its log says what is wrong; restart it then"
                )
        elif isinstance(record, JobDone):
            self.arrivals.heard(record)
        elif isinstance(record, KvNotice):
            if self.events is not None:
                self.events.heard(record)
        elif isinstance(record, SaveDone):
            if self.events is not None:
                self.events.save_done()
            self.blocks_committed += record.committed
            self.blocks_dropped += record.dropped

    # ------------------------------------------------------------------ requests
    def _state(self, request: Any) -> RequestState:
        state = self._states.get(request.request_id)
        if state is None:
            state = RequestState(self._next_number, request.request_id, request)
            self._next_number += 1
            # A streaming session drops its last token but may keep that token's block hash.
            resumable = bool(getattr(request, "resumable", False))
            state.no_save = resumable or not self._facts.can_save
            state.no_load = (
                resumable
                or not self._facts.can_load
                or bool(getattr(request, "skip_reading_prefix_cache", False))
                or request.request_id in self.barred
            )
            self._states[request.request_id] = state
        return state

    @staticmethod
    def _may_load(state: RequestState) -> bool:
        return not (state.no_load or state.load_failed)

    # ------------------------------------------------------------------ saves
    def _takes_saves(self, session: Session, scheduled: list[_Scheduled]) -> bool:
        """Whether every rank is registered: before, what is planned would be dropped for good."""
        if not self.lookups.ready:
            candidates = (*scheduled, *self._finished)
            self.lookups.probe(session, (state for state, _ in candidates))
            self._live_session()
        return self.lookups.ready

    def _put_finished_off(self) -> None:
        """The last saves of requests that have ended wait for a sidecar that takes them."""
        for state, _ in self._finished[:-MAX_FINISHED_KEPT]:
            self.saves.end(state)
        self._finished = self._finished[-MAX_FINISHED_KEPT:]

    def _plan_finished(self, session: Session | None) -> list[StepJob]:
        """The last saves of requests that have ended."""
        finished, self._finished = self._finished, []
        saves: list[StepJob] = []
        for state, tokens in finished:
            if session is not None:
                saves += self.saves.plan_finished(session, state, tokens)
            self.saves.end(state)
        return saves

    def _plan_scheduled(
        self, session: Session | None, scheduled: list[_Scheduled]
    ) -> list[StepJob]:
        """Saves of what is complete before this step's forward, and after it.

        A block that this very step fills may already be another request's local hit: before the
        forward only what earlier steps filled counts.
        """
        saves: list[StepJob] = []
        # What the sidecar has of a request whose lookup is not answered yet we do not know: its
        # blocks are planned in a later step, if at all.
        planned = [one for one in scheduled if not self.lookups.is_open(one[0])]
        if session is not None:
            for state, _ in planned:
                done = state.request.num_computed_tokens
                saves += self.saves.plan(session, state, done, BEFORE_FORWARD)
        for state, tokens in scheduled:
            self.saves.mark_filled(state, tokens)
        if session is not None:
            for state, tokens in planned:
                done = state.request.num_computed_tokens + tokens
                saves += self.saves.plan(session, state, done, AFTER_FORWARD)
        return saves

    # ------------------------------------------------------------------ loads
    def _loadable(self, answer: LookupAnswer) -> int:
        """Blocks of the request's chain that hold what its forward would have written.

        A drafter that reads ahead makes its KV of a block's last token out of the next block's
        first, which the block's hash does not cover: only where that next block is matched too
        are the draft layers' bytes this request's own (but for one position where chains branch,
        see the decision).  vLLM drops its own hit's last block alike.
        """
        return answer.servable - 1 if self._facts.reads_ahead else answer.servable

    def _finds_room(self, parking: Parking, state: RequestState) -> bool:
        others = (int(other.request.num_tokens) for other in self._states.values())
        return parking.fits(int(state.request.num_tokens), others)

    def _new_job(self, session: Session | None) -> int:
        counter = self._next_job
        self._next_job += 1
        return counter if session is None else job_id(session.session_id, counter)
