"""Asks the sidecar how deep a prefix is cached, for the Python API.

Unlike a scheduler step of vLLM (``lookups.py``), a match is a call that wants its answer: it spins
for a moment and then polls, at most ``MATCH_WAIT_S``.  What was not answered by then is a match of
nothing, its request is ended, so that a late answer leaves no lease, and until the sidecar is heard
again nobody waits longer than the moment.

Where a slower tier has more than the host tier, asking once more makes the sidecar fetch it.  It
says "ask again" until the first of it is there; a match asks so long (within the same second), and
then covers all of it.  A prefetch asks on, without keeping its caller, until the host tier has it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexkv import protocol as p
from flexkv.kvtask import Task, TaskStatus, TaskType
from flexkv.session import Session
from flexkv.tokens import KEY_BYTES, ChainHasher, KeyStream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MATCH_WAIT_S = 1.0
SPIN_US = 300.0
PREFETCH_S = 60.0
"""How long a prefetch may take."""

_POLL_S = 50e-6
_ASK_AGAIN_S = 1e-3
_PREFETCH_EVERY_S = 2e-3
_MAX_ENDS = 65_536
FIRST_BLOCKS = 64
"""Blocks that an eager put asks about first: a millisecond's copy, while the rest is prepared."""

_RECORDS_AT_ONCE = 3
"""Two of them hold 8,192 keys: a quarter of the ring to the sidecar."""


@dataclass(slots=True)
class _Prefetch:
    """A prefetch that runs, and the last answer about it."""

    task: Task
    deadline: float
    next_ask: float
    answer: p.LookupAnswer
    query: int = 0


def _deepest(answer: p.LookupAnswer) -> int:
    """Blocks that any tier has."""
    return max(answer.servable, answer.host, answer.ssd, answer.remote)


class Matcher:
    """The questions of one manager.  Called under its lock."""

    def __init__(self, hasher: ChainHasher) -> None:
        self.hasher = hasher
        self._session: Session | None = None
        self._query = 0
        self._request = 0
        self._silent = False
        self._ends: list[p.EndRequest] = []
        self._prefetches: dict[int, _Prefetch] = {}

    def attach(self, session: Session) -> None:
        """From here on questions go to this session; what an earlier one was owed is void."""
        if session is not self._session:
            self._session, self._silent, self._ends = session, False, []
        elif self._ends:
            self._send_ends(session)

    def heard(self) -> None:
        """The sidecar said something."""
        self._silent = False

    def is_ready(self, session: Session) -> bool:
        """Whether every rank is registered, asked by a question about nothing."""
        self._query += 1
        if not session.send(p.Lookup(self._query, 0, 1, 0, 1)):
            return False
        answer = self._await(session, self._query, time.monotonic() + MATCH_WAIT_S)
        return answer is not None and answer.status != p.LOOKUP_NOT_READY

    def next_query(self) -> int:
        """A number that no other question of this process has."""
        self._query += 1
        return self._query

    def end_request(self, session: Session, request: int) -> None:
        """Frees chain and lease of a request; at the next chance, if the ring is full."""
        if session is not self._session or not session.alive():
            return  # they went with their session
        end = p.EndRequest(request)
        if not session.send(end) and len(self._ends) < _MAX_ENDS:
            self._ends.append(end)

    def _send_ends(self, session: Session) -> None:
        if session.send(*self._ends[:512]):
            del self._ends[:512]

    # ------------------------------------------------------------------
    def match(
        self,
        task: Task,
        tokens: npt.NDArray[np.int64],
        first: int,
        end: int,
        namespace: Sequence[str] | None,
        *,
        cpu_only: bool = False,
        eager: bool = False,
    ) -> None:
        """Fills in what a task would move, of the chain's blocks [first, end).

        A task with nothing to move has ended when this returns.  An ``eager`` put, which is
        launched at once, asks about its first blocks alone: what is cached is a prefix, so one
        that is not there says that nothing behind it is.  The other keys are hashed while the
        first blocks are copied.
        """
        session = task.session
        assert session is not None
        keys = self.hasher.stream(tokens, namespace)
        deadline = time.monotonic() + MATCH_WAIT_S
        some = min(end, FIRST_BLOCKS) if eager else end
        ahead = min(end, some + FIRST_BLOCKS)
        answer = self._ask(session, task, keys, first, some, deadline, ahead)
        if some < end and answer is not None and answer.resident >= some:
            answer = self._ask(session, task, keys, first, end, deadline)
        if keys.given < end:
            task.keys = keys
        if answer is not None and task.kind is TaskType.GET and not cpu_only:
            answer = self._with_slower_tiers(session, task, answer, first, end, deadline)
        if answer is None or answer.status != p.LOOKUP_OK:
            lost = task.kind is TaskType.PUT
            task.end(TaskStatus.FAILED if lost else TaskStatus.COMPLETED, 0)
            self.end_request(session, task.request)
            return
        if task.kind is TaskType.PUT:
            first = max(first, min(answer.resident, end))
        else:
            # In the host tier it is served at once; what else is servable is on its way there.
            depth = min(answer.servable, answer.host) if cpu_only else answer.servable
            end = min(end, depth) if answer.lease_id else first
        task.first, task.blocks = first, max(0, end - first)
        task.lease, task.generation = answer.lease_id, answer.generation
        if task.blocks == 0:
            task.end(TaskStatus.COMPLETED, 0)
            self.end_request(session, task.request)

    def _ask(
        self,
        session: Session,
        task: Task,
        keys: KeyStream,
        first: int,
        end: int,
        deadline: float,
        ahead: int = 0,
    ) -> p.LookupAnswer | None:
        """Asks about the blocks before ``end``, after the keys that the sidecar has not yet.

        While the answer is on its way keys are hashed as far as block ``ahead``.
        """
        if task.request == 0:
            self._request += 1
            task.request = self._request
        self._query += 1
        begin, fresh, most = keys.given, keys.next_keys(end), p.MAX_KEYS_A_RECORD * KEY_BYTES
        records: list[p.Record] = [
            p.Extend(task.request, begin + at // KEY_BYTES, KEY_BYTES, fresh[at : at + most])
            for at in range(0, len(fresh), most)
        ]
        # A put wants no lease: it asks for nothing beyond what it has, and hears what is there.
        have, want = (end, 0) if task.kind is TaskType.PUT else (first, end - first)
        records.append(p.Lookup(self._query, task.request, end, have, want))
        if not self._send(session, records, deadline):
            return None
        keys.take(end)
        keys.make(ahead)
        return self._await(session, self._query, deadline)

    def _send(self, session: Session, records: list[p.Record], deadline: float) -> bool:
        """Sends a few at a time, since a long chain has no room in the ring at once.

        Waits for room until the deadline, but not for a sidecar that says nothing.
        """
        for at in range(0, len(records), _RECORDS_AT_ONCE):
            some = records[at : at + _RECORDS_AT_ONCE]
            while not session.send(*some):
                if self._silent or not session.alive() or time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_S)
        return True

    def _with_slower_tiers(
        self,
        session: Session,
        task: Task,
        answer: p.LookupAnswer,
        first: int,
        end: int,
        deadline: float,
    ) -> p.LookupAnswer | None:
        """The answer that covers what a slower tier has too, if there is such a thing."""
        last: p.LookupAnswer | None = answer
        asked = 1
        while last is not None and time.monotonic() < deadline:
            if last.status == p.LOOKUP_OK and (asked > 1 or _deepest(last) <= last.servable):
                return last
            if last.status not in (p.LOOKUP_OK, p.LOOKUP_PENDING):
                return last
            if last.status == p.LOOKUP_PENDING:
                time.sleep(_ASK_AGAIN_S)
            asked += 1
            self._query += 1
            lookup = p.Lookup(self._query, task.request, end, first, end - first)
            last = self._await(session, self._query, deadline) if session.send(lookup) else None
        return last

    # ------------------------------------------------------------------ prefetch
    def prefetch(self, task: Task, tokens: npt.NDArray[np.int64], end: int, names: Any) -> None:
        """Begins to bring a prefix into the host tier; ``advance`` ends the task."""
        session = task.session
        assert session is not None
        keys = self.hasher.stream(tokens, names)
        answer = self._ask(session, task, keys, 0, end, time.monotonic() + MATCH_WAIT_S)
        if answer is None or answer.status not in (p.LOOKUP_OK, p.LOOKUP_PENDING):
            task.end(TaskStatus.COMPLETED, 0)
            self.end_request(session, task.request)
            return
        task.status = TaskStatus.RUNNING
        task.blocks = end
        now = time.monotonic()
        self._prefetches[task.task_id] = _Prefetch(task, now + PREFETCH_S, now, answer)

    def advance(self) -> list[Task]:
        """Asks on for the prefetches that run; those that have ended."""
        ended: list[Task] = []
        now = time.monotonic()
        for prefetch in list(self._prefetches.values()):
            task = prefetch.task
            session = task.session
            assert session is not None
            seen = prefetch.answer
            if not session.alive() or now >= prefetch.deadline:
                task.end(TaskStatus.FAILED, min(seen.host, task.blocks) if session.alive() else 0)
            elif seen.status == p.LOOKUP_OK and seen.host >= min(_deepest(seen), task.blocks):
                task.end(TaskStatus.COMPLETED, min(seen.host, task.blocks))
            else:
                self._ask_on(session, prefetch, now)
                continue
            del self._prefetches[task.task_id]
            self.end_request(session, task.request)
            ended.append(task)
        return ended

    def _ask_on(self, session: Session, prefetch: _Prefetch, now: float) -> None:
        """One more question of a prefetch, if it is time; its answer comes to ``answered``."""
        if now < prefetch.next_ask:
            return
        prefetch.next_ask = now + _PREFETCH_EVERY_S
        self._query += 1
        blocks = prefetch.task.blocks
        if session.send(p.Lookup(self._query, prefetch.task.request, blocks, 0, blocks)):
            prefetch.query = self._query

    def answered(self, answer: p.LookupAnswer) -> None:
        """An answer that no call waited for: a prefetch's, or one that was given up."""
        for prefetch in self._prefetches.values():
            if prefetch.query == answer.query_id:
                prefetch.answer = answer

    def _await(self, session: Session, query: int, deadline: float) -> p.LookupAnswer | None:
        answer: Any = session.wait_for(query, 0.0 if self._silent else SPIN_US)
        if answer is None and not self._silent:
            while answer is None and session.alive() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                answer = session.wait_for(query, 0.0)
            self._silent = answer is None
        if isinstance(answer, p.LookupAnswer):
            self._silent = False
            return answer
        return None
