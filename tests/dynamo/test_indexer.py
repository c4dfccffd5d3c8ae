"""Dynamo's real index reads our real bytes: tiers, removal, re-announcement, restart, order."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from harness import processes
from harness.dynamo import Indexer
from harness.modelless import BLOCK_TOKENS, Chain, ModellessEngine
from harness.routing import Rig, chain, held, listen, make_rig, ours, wait_equal

from flexkv.protocol import TIER_SSD

B = BLOCK_TOKENS


def reach(router: Indexer, tokens: list[int], worker: int = 1) -> tuple[int, int, int]:
    """Blocks of a prompt in (gpu, cpu, disk) of a worker, cumulative."""
    found = router.query(tokens).get(worker, {"gpu": 0, "cpu": 0, "disk": 0})
    return found["gpu"] // B, found["cpu"] // B, found["disk"] // B


def wait_reach(router: Indexer, tokens: list[int], wanted: tuple[int, int, int]) -> None:
    processes.wait_until(
        lambda: reach(router, tokens) == wanted, 10, f"(gpu, cpu, disk) of {wanted} blocks"
    )


def test_saved_chain_is_found_in_the_cpu_tier(rig: Rig, indexer: Indexer, seed: int) -> None:
    engine = rig.engine()
    listen(indexer, engine)
    prompt = chain(random.Random(seed), 12)
    engine.save(prompt)
    engine.settle()
    wait_reach(indexer, prompt.all_token_ids, (0, 12, 12))
    wait_equal(indexer, held(engine, 1))


def test_cpu_continues_the_gpu_chain_and_stays_when_the_gpu_evicts(
    rig: Rig, indexer: Indexer, seed: int
) -> None:
    engine = rig.engine()
    listen(indexer, engine)
    prompt = chain(random.Random(seed), 10)
    engine.gpu(prompt, 0, 4)
    engine.save(prompt)
    engine.settle()
    wait_reach(indexer, prompt.all_token_ids, (4, 10, 10))
    engine.gpu_evicts(prompt, 2, 4)
    wait_reach(indexer, prompt.all_token_ids, (2, 10, 10))
    engine.gpu_evicts(prompt, 0, 2)
    wait_reach(indexer, prompt.all_token_ids, (0, 10, 10))


def test_blocks_on_disk_reach_further_than_those_in_the_cpu(
    rig: Rig, indexer: Indexer, seed: int
) -> None:
    """Of the disk tier only the events are ours to test here: stores first, then removes."""
    engine = rig.engine()
    listen(indexer, engine)
    prompt = chain(random.Random(seed), 6)
    engine.publish([stored(engine, prompt, i) for i in range(6)])
    wait_reach(indexer, prompt.all_token_ids, (0, 0, 6))
    engine.publish([engine.maker.removed(TIER_SSD, prompt.wire(5))])
    wait_reach(indexer, prompt.all_token_ids, (0, 0, 5))


def stored(engine: ModellessEngine, prompt: Chain, index: int) -> Any:
    """The event of one block on disk."""
    parent = prompt.wire(index - 1) if index else None
    tokens = prompt.all_token_ids[index * B : (index + 1) * B]
    return engine.maker.stored(TIER_SSD, prompt.wire(index), parent, tokens, b"")


def test_evicted_blocks_are_gone(folder: Path, indexer: Indexer, seed: int) -> None:
    rig = make_rig(folder, FLEXKV_NUM_CPU_BLOCKS="64", FLEXKV_CPU_CACHE_GB="0.05")
    try:
        engine = rig.engine()
        listen(indexer, engine)
        rng = random.Random(seed)
        prompts = [chain(rng, 16) for _ in range(12)]
        for prompt in prompts:
            engine.save(prompt)
        engine.settle()
        wait_equal(indexer, held(engine, 1))
        assert len(ours(indexer)) == rig.sidecar.counters()["ready_blocks"] <= 64
        assert reach(indexer, prompts[0].all_token_ids) == (0, 0, 0)
        assert reach(indexer, prompts[-1].all_token_ids) == (0, 16, 16)
    finally:
        rig.close()


def test_cleared_router_is_told_everything_again(rig: Rig, indexer: Indexer, seed: int) -> None:
    engine = rig.engine()
    listen(indexer, engine)
    prompt = chain(random.Random(seed), 9)
    engine.gpu(prompt, 0, 9)
    engine.save(prompt)
    engine.settle()
    wait_reach(indexer, prompt.all_token_ids, (9, 9, 9))
    engine.forget()
    engine.settle()
    wait_reach(indexer, prompt.all_token_ids, (0, 9, 9))
    wait_equal(indexer, held(engine, 1))


def test_reset_leaves_nothing(rig: Rig, indexer: Indexer, seed: int) -> None:
    engine = rig.engine()
    listen(indexer, engine)
    engine.save(chain(random.Random(seed), 9))
    engine.settle()
    wait_equal(indexer, held(engine, 1))
    assert ours(indexer)
    engine.reset()
    engine.settle()
    wait_equal(indexer, set())


def test_dead_sidecars_blocks_are_gone_the_next_ones_found(
    rig: Rig, indexer: Indexer, seed: int
) -> None:
    engine = rig.engine()
    listen(indexer, engine)
    rng = random.Random(seed)
    before, after = chain(rng, 9), chain(rng, 7)
    engine.save(before)
    engine.settle()
    wait_reach(indexer, before.all_token_ids, (0, 9, 9))
    rig.restart()
    wait_reach(indexer, before.all_token_ids, (0, 0, 0))
    engine.save(after)
    engine.settle()
    wait_reach(indexer, after.all_token_ids, (0, 7, 7))
    wait_equal(indexer, held(engine, 1))


def test_two_workers_of_one_sidecar_both_have_every_block(
    rig: Rig, indexer: Indexer, seed: int
) -> None:
    first, second = rig.engine(), rig.engine()
    listen(indexer, first, second)
    prompt = chain(random.Random(seed), 8)
    first.save(prompt)
    for engine in (first, second):
        engine.settle()
    wait_equal(indexer, held(first, 1) | held(second, 2))
    assert reach(indexer, prompt.all_token_ids, 2) == (0, 8, 8)


def test_router_that_comes_late_asks_for_what_it_missed(
    rig: Rig, indexer: Indexer, seed: int
) -> None:
    engine = rig.engine()
    rng = random.Random(seed)
    early, late = chain(rng, 5), chain(rng, 4)
    engine.save(early)
    engine.settle()
    listen(indexer, engine)
    engine.save(late)
    engine.settle()
    wait_equal(indexer, held(engine, 1))
    assert reach(indexer, early.all_token_ids) == (0, 5, 5)


def test_hundred_thousand_stores_evictions_and_restarts_equal_block_for_block(
    folder: Path, indexer: Indexer, seed: int, counts: Counter[str]
) -> None:
    """Chains with shared prefixes into a pool too small for them, resets, restarts."""
    rig = make_rig(folder, FLEXKV_NUM_CPU_BLOCKS="3000", FLEXKV_CPU_CACHE_GB="0.05")
    rng = random.Random(seed)
    try:
        engine = rig.engine()
        listen(indexer, engine)
        roots = [chain(rng, rng.randrange(1, 20)) for _ in range(12)]
        events = 0
        for number in range(100_000):
            if engine.feed.stored + engine.feed.removed >= 100_000:
                break
            prefix = rng.choice(roots)
            engine.save(chain(rng, len(prefix.block_hashes) + rng.randrange(1, 40), prefix))
            if rng.random() < 0.8:
                engine.step()
            if number in (300, 900):
                rig.restart()
            if number == 600:
                engine.reset()
            if number % 250 == 249:
                engine.settle()
                wait_equal(indexer, held(engine, 1), 60)
                counts["indexes compared block for block"] += 1
        engine.settle()
        wait_equal(indexer, held(engine, 1), 60)
        assert len(ours(indexer)) == rig.sidecar.counters()["ready_blocks"]
        events = engine.feed.stored + engine.feed.removed
        assert events >= 100_000
        counts["events in the random run"] += events
        counts["blocks in the last index compared"] += len(ours(indexer))
    finally:
        rig.close()
