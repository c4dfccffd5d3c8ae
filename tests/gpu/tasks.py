"""What an engine does when told: functions of an `Engine` that run in its own process."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gpu.engine import Engine, Served


@dataclass(frozen=True, slots=True)
class Timed:
    """One request on the machine's clock."""

    added_ns: int
    served: Served

    @property
    def ttft_ms(self) -> float:
        """From handing the request over to its first token."""
        return 1000 * self.served.ttft_s

    @property
    def first_token_ns(self) -> int:
        """When the front end had the first token."""
        return self.added_ns + round(1e9 * self.served.ttft_s)


@dataclass(frozen=True, slots=True)
class Turns:
    """A chat of many users: what it took and how much of it was cached."""

    seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


def timed(engine: Engine, prompt: Sequence[int], outputs: int = 2, *, reset: bool = False) -> Timed:
    """One request alone; with `reset` vLLM's own prefix cache is dropped before."""
    if reset and not engine.reset():
        raise RuntimeError("reset_prefix_cache() is false on an idle engine")
    added = time.monotonic_ns()
    return Timed(added, engine.alone(prompt, outputs))


def timed_beside_prefill(
    engine: Engine, prompt: Sequence[int], other: Sequence[int], delay_s: float, *, reset: bool
) -> Timed:
    """The same while another request, begun `delay_s` before, is computed in chunks."""
    if reset and not engine.reset():
        raise RuntimeError("reset_prefix_cache() is false on an idle engine")
    begun = time.perf_counter()
    background = engine.add(other, 1)
    time.sleep(delay_s)
    added = time.monotonic_ns()
    begin = time.perf_counter()
    name = engine.add(prompt, 2)
    served = engine.drain({name: begin, background: begun})
    return Timed(added, served[name])


def batch(
    engine: Engine, prompts: Sequence[Sequence[int]], outputs: int, *, reset: bool = False
) -> list[Served]:
    """These requests at once."""
    if reset and not engine.reset():
        raise RuntimeError("reset_prefix_cache() is false on an idle engine")
    return engine.together(prompts, outputs)


def fresh_batch(engine: Engine, seed: int, count: int, tokens: int, outputs: int) -> float:
    """Requests that nothing was cached of; seconds until the last has ended."""
    rng = random.Random(seed)
    vocabulary = int(engine.llm.model_config.get_vocab_size())
    prompts = [[rng.randrange(10, vocabulary) for _ in range(tokens)] for _ in range(count)]
    return max(one.end_s for one in engine.together(prompts, outputs))


def gaps_ms(
    engine: Engine, seed: int, sequences: int, outputs: int, tokens: int = 512
) -> list[float]:
    """Milliseconds between tokens of requests that decode together, prefills left out."""
    rng = random.Random(seed)
    vocabulary = int(engine.llm.model_config.get_vocab_size())
    prompts = [[rng.randrange(10, vocabulary) for _ in range(tokens)] for _ in range(sequences)]
    served = engine.together(prompts, outputs)
    # The one that began last: from its second token on nothing is prefilled any more.
    last = max(served, key=lambda one: one.ttft_s)
    stamps = last.token_at_s[1:]
    return [1000 * (b - a) for a, b in itertools.pairwise(stamps) if b > a]


def chat(
    engine: Engine, seed: int, users: int, first: int, added: int, turns: int, outputs: int
) -> Turns:
    """Users who talk at once: each turn's prompt is the talk so far and `added` new tokens."""
    rng = random.Random(seed)
    vocabulary = int(engine.llm.model_config.get_vocab_size())

    def words(count: int) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(count)]

    talks = [words(first) for _ in range(users)]
    prompt_tokens = cached = spoken = 0
    begun = time.perf_counter()
    for turn in range(turns):
        if turn:
            for talk in talks:
                talk += words(added - outputs)
        prompt_tokens += sum(map(len, talks))
        for talk, answer in zip(talks, engine.together(talks, outputs), strict=True):
            talk += answer.tokens
            cached += answer.cached
            spoken += len(answer.tokens)
    return Turns(time.perf_counter() - begun, prompt_tokens, cached, spoken)
