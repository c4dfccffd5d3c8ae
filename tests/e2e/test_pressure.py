"""Too little room: in the sidecar's pool, in the engine's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from harness import checkout
from harness.engine import BLOCK_TOKENS
from harness.prompts import random_tokens
from harness.zygote import EngineProcess

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Lines, Reference


def distinct_blocks(reference: Reference) -> int:
    """Different whole blocks in all prompts: what a cache without a limit would hold."""
    seen = {
        prompt.token_ids[:end]
        for prompt in reference.prompts
        for end in range(BLOCK_TOKENS, len(prompt.token_ids) + 1, BLOCK_TOKENS)
    }
    return len(seen)


def test_pool_of_a_third_tokens_equal_and_some_hits(
    lines: Lines,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    seed: int,
) -> None:
    third = distinct_blocks(reference) // 3
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": {"num_cpu_blocks": third}}
    line = lines(flag=flag)
    rng = random.Random(seed)
    hits = 0
    for _ in range(3):
        order = list(range(len(reference.prompts)))
        rng.shuffle(order)
        for start in range(0, len(order), 12):
            some = order[start : start + 12]
            prompts = [reference.token_ids[i] for i in some]
            answers = line.engine.call(scenarios.run, prompts, OUTPUT_TOKENS)
            equal(reference, answers, some)
            hits += sum(answer.external_tokens for answer in answers)
            line.engine.call(scenarios.reset)
    evicted = line.sidecar.counters()["evicted_blocks"]
    counts["blocks evicted under pressure"] += evicted
    counts["tokens served under pressure"] += hits
    assert evicted > third, f"{evicted} blocks evicted from a pool of {third}: no pressure"
    assert hits > 0
    line.settle()
    line.assert_nothing_held()


@pytest.mark.both_versions
def test_blocks_reused_before_their_save_old_keys_get_no_new_bytes(
    lines: Lines, plain: EngineProcess, seed: int, counts: Counter[str]
) -> None:
    """A save is late and its blocks hold other prompts by then: it must be dropped."""
    rng = random.Random(seed)
    line = lines(blocks=70)
    first = [random_tokens(rng, 5 * BLOCK_TOKENS + 3) for _ in range(4)]
    others = [random_tokens(rng, 6 * BLOCK_TOKENS + 3) for _ in range(25)]
    right = plain.call(scenarios.run, first, OUTPUT_TOKENS)
    reused = line.engine.call(
        scenarios.reuse_blocks_before_their_save, first, others, line.sidecar.pid
    )
    counts["blocks reused before their save"] += reused
    assert reused > 0, "the engine's pool is too large for this test"
    line.settle()
    answers = line.engine.call(scenarios.run_alone, first, OUTPUT_TOKENS)
    for number, (answer, expected) in enumerate(zip(answers, right, strict=True)):
        assert answer.token_ids == expected.token_ids, (
            f"prompt {number}: {answer.external_tokens} tokens were loaded"
        )
    counts["answers compared token by token"] += len(answers)
    line.settle()
    line.assert_nothing_held()


def test_small_engine_pool_preempted_requests_answer_right(
    lines: Lines, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    """A pool for three or four requests at a time, with up to sixteen running."""
    line = lines(blocks=70, batched_tokens=256)
    for _ in range(2):
        answers = line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
        equal(reference, answers)
        line.settle()
    preemptions, failed = line.engine.call(scenarios.counters)
    counts["preemptions"] += preemptions
    assert preemptions > 0, "no pressure: the engine preempted nobody"
    assert failed == 0
    assert sum(answer.external_tokens for answer in answers) > 0
    line.assert_nothing_held()
