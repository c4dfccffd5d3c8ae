"""Tasks of the Python API: what one get, put or prefetch is, from match to end.

``KVTaskEngine``, the original's in-process engine, is ``KVManager`` here: the sidecar runs tasks.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from flexkv.common.request import KVResponse, KVResponseStatus
from flexkv.slots import mask_of

if TYPE_CHECKING:
    from flexkv.common.request import Mask
    from flexkv.session import Session
    from flexkv.tokens import KeyStream

__all__ = ["KVResponse", "KVResponseStatus", "Task", "TaskStatus", "TaskTable", "TaskType"]

MAX_OPEN_TASKS = 16_000
"""Matched and running tasks of one manager; the sidecar keeps a chain for each."""

MAX_ENDED_TASKS = 10_000
"""Ended tasks whose answer is kept for ``wait``; the oldest are forgotten."""


class TaskStatus(Enum):
    """Where a task stands; ``UNREADY`` is matched and not launched."""

    UNREADY = "unready"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TaskType(Enum):
    """What a task does; a batch is many of one kind under one id."""

    GET = "get"
    PUT = "put"
    PREFETCH = "prefetch"
    BATCH_GET = "batch_get"
    BATCH_PUT = "batch_put"


_ENDED = {
    TaskStatus.COMPLETED: KVResponseStatus.SUCCESS,
    TaskStatus.CANCELLED: KVResponseStatus.CANCELLED,
    TaskStatus.FAILED: KVResponseStatus.FAILED,
}


@dataclass(slots=True, eq=False)
class Task:
    """One task.  ``first`` and ``blocks`` name the chain blocks that it moves.

    ``tokens`` is the length of its ``token_ids``, ``done`` counts, from ``first`` on, the blocks
    that were moved.  ``session`` is the life of the sidecar that the match belongs to, ``request``
    its name there.  ``keys`` has those of its chain that the sidecar has not been told yet.
    """

    task_id: int
    kind: TaskType
    tokens: int
    block_tokens: int
    session: Session | None
    request: int = 0
    first: int = 0
    blocks: int = 0
    lease: int = 0
    generation: int = 0
    status: TaskStatus = TaskStatus.UNREADY
    done: int = 0
    jobs_open: int = 0
    keys: KeyStream | None = None
    parts: list[Task] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        if self.parts:
            return all(part.ended for part in self.parts)
        return self.status in _ENDED

    @property
    def wanted_mask(self) -> Mask:
        """The tokens that it moves, or moved, if all goes well."""
        return mask_of(self.tokens, self.first, self.first + self.blocks, self.block_tokens)

    def end(self, status: TaskStatus, done: int) -> None:
        """The task is over, ``done`` blocks of it went well; its prompt is let go."""
        self.status, self.done, self.keys = status, done, None

    def fitting(self, ids: list[int]) -> list[int]:
        """Its GPU blocks, from those that a slot mapping names; raises ``ValueError``.

        The mapping is of the tokens in its mask, or of the whole prefix; a get takes the first of
        a longer one.
        """
        if self.kind is TaskType.GET and len(ids) >= self.blocks:
            chosen = ids[: self.blocks]
        elif len(ids) == self.blocks:
            chosen = ids
        elif len(ids) >= self.first + self.blocks:
            chosen = ids[self.first : self.first + self.blocks]
        else:
            raise ValueError(
                f"slot_mapping of task {self.task_id} has {len(ids)} full blocks, must have the "
                f"{self.blocks} that its mask names"
            )
        if self.kind is TaskType.GET and len(set(chosen)) != len(chosen):
            raise ValueError(f"slot_mapping of task {self.task_id} names a GPU block twice")
        return chosen

    def response(self) -> KVResponse:
        """The answer for a task that has ended."""
        if not self.parts:
            end = self.first + self.done
            mask = mask_of(self.tokens, self.first, end, self.block_tokens)
            return KVResponse(_ENDED[self.status], self.task_id, mask)
        answers = [part.response() for part in self.parts]
        good = all(a.status is KVResponseStatus.SUCCESS for a in answers)
        status = KVResponseStatus.SUCCESS if good else KVResponseStatus.FAILED
        return KVResponse(status, self.task_id, [a.return_mask for a in answers])


class TaskTable:
    """The tasks that are open, and the last ones that ended.  One thread at a time."""

    def __init__(self, first_id: int) -> None:
        self._next_id = first_id
        self._open: OrderedDict[int, Task] = OrderedDict()
        self._ended: OrderedDict[int, Task] = OrderedDict()

    def new_id(self) -> int:
        """An id that no other task of this manager has."""
        self._next_id += 1
        return self._next_id - 1

    def add(self, task: Task) -> None:
        """Takes a new task in."""
        self._open[task.task_id] = task
        self.settle(task)

    def get(self, task_id: int) -> Task | None:
        """The task, unless it is not known (any more)."""
        return self._open.get(task_id) or self._ended.get(task_id)

    def settle(self, task: Task) -> None:
        """Moves a task that has ended to those of which only the answer is kept."""
        if task.ended and self._open.pop(task.task_id, None) is not None:
            self._ended[task.task_id] = task
            if len(self._ended) > MAX_ENDED_TASKS:
                self._ended.popitem(last=False)

    def merge(self, parts: list[Task], kind: TaskType) -> Task:
        """One task in place of several, whose ids are known no more."""
        for part in parts:
            self._open.pop(part.task_id, None)
            self._ended.pop(part.task_id, None)
        batch = Task(self.new_id(), kind, 0, parts[0].block_tokens, None, parts=parts)
        self._open[batch.task_id] = batch
        return batch

    def oldest_unlaunched(self) -> Task | None:
        """Where the table is full: the task that has waited longest for its launch."""
        if len(self._open) < MAX_OPEN_TASKS:
            return None
        return next((t for t in self._open.values() if t.status is TaskStatus.UNREADY), None)

    @property
    def is_full(self) -> bool:
        """Whether no further task may be opened."""
        return len(self._open) >= MAX_OPEN_TASKS

    @property
    def open_tasks(self) -> list[Task]:
        """The tasks that have not ended."""
        return list(self._open.values())
