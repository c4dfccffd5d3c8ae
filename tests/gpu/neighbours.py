"""How often blocks that a load brings back are neighbours on the GPU, now and when they were saved.

A model of vLLM's free list: blocks are taken from its head, a request's go back to its tail from
the last to the first. Requests come and go, each grows by a block every 16 steps, every other one
shares a prefix with an earlier request and loads it. No GPU, no vLLM:

    python tests/gpu/neighbours.py
"""

from __future__ import annotations

import random
import sys
from collections import deque
from dataclasses import dataclass, field

POOL_BLOCKS = 8192
STEPS = 20_000
PROMPT_BLOCKS = (31, 500)  # log-uniform: 500 to 8,000 tokens
ANSWER_STEPS = (96, 512)
REMEMBERED = 200  # requests that a later one may share a prefix with


@dataclass
class Request:
    """One that runs."""

    blocks: list[int]
    ends_after: int
    steps: int = 0


@dataclass
class Engine:
    """The free list, and what was saved where."""

    rng: random.Random
    free: deque[int] = field(default_factory=lambda: deque(range(1, POOL_BLOCKS)))
    running: list[Request] = field(default_factory=list)
    saved: list[list[int]] = field(default_factory=list)
    loads: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def start(self) -> None:
        """A new request: its blocks come from the head of the list."""
        low, high = PROMPT_BLOCKS
        count = int(low * (high / low) ** self.rng.random())
        blocks = [self.free.popleft() for _ in range(count)]
        if self.saved and self.rng.random() < 0.5:
            known = self.rng.choice(self.saved)
            shared = min(len(known), count)
            self.loads.append((known[:shared], blocks[:shared]))
        self.saved = [*self.saved[-REMEMBERED:], list(blocks)]
        self.running.append(Request(blocks, self.rng.randint(*ANSWER_STEPS)))

    def step(self, users: int) -> None:
        """One scheduling step."""
        while len(self.running) < users and len(self.free) > PROMPT_BLOCKS[1] + users:
            self.start()
        for request in list(self.running):
            request.steps += 1
            if request.steps % 16 == 0 and self.free:
                request.blocks.append(self.free.popleft())
            if request.steps >= request.ends_after:
                self.free.extend(reversed(request.blocks))
                self.running.remove(request)


def share_in_runs(
    pairs: list[tuple[list[int], list[int]]], least: int, *, saved_too: bool
) -> float:
    """Share of the loaded blocks that lie in runs of at least so many neighbours."""
    inside = total = 0
    for saved, loaded in pairs:
        length = 1
        before = 0
        for i in range(1, len(loaded) + 1):
            step = loaded[i] - loaded[i - 1] if i < len(loaded) else 0
            goes_on = abs(step) == 1 and (length == 1 or step == before)
            if goes_on and saved_too:
                goes_on = saved[i] - saved[i - 1] == step
            if goes_on:
                length += 1
                before = step
                continue
            inside += length if length >= least else 0
            total += length
            length = 1
    return inside / total


def main() -> int:
    """Prints the table."""
    say = sys.stdout.write
    say("requests at once | loads | blocks in runs of 8 | and in the same order when saved\n")
    for users in (1, 4, 24, 64):
        engine = Engine(random.Random(1))
        for _ in range(STEPS):
            engine.step(users)
        pairs = engine.loads[len(engine.loads) // 4 :]
        now = share_in_runs(pairs, 8, saved_too=False)
        both = share_in_runs(pairs, 8, saved_too=True)
        say(f"{users:16d} | {len(pairs):5d} | {now:19.0%} | {both:.0%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
