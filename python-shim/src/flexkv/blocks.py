"""Which GPU blocks hold bytes that may be saved.

The generation table (shared with the sidecar) says when a block was last handed out; this module
adds, privately, at which count each block was last *filled* by a forward or a load.  Only a block
whose two counts agree holds what its present owner thinks it holds, and only who was shown it at
that very count is its present owner.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flexkv.session_api import Generations

if TYPE_CHECKING:
    import numpy.typing as npt

    _Words = npt.NDArray[np.uint64]

NEVER = (1 << 64) - 1
NULL_BLOCK = 0
"""vLLM's null block: written by warm-ups, shared by all, never planned, counted or reported."""

BULK = 64
"""From so many blocks of a request on they are looked at together: a few µs, however many."""


class BlockTable:
    """Counts of assignment and of filling for every GPU block.  Scheduler thread only.

    Nobody else raises the shared counters, so this side reads counts of its own.  A running request
    brings a block now and then, which is quickest looked at by itself; a prompt of thousands is on
    its way to the first token, and is an array (``array("I")``) that numpy sees as it lies.
    """

    def __init__(self, generations: Generations, num_blocks: int) -> None:
        self._shared = generations.counters
        self._num_blocks = num_blocks
        self._counts = array("Q", self._shared[:num_blocks])
        self._filled_at = array("Q", [NEVER]) * num_blocks
        self._counts_view = _words(self._counts)
        self._filled_view = _words(self._filled_at)
        # What is not memory (a table of a test) is only reached word by word.
        memory = isinstance(self._shared, memoryview)
        self._shared_view = _words(self._shared) if memory else None

    def assigned(self, block_ids: Sequence[int]) -> None:
        """These blocks, each named once but for the null block, have been handed out anew."""
        shared_view = self._shared_view
        if shared_view is not None and isinstance(block_ids, array) and len(block_ids) >= BULK:
            ids = _ids(block_ids)
            ids = ids[ids != NULL_BLOCK]
            raised = self._counts_view[ids] + np.uint64(1)
            self._counts_view[ids] = raised
            shared_view[ids] = raised
            return
        counts, shared = self._counts, self._shared
        for block_id in block_ids:
            if block_id != NULL_BLOCK:
                counts[block_id] = shared[block_id] = counts[block_id] + 1

    def assigned_to(self, held_at: array[int], block_ids: Sequence[int]) -> None:
        """The same for the few blocks that a running request got, whose counters it keeps."""
        counts, shared = self._counts, self._shared
        for block_id in block_ids:
            if block_id != NULL_BLOCK:
                counts[block_id] = shared[block_id] = counts[block_id] + 1
            held_at.append(counts[block_id])

    def filled(self, block_ids: Sequence[int]) -> None:
        """A scheduled step or an ok load writes every byte of these blocks."""
        if isinstance(block_ids, array) and len(block_ids) >= BULK:
            ids = _ids(block_ids)
            ids = ids[ids != NULL_BLOCK]
            self._filled_view[ids] = self._counts_view[ids]
            return
        counts, filled_at = self._counts, self._filled_at
        for block_id in block_ids:
            if block_id != NULL_BLOCK:
                filled_at[block_id] = counts[block_id]

    def intact_prefix(
        self, block_ids: Sequence[int], held_at: Sequence[int], start: int, end: int
    ) -> int:
        """The first index in [start, end) whose block does not hold what we saw written, else end.

        ``held_at`` are the counters of ``block_ids`` when their holder got them.  A block that has
        another counter by now is somebody else's, even if that one has filled it.
        """
        if isinstance(block_ids, array) and isinstance(held_at, array) and end - start >= BULK:
            ids = _ids(block_ids)[start:end]
            then = _words(held_at)[start:end]
            changed = (self._filled_view[ids] != then) | (self._counts_view[ids] != then)
            return start + int(changed.argmax()) if changed.any() else end
        counts, filled_at = self._counts, self._filled_at
        for index in range(start, end):
            block_id, then_at = block_ids[index], held_at[index]
            # Block 0 never counts as filled.
            if filled_at[block_id] != then_at or counts[block_id] != then_at:
                return index
        return end

    def generations(self, block_ids: Sequence[int]) -> array[int]:
        """The present counters."""
        if isinstance(block_ids, array) and len(block_ids) >= BULK:
            return array("Q", self._counts_view[_ids(block_ids)].tobytes())
        counts = self._counts
        return array("Q", [counts[block_id] for block_id in block_ids])

    def disown_all(self) -> None:
        """Nobody counts from here on: every save that is on its way must find other counters."""
        self.assigned(range(self._num_blocks))

    def forget_all(self) -> None:
        """After a reset nothing written before may be saved."""
        self._filled_view[:] = NEVER


def _words(memory: Any) -> _Words:
    """Counters of 64 bits as they lie; to be written through, too."""
    return np.frombuffer(memory, dtype=np.uint64)


def _ids(block_ids: array[int]) -> npt.NDArray[np.uint32]:
    """Block ids as they lie; not to be kept, for the array cannot grow meanwhile."""
    return np.frombuffer(block_ids, dtype=np.uint32)
