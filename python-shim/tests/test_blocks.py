"""What a table of blocks says must not depend on how many are looked at together."""

from __future__ import annotations

import random
import struct
from array import array

import pytest

from flexkv.blocks import BULK, NEVER, NULL_BLOCK, BlockTable
from flexkv.protocol import PlanLoad, PlanSave
from flexkv.ring import GenerationTable

BLOCKS = 6 * BULK


class Plain:
    """The same, block by block."""

    def __init__(self) -> None:
        self.counts = [0] * BLOCKS
        self.filled_at = [NEVER] * BLOCKS

    def assigned(self, ids: array[int]) -> None:
        for block in ids:
            self.counts[block] += block != NULL_BLOCK

    def filled(self, ids: array[int]) -> None:
        for block in ids:
            if block != NULL_BLOCK:
                self.filled_at[block] = self.counts[block]

    def intact_prefix(self, ids: array[int], held_at: array[int], start: int, end: int) -> int:
        for index in range(start, end):
            block = ids[index]
            if block == NULL_BLOCK or not (
                self.filled_at[block] == self.counts[block] == held_at[index]
            ):
                return index
        return end


@pytest.mark.parametrize("seed", range(20))
def test_table_over_shared_memory_is_what_block_by_block_makes_of_it(seed: int) -> None:
    rng = random.Random(seed)
    generations = GenerationTable(BLOCKS)
    table, plain = BlockTable(generations, BLOCKS), Plain()
    for _ in range(60):
        count = rng.choice([1, 3, BULK - 1, BULK, 3 * BULK])
        ids = array("I", rng.sample(range(BLOCKS), count))
        if rng.random() < 0.3:  # a table may name the null block more than once
            ids.extend([NULL_BLOCK, NULL_BLOCK])
        action = rng.choice(["assigned", "filled", "filled"])
        held_at = array("Q")
        if action == "assigned" and rng.random() < 0.5:
            table.assigned_to(held_at, ids)
        else:
            getattr(table, action)(ids)
        getattr(plain, action)(ids)
        assert list(generations.counters[:BLOCKS]) == plain.counts
        start = rng.randrange(len(ids))
        end = rng.randint(start, len(ids))
        held_at = held_at or table.generations(ids)
        assert list(held_at) == [plain.counts[block] for block in ids]
        for _ in range(rng.randrange(3)):  # shown at another count than it has now
            held_at[rng.randrange(len(ids))] += 1
        expected = plain.intact_prefix(ids, held_at, start, end)
        assert table.intact_prefix(ids, held_at, start, end) == expected
        assert table.intact_prefix(list(ids), list(held_at), start, end) == expected
        ids.append(1)  # nothing holds on to its memory
        held_at.append(1)
    table.forget_all()
    every = array("I", range(1, BLOCKS))
    assert table.intact_prefix(every, table.generations(every), 0, BLOCKS - 1) == 0
    table.disown_all()
    assert list(generations.counters[1:BLOCKS]) == [count + 1 for count in plain.counts[1:]]


def test_plan_of_an_array_is_that_of_a_tuple() -> None:
    ids = (7, 1, (1 << 32) - 1)
    as_array = PlanLoad(5, 2, 9, 1, 4, array("I", ids)).encode()
    assert as_array == PlanLoad(5, 2, 9, 1, 4, ids).encode()
    assert as_array.endswith(struct.pack("<3I", *ids))
    save = PlanSave(5, 2, 4, ids, (1, 2, 1 << 63))
    counters = array("Q", save.generations)
    assert PlanSave(5, 2, 4, array("I", ids), counters).encode() == save.encode()
