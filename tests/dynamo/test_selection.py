"""Dynamo's choice of a worker, weights and all, from our real bytes.

With its default weights a block in the CPU counts 0.75 and one on disk 0.25 of one in the GPU; what
is left to prefill is the prompt less that, to the token.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import checkout, processes
from harness.dynamo import Selection
from harness.modelless import BLOCK_TOKENS, Chain, ModellessEngine
from harness.routing import Rig, chain

from flexkv.protocol import TIER_SSD

BLOCKS = 16
HOST, DISK = 0.75, 0.25


@pytest.fixture
def selection() -> Iterator[Selection]:
    with Selection(checkout.LOGS / "dynamo-selection.log") as made:
        yield made


@pytest.fixture
def workers(rig: Rig, selection: Selection) -> tuple[ModellessEngine, ModellessEngine]:
    """A, with the sidecar; B, whose events the test writes."""
    first, second = rig.engine(), rig.engine()
    for worker, engine in enumerate((first, second), 1):
        selection.listen(worker, engine.endpoint, engine.replay_endpoint, BLOCK_TOKENS)
        wait_heard(selection, engine)
    return first, second


def wait_heard(selection: Selection, engine: ModellessEngine) -> None:
    """Until the service hears this worker: it subscribes after `listen` has returned."""
    rng = random.Random(engine.endpoint)

    def heard() -> bool:
        hello = chain(rng, BLOCKS)
        engine.gpu(hello, 0, BLOCKS)
        time.sleep(0.02)
        found = selection.select(hello.all_token_ids)
        return bool(found["overlap"]["gpu"] == BLOCKS * BLOCK_TOKENS)

    processes.wait_until(heard, 10, f"events of {engine.endpoint} arrive", 0.05)


def on_disk(engine: ModellessEngine, prompt: Chain, first: int, end: int) -> None:
    engine.publish(
        [
            engine.maker.stored(
                TIER_SSD,
                prompt.wire(i),
                prompt.wire(i - 1) if i else None,
                prompt.all_token_ids[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS],
                b"",
            )
            for i in range(first, end)
        ]
    )


def chosen(selection: Selection, prompt: Chain, left_tokens: float) -> dict[str, Any]:
    """The choice, once as much is left to prefill as the weights say."""
    found: dict[str, Any] = {}

    def arrived() -> bool:
        found.update(selection.select(prompt.all_token_ids))
        return bool(found["effective_prefill_tokens"] == left_tokens)

    try:
        processes.wait_until(arrived, 10, "events arrive", 0.1)
    except TimeoutError:
        left = found["effective_prefill_tokens"]
        raise AssertionError(f"{left} tokens left, wanted {left_tokens}: {found}") from None
    return found


def left(device: int = 0, host: int = 0, disk: int = 0) -> float:
    """Tokens left to prefill of a prompt of ``BLOCKS`` blocks, by Dynamo's weights."""
    return BLOCK_TOKENS * (BLOCKS - device - HOST * host - DISK * disk)


def test_prefix_in_one_workers_cpu_wins(
    selection: Selection, workers: tuple[ModellessEngine, ModellessEngine], seed: int
) -> None:
    prompt = chain(random.Random(seed), BLOCKS)
    workers[0].save(prompt)
    workers[0].settle()
    found = chosen(selection, prompt, left(host=BLOCKS))
    assert found["worker_id"] == 1
    assert found["overlap"] == {
        "longest_matched": 256, "gpu": 0, "dp": {"0": 0}, "cpu": 256, "disk": 256,
    }  # fmt: skip


def test_gpu_and_cpu_of_one_worker_add_up(
    selection: Selection, workers: tuple[ModellessEngine, ModellessEngine], seed: int
) -> None:
    prompt = chain(random.Random(seed), BLOCKS)
    first, _ = workers
    first.gpu(prompt, 0, 4)
    first.save(prompt)
    first.settle()
    assert chosen(selection, prompt, left(device=4, host=12))["worker_id"] == 1
    first.gpu_evicts(prompt, 0, 4)
    assert chosen(selection, prompt, left(host=16))["worker_id"] == 1


@pytest.mark.parametrize(("gpu", "winner"), [(8, 1), (13, 2)])
def test_sixteen_blocks_in_the_cpu_against_fewer_in_the_gpu(
    selection: Selection,
    workers: tuple[ModellessEngine, ModellessEngine],
    seed: int,
    gpu: int,
    winner: int,
) -> None:
    prompt = chain(random.Random(seed), BLOCKS)
    first, second = workers
    second.gpu(prompt, 0, gpu)
    chosen(selection, prompt, left(device=gpu))
    first.save(prompt)
    first.settle()
    wanted = left(host=16) if winner == 1 else left(device=gpu)
    assert chosen(selection, prompt, wanted)["worker_id"] == winner


@pytest.mark.parametrize(("cpu", "winner"), [(5, 2), (6, 1)])
def test_sixteen_blocks_on_disk_against_fewer_in_the_cpu(
    rig: Rig,
    selection: Selection,
    workers: tuple[ModellessEngine, ModellessEngine],
    seed: int,
    cpu: int,
    winner: int,
) -> None:
    prompt = chain(random.Random(seed), BLOCKS)
    first, second = workers
    on_disk(second, prompt, 0, 16)
    chosen(selection, prompt, left(disk=16))
    first.save(Chain.of(prompt.all_token_ids[: cpu * BLOCK_TOKENS]))
    first.settle()
    wanted = left(host=cpu) if winner == 1 else left(disk=16)
    assert chosen(selection, prompt, wanted)["worker_id"] == winner


def test_evicted_everywhere_nobody_is_better(
    selection: Selection, workers: tuple[ModellessEngine, ModellessEngine], seed: int
) -> None:
    prompt = chain(random.Random(seed), BLOCKS)
    first, _ = workers
    first.save(prompt)
    first.settle()
    chosen(selection, prompt, left(host=BLOCKS))
    first.reset()
    first.settle()
    chosen(selection, prompt, left())
