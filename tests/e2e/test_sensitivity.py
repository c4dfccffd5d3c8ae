"""Can a comparison of tokens see wrong keys and values at all? In plain vLLM, without FlexKV.

A wrong block must change the answer (docs/decisions/0003). Two blocks of one prompt in each other's
place do *not*: attention sums over a set, and a key carries its position in itself. Such a mistake
shows only when a shorter prompt finds the first of them in the engine's prefix cache, so the tests
of equality ask for shorter prompts, too.
"""

from __future__ import annotations

import random
from collections import Counter

from harness.engine import BLOCK_TOKENS
from harness.prompts import random_tokens
from harness.zygote import EngineProcess

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS

_BLOCKS = 8
_LENGTH = _BLOCKS * BLOCK_TOKENS + 5


def test_block_of_another_prompt_tokens_differ(
    plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    rng = random.Random(seed)
    seen = planted = 0
    for _ in range(3):
        prompt, foreign = random_tokens(rng, _LENGTH), random_tokens(rng, _LENGTH)
        right, wrong = plain.call(scenarios.with_a_foreign_block, prompt, foreign, OUTPUT_TOKENS)
        planted += len(wrong)
        seen += sum(answer.token_ids != right.token_ids for answer in wrong)
    counts["wrong blocks planted in plain vLLM"] += planted
    counts["wrong blocks that changed the tokens"] += seen
    assert planted == 3 * _BLOCKS
    # One answer may survive one block; nearly all must not, or equality proves nothing.
    assert seen >= 0.9 * planted, f"only {seen} of {planted} wrong blocks were seen"


def test_blocks_exchanged_a_shorter_prompt_differs(
    plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    prompt = random_tokens(random.Random(seed), _LENGTH)
    pairs = plain.call(scenarios.with_exchanged_blocks, prompt, OUTPUT_TOKENS)
    seen = sum(right.token_ids != wrong.token_ids for right, wrong in pairs)
    counts["wrong blocks planted in plain vLLM"] += len(pairs)
    counts["wrong blocks that changed the tokens"] += seen
    assert len(pairs) == _BLOCKS - 1
    assert seen >= 0.9 * len(pairs), f"only {seen} of {len(pairs)} exchanges were seen"
