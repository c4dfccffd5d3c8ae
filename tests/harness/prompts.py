"""Seeded prompts whose lengths and shared prefixes fall where block arithmetic goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass

_FIRST_TOKEN = 3  # below are padding, start and end of text


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `note` says in a failure message why it is in the set."""

    token_ids: tuple[int, ...]
    note: str


def random_tokens(rng: random.Random, count: int, vocabulary: int = 1024) -> tuple[int, ...]:
    """`count` ordinary tokens."""
    return tuple(rng.randrange(_FIRST_TOKEN, vocabulary) for _ in range(count))


def family(
    rng: random.Random, block_tokens: int, count: int, longest_blocks: int = 20
) -> list[Prompt]:
    """`count` different prompts: a tree of shared prefixes, lengths around block boundaries.

    A third grows from a common root that ends on a boundary, a third from one that ends in the
    middle of a block, the rest shares nothing; lengths walk through n·B − 1, n·B, n·B + 1 and
    anything between.
    """
    even = random_tokens(rng, 6 * block_tokens)
    odd = random_tokens(rng, 4 * block_tokens + block_tokens // 2)
    prompts: list[Prompt] = []
    seen: set[tuple[int, ...]] = set()
    while len(prompts) < count:
        i = len(prompts)
        root, origin = ((even, "even root"), (odd, "odd root"), ((), "alone"))[i % 3]
        depth = rng.randrange(0, len(root) + 1) if i % 4 == 0 else len(root)
        blocks = rng.randrange(1, longest_blocks)
        length = max(2, blocks * block_tokens + (-1, 0, 1, rng.randrange(block_tokens))[i % 4])
        shared = root[: min(depth, length)]
        tokens = shared + random_tokens(rng, length - len(shared))
        if tokens in seen:
            continue
        seen.add(tokens)
        prompts.append(Prompt(tokens, f"#{i}: {length} tokens, {origin} of {len(shared)}"))
    return prompts


def loadable_tokens(prompt: Prompt, block_tokens: int) -> int:
    """Tokens a cache that holds the whole prompt may serve: whole blocks, never the last token."""
    return (len(prompt.token_ids) - 1) // block_tokens * block_tokens
