"""Which GPU blocks hold bytes that may be saved.

The generation table (shared with the sidecar) says when a block was last handed out; this module
adds, privately, at which count each block was last *filled* by a forward or a load.  Only a block
whose two counts agree holds what its present owner thinks it holds.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from flexkv.session_api import Generations

NEVER = (1 << 64) - 1
NULL_BLOCK = 0
"""vLLM's null block: written by warm-ups, shared by all, never planned, counted or reported."""


class BlockTable:
    """Counts of assignment and of filling for every GPU block.  Scheduler thread only.

    Nobody else raises the shared counters, so this side reads a list of its own: a prompt of
    thousands of blocks is looked at block by block in a scheduling step.
    """

    def __init__(self, generations: Generations, num_blocks: int) -> None:
        self._shared = generations.counters
        self._num_blocks = num_blocks
        self._counts = list(self._shared[:num_blocks])
        self._filled_at = [NEVER] * num_blocks

    def assigned(self, block_ids: Sequence[int]) -> None:
        """These blocks have been handed out anew."""
        counts, shared = self._counts, self._shared
        for block_id in block_ids:
            if block_id != NULL_BLOCK:
                counts[block_id] = shared[block_id] = counts[block_id] + 1

    def filled(self, block_ids: Sequence[int]) -> None:
        """A scheduled step or an ok load writes every byte of these blocks."""
        counts, filled_at = self._counts, self._filled_at
        for block_id in block_ids:
            if block_id != NULL_BLOCK:
                filled_at[block_id] = counts[block_id]

    def intact(self, block_id: int) -> bool:
        """Whether the block still holds what we saw written."""
        return block_id != NULL_BLOCK and self._filled_at[block_id] == self._counts[block_id]

    def intact_prefix(self, block_ids: Sequence[int], start: int, end: int) -> int:
        """The first index in [start, end) whose block is not intact, else ``end``."""
        counts, filled_at = self._counts, self._filled_at
        for index, block_id in enumerate(block_ids[start:end], start):
            if filled_at[block_id] != counts[block_id]:  # block 0 never counts as filled
                return index
        return end

    def generations(self, block_ids: Sequence[int]) -> tuple[int, ...]:
        """The present counters, for a save plan."""
        counts = self._counts
        return tuple([counts[block_id] for block_id in block_ids])

    def snapshot(self, block_ids: Sequence[int]) -> array[int]:
        """The present counters of blocks that are intact, ``NEVER`` for the others."""
        counts = self._counts
        return array("Q", [counts[b] if self.intact(b) else NEVER for b in block_ids])

    def same_prefix(
        self, block_ids: Sequence[int], then: Sequence[int], start: int, end: int
    ) -> int:
        """The first index in [start, end) whose block was handed out since a snapshot."""
        counts = self._counts
        for index in range(start, end):
            if then[index] != counts[block_ids[index]]:
                return index
        return end

    def disown_all(self) -> None:
        """Nobody counts from here on: every save that is on its way must find other counters."""
        self.assigned(range(self._num_blocks))

    def forget_all(self) -> None:
        """After a reset nothing written before may be saved."""
        self._filled_at = [NEVER] * self._num_blocks
