"""Greedy tokens are the same, whoever computed the keys and values."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from harness.engine import BLOCK_TOKENS
from harness.prompts import Prompt, loadable_tokens, random_tokens
from harness.zygote import EngineProcess

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Reference, assert_served

pytestmark = pytest.mark.both_versions


def test_cold_then_hits_together_tokens_equal(
    line: Line, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    cold = line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    equal(reference, cold)
    line.settle()
    line.engine.call(scenarios.reset)
    hits = line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    equal(reference, hits)
    # Saved by this run or shared with a neighbour that was just loaded: all blocks are there.
    there = [loadable_tokens(prompt, BLOCK_TOKENS) for prompt in reference.prompts]
    cached = [answer.cached_tokens for answer in hits]
    assert all(a <= b for a, b in zip(cached, there, strict=True))
    assert sum(cached) >= 0.9 * sum(there), f"{sum(cached)} of {sum(there)} tokens"
    counts["tokens served by the sidecar"] += sum(answer.external_tokens for answer in hits)


def test_each_alone_after_reset_every_whole_block_comes_from_the_sidecar(
    line: Line, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    line.settle()
    hits = line.engine.call(scenarios.run_alone, reference.token_ids, OUTPUT_TOKENS)
    equal(reference, hits)
    there = [loadable_tokens(prompt, BLOCK_TOKENS) for prompt in reference.prompts]
    assert_served(there, [answer.external_tokens for answer in hits])
    counts["tokens served by the sidecar"] += sum(answer.external_tokens for answer in hits)
    told = line.engine.call(scenarios.told_ahead)
    assert told > 0, "no load was taken up before a worker reported it"
    counts["loads taken up ahead of the worker's report"] += told


def test_questions_on_a_document_longer_than_a_step_are_all_saved(
    line: Line, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """They hit blocks that the first of them gets in the very step that admits them."""
    rng = random.Random(seed + 5)
    # Whoever is first computes it in five steps of 8 blocks; the last has room for another one.
    document = random_tokens(rng, 37 * BLOCK_TOKENS)
    questions = [document + random_tokens(rng, BLOCK_TOKENS + 8) for _ in range(4)]
    right = plain.call(scenarios.run, questions, OUTPUT_TOKENS)
    answers, hits = line.engine.call(
        scenarios.run_in_short_steps, questions, OUTPUT_TOKENS, 8 * BLOCK_TOKENS
    )
    assert [a.token_ids for a in answers] == [a.token_ids for a in right]
    assert hits > 0, "no question was admitted upon blocks of the same step"
    counts["hits on blocks of the same step"] += hits
    line.settle()
    answers = line.engine.call(scenarios.run_alone, questions, OUTPUT_TOKENS)
    assert [a.token_ids for a in answers] == [a.token_ids for a in right]
    assert_served([38 * BLOCK_TOKENS] * 4, [answer.external_tokens for answer in answers])
    counts["answers compared token by token"] += 2 * len(questions)


def test_partial_hits_only_the_shared_prefix_is_loaded(
    line: Line, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """Saved prefixes of every kind of length, continued differently."""
    rng = random.Random(seed + 1)
    saved = [
        random_tokens(rng, blocks * BLOCK_TOKENS + odd)
        for blocks in (1, 2, 5, 9)
        for odd in (-1, 0, 1, BLOCK_TOKENS // 2)
    ]
    longer = [prefix + random_tokens(rng, 3 * BLOCK_TOKENS + 7) for prefix in saved]
    line.engine.call(scenarios.run, saved, 1)
    line.settle()
    right = plain.call(scenarios.run, longer, OUTPUT_TOKENS)
    answers = line.engine.call(scenarios.run_alone, longer, OUTPUT_TOKENS)
    for prefix, expected, answer in zip(saved, right, answers, strict=True):
        assert answer.token_ids == expected.token_ids, f"prefix of {len(prefix)} tokens"
    there = [len(prefix) // BLOCK_TOKENS * BLOCK_TOKENS for prefix in saved]
    assert_served(there, [answer.external_tokens for answer in answers])
    counts["answers compared token by token"] += len(answers)


def test_local_hit_first_sidecar_serves_the_rest(
    line: Line, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """The engine holds the first k blocks, the sidecar all: the load begins at block k."""
    rng = random.Random(seed + 2)
    blocks = 10
    pairs = []
    for known in (0, 1, 4, 9):
        prompt = random_tokens(rng, blocks * BLOCK_TOKENS + 3)
        pairs.append((prompt[: known * BLOCK_TOKENS + (1 if known else 0)], prompt))
    prompts = [prompt for _, prompt in pairs]
    line.engine.call(scenarios.run, prompts, 1)
    line.settle()
    right = plain.call(scenarios.run, prompts, OUTPUT_TOKENS)
    answers = line.engine.call(scenarios.run_after, pairs, OUTPUT_TOKENS)
    assert [a.token_ids for a in answers] == [a.token_ids for a in right]
    there = [(blocks - len(part) // BLOCK_TOKENS) * BLOCK_TOKENS for part, _ in pairs]
    assert_served(there, [answer.external_tokens for answer in answers])
    counts["answers compared token by token"] += len(answers)


def test_shorter_prompts_after_a_load_find_each_block_in_its_place(
    line: Line, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """Blocks in each other's place change no answer to the prompt that loaded them."""
    rng = random.Random(seed + 4)
    whole = random_tokens(rng, 9 * BLOCK_TOKENS + 5)
    cuts = [whole[: blocks * BLOCK_TOKENS + 5] for blocks in range(1, 9)]
    line.engine.call(scenarios.run, [whole], 1)
    line.settle()
    line.engine.call(scenarios.reset)
    loaded = 0
    for _ in range(3):  # a lookup may answer 0, see assert_served
        line.engine.call(scenarios.reset)
        loaded = line.engine.call(scenarios.run, [whole], 1)[0].external_tokens
        if loaded:
            break
    assert loaded == 9 * BLOCK_TOKENS
    right = plain.call(scenarios.run, cuts, OUTPUT_TOKENS)
    answers = line.engine.call(scenarios.run, cuts, OUTPUT_TOKENS)
    for cut, expected, answer in zip(cuts, right, answers, strict=True):
        assert answer.external_tokens == 0
        assert answer.cached_tokens == loadable_tokens(Prompt(cut, ""), BLOCK_TOKENS)
        assert answer.token_ids == expected.token_ids, f"{len(cut)} tokens"
    counts["answers compared token by token"] += len(answers)


def test_generated_tokens_are_served_to_the_next_turn(
    line: Line, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """What decoding filled is saved too: a conversation continues from the sidecar."""
    rng = random.Random(seed + 3)
    turns = [random_tokens(rng, 2 * BLOCK_TOKENS + odd) for odd in (0, 1, 31)]
    first = line.engine.call(scenarios.run, turns, 3 * BLOCK_TOKENS)
    line.settle()
    second = [
        turn + answer.token_ids + random_tokens(rng, 9)
        for turn, answer in zip(turns, first, strict=True)
    ]
    right = plain.call(scenarios.run, second, OUTPUT_TOKENS)
    answers = line.engine.call(scenarios.run_alone, second, OUTPUT_TOKENS)
    assert [a.token_ids for a in answers] == [a.token_ids for a in right]
    # The last sampled token has no keys and values yet when its request ends.
    computed = [len(turn) + 3 * BLOCK_TOKENS - 1 for turn in turns]
    there = [tokens // BLOCK_TOKENS * BLOCK_TOKENS for tokens in computed]
    assert_served(there, [answer.external_tokens for answer in answers])
    counts["answers compared token by token"] += len(answers)
