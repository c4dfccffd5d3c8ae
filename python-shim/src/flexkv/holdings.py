"""Which GPU blocks each request holds, counted as vLLM hands them out within a step.

A block is *new* when vLLM shows it first: in ``update_state_after_alloc`` the entries of the table
from max(known, local hit) on, in ``build_connector_meta`` the new blocks of running requests.
``ref_cnt`` and ``block_hash`` cannot tell: fresh prompt blocks carry a hash already.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

from flexkv.blocks import BlockTable
from flexkv.requests import RequestState


class Holdings:
    """Keeps ``blocks``, ``known``, ``held_at`` of every request; raises the table's counters.

    Scheduler thread only; what is counted are blocks.  ``states`` are the requests by their ids, as
    their owner keeps them; only looked up here.  ``by_priority``: vLLM may take blocks away again
    in the step that gave them.  ``loads_resume_as_new``: see ``older_vllm``.

    vLLM's scheduler gives running requests their blocks, then admits others, and only at the step's
    end says what the running ones got and lost.  So ``shown`` comes first, for each request as it
    is admitted or its load begins, and ``end_step`` once behind them all, before anything is
    planned or counted as filled: a plan carries ``held_at``, and a block counts as filled at the
    counter it has then.  ``taken`` comes when vLLM asks for a request that must hold nothing.
    """

    def __init__(
        self,
        table: BlockTable,
        states: Mapping[str, RequestState],
        *,
        by_priority: bool = False,
        loads_resume_as_new: bool = False,
    ) -> None:
        self._table = table
        self._states = states
        self._by_priority = by_priority
        self._loads_resume_as_new = loads_resume_as_new
        self._shown: set[str] = set()
        self._hits: list[RequestState] = []
        self.pool: Any = None
        """vLLM's pool of GPU blocks, from 0.22.1 on; only looked at, see ``_forget_unseen``."""

    def shown(self, state: RequestState, block_ids: list[int]) -> None:
        """This is the request's whole table; beyond its local hit all that was not known is new."""
        state.blocks = array("I", block_ids)
        if state.local and not state.known:
            self._hits.append(state)
        self._table.assigned(state.blocks[max(state.known, state.local) :])
        state.held_at.extend(self._table.generations(state.blocks[state.known :]))
        state.known = len(block_ids)
        self._shown.add(state.request_id)

    def end_step(self, output: Any) -> None:
        """Counts what the step's output tells of: blocks got, hits on these, blocks lost.

        In this order: a hit on blocks that are got in the same step is held at the counters that
        getting them raised.
        """
        self._count_new_blocks(output)
        self._hold_hits()
        self._forget_preempted(output)

    def taken(self, state: RequestState) -> None:
        """The request holds no blocks; if it did, it was preempted, or its load failed."""
        if state.known and self._loads_resume_as_new:
            state.no_load = True
        state.forget_blocks()

    def _count_new_blocks(self, output: Any) -> None:
        """Raises the counters of blocks that running requests got in this step.

        New and resumed requests have shown their whole table in ``update_state_after_alloc``.
        """
        cached = output.scheduled_cached_reqs
        resumed = cached.resumed_req_ids
        for request_id, groups in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if groups is None or request_id in resumed:
                continue
            new = groups[0]
            state = self._states.get(request_id)
            if state is None:
                self._table.assigned(new)
            else:
                self._table.assigned_to(state.held_at, new)
                state.blocks.extend(new)
                state.known = len(state.blocks)

    def _hold_hits(self) -> None:
        """Takes the counters of this step's local hits again, now that all its blocks are counted.

        vLLM gives running requests their blocks, and hashes these, before it admits anybody: a hit
        may be on blocks that the connector is told of only at the step's end.  Who got them in this
        step got them before the hit, and nobody can since: the hit holds them.  (A step that took
        blocks away again admits nobody.)
        """
        for state in self._hits:
            hit = min(state.local, state.known)
            state.held_at[:hit] = self._table.generations(state.blocks[:hit])
        self._hits.clear()

    def _forget_preempted(self, output: Any) -> None:
        """A preempted request holds no blocks, unless it was resumed in this very step."""
        shown, self._shown = self._shown, set()
        preempted = getattr(output, "preempted_req_ids", None)
        if not preempted:
            return
        lost = [
            state
            for request_id in preempted
            if (state := self._states.get(request_id)) is not None and request_id not in shown
        ]
        self._forget_unseen(lost)
        for state in lost:
            self.taken(state)

    def _forget_unseen(self, preempted: list[RequestState]) -> None:
        """Blocks that a request got and lost in this very step, of which no output tells.

        By priority vLLM may take them from a request that it has scheduled already.  They have the
        hashes of what its forward would have written, and hold, and count as filled with, what was
        there before: the next hit on them would be saved.  So blocks of its next hashes that nobody
        holds count as handed out anew, unless who lost them just now had them for that very hash.
        """
        if self.pool is None or not self._by_priority:
            return
        had: dict[int, bytes] = {}
        for state in preempted:
            had.update(zip(state.blocks, state.request.block_hashes, strict=False))
        unseen: set[int] = set()
        for state in preempted:
            for block_hash in state.request.block_hashes[state.known :]:
                found = self.pool.get_cached_block(block_hash, [0])
                if found and found[0].ref_cnt == 0 and had.get(found[0].block_id) != block_hash:
                    unseen.add(found[0].block_id)
        self._table.assigned(sorted(unseen))
