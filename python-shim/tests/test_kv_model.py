"""A random walk of two managers over one cache, against a dictionary that remembers every put.

The pool is larger than all that is put, so nothing is evicted: what the dictionary has must be
found, what it has not must not, and every byte that a get brings is compared.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kv_rig import Fleet, Shape, own_sidecar, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv.common.request import KVResponseStatus

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

BLOCKS = 40
SEEDS = (1, 2, 3)
STEPS = 300


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60) as found:
        yield found


class Walk:
    """Both managers, what was put, and what is matched and not launched yet."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        model = uuid.uuid4().hex
        shape = Shape("kv-first", layers=2, block_tokens=4, head_size=8, tp=2)
        self.size = shape.block_tokens
        self.fleets = [Fleet.start(shape, model=model, blocks=BLOCKS, client=c) for c in range(2)]
        self.known: set[tuple[Any, ...]] = set()
        self.matched: list[tuple[int, Fleet, list[int], str, int, int]] = []
        self.gets = self.puts = self.hits = self.resets = self.cancels = 0

    def prompt(self) -> tuple[list[int], str]:
        """A path in a small tree, so that prefixes are shared, and one of two namespaces."""
        length = self.rng.randrange(0, 9 * self.size)
        tokens = [self.rng.randrange(2) if i % self.size == 0 else 7 for i in range(length)]
        space = self.rng.choice(["", "lora"])
        if self.known and self.rng.random() < 0.5:
            space, *stem = self.rng.choice(sorted(self.known))
            tokens = [*stem, *tokens[: self.rng.randrange(3 * self.size)]]
        return tokens, space

    def depth(self, tokens: list[int], space: str) -> int:
        blocks = len(tokens) // self.size
        for n in range(blocks):
            if (space, *tokens[: (n + 1) * self.size]) not in self.known:
                return n
        return blocks

    def remember(self, tokens: list[int], space: str) -> None:
        for n in range(len(tokens) // self.size):
            self.known.add((space, *tokens[: (n + 1) * self.size]))

    def content_tokens(self, tokens: list[int], space: str) -> list[int]:
        """What the bytes depend on: another namespace has other bytes for the same tokens."""
        return [t + 100 for t in tokens] if space else tokens

    # ------------------------------------------------------------------ steps
    def put(self) -> None:
        fleet = self.rng.choice(self.fleets)
        tokens, space = self.prompt()
        have, blocks = self.depth(tokens, space), len(tokens) // self.size
        names = [space] if space else None
        source = self.rng.sample(range(BLOCKS), blocks)
        fleet.fill(self.content_tokens(tokens, space), source)
        if self.rng.random() < 0.5:
            task = fleet.manager.put_async(tokens, fleet.slots(source), namespace=names)
        else:
            task, mask = fleet.manager.put_match(tokens, namespace=names)
            assert mask.sum() == (blocks - have) * self.size
            fleet.manager.launch(task, fleet.slots(source[have:]))
        answer = fleet.manager.wait(task)[task]
        assert answer.status is KVResponseStatus.SUCCESS
        assert answer.return_mask.sum() == (blocks - have) * self.size
        self.remember(tokens, space)
        self.puts += 1

    def match(self) -> None:
        fleet = self.rng.choice(self.fleets)
        tokens, space = self.prompt()
        first = self.rng.randrange(len(tokens) // self.size + 1)
        asked = [i >= first * self.size for i in range(len(tokens))]
        task, mask = fleet.manager.get_match(tokens, asked, namespace=[space] if space else None)
        end = max(first, self.depth(tokens, space))
        seen = [i for i, flag in enumerate(mask) if flag]
        assert seen == list(range(first * self.size, end * self.size))
        if seen:
            self.matched.append((task, fleet, tokens, space, first, end))

    def launch(self) -> None:
        if not self.matched:
            return
        at = self.rng.randrange(len(self.matched))
        task, fleet, tokens, space, first, end = self.matched.pop(at)
        if self.rng.random() < 0.3:
            fleet.manager.cancel(task)
            assert fleet.manager.wait(task)[task].status is KVResponseStatus.CANCELLED
            self.cancels += 1
            return
        target = self.rng.sample(range(BLOCKS), end - first)
        fleet.wipe(target)
        fleet.manager.launch(task, fleet.slots(target))
        answer = fleet.manager.wait(task)[task]
        assert answer.status is KVResponseStatus.SUCCESS
        assert answer.return_mask.sum() == (end - first) * self.size
        fleet.check(self.content_tokens(tokens, space), target, first)
        self.gets += 1
        self.hits += end - first

    def reset(self) -> None:
        """Either manager forgets for both; what is matched by then must not be served."""
        self.rng.choice(self.fleets).manager.reset()
        self.known.clear()
        for task, fleet, _, _, first, end in self.matched:
            target = self.rng.sample(range(BLOCKS), end - first)
            fleet.wipe(target)
            fleet.manager.launch(task, fleet.slots(target))
            answer = fleet.manager.wait(task)[task]
            assert answer.status is KVResponseStatus.FAILED
            assert not answer.return_mask.any()
        self.matched.clear()
        self.resets += 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            draw = self.rng.random()
            if draw < 0.25:
                self.put()
            elif draw < 0.60:
                self.match()
            elif draw < 0.99:
                self.launch()
            else:
                self.reset()
        for task, fleet, *_ in self.matched:
            fleet.manager.cancel(task)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_walk_agrees_with_a_dictionary(address: str, seed: int) -> None:
    walk = Walk(seed)
    try:
        walk.run(STEPS)
        wait_for_no_leaks(address)
        assert status(address)["cache"]["evicted_blocks"] == 0, "the dictionary forgets nothing"
        print(
            f"seed {seed}: {walk.puts} puts, {walk.gets} gets, {walk.hits} blocks compared, "
            f"{walk.cancels} cancelled, {walk.resets} resets"
        )
        assert min(walk.puts, walk.gets, walk.hits, walk.cancels, walk.resets) > 0
    finally:
        for fleet in walk.fleets:
            fleet.close()
