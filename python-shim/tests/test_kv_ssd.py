"""The Python API over a host tier that is smaller than what was put: the rest comes from disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kv_rig import Fleet, Shape, sidecar_environment, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv.common.request import KVResponseStatus
from flexkv.options import BY_KEY

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(
        BY_KEY["ssd_cache_gb"].status != "works", reason="this version has no SSD tier"
    ),
]

HOST_BLOCKS, PROMPTS, DEPTH = 64, 12, 16
SHAPES = (
    Shape("kv-first", kv_heads=8, head_size=64),
    Shape("blockfirst", kv_heads=4, tp=2, dtype=torch.bfloat16),
    Shape("flat", kv_heads=1, head_size=72, kv_dim=1),
)


@pytest.fixture
def address() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(
            Path(folder), num_cpu_blocks=HOST_BLOCKS, cpu_cache_gb=0.14, ssd_cache_gb=0.5,
            ssd_cache_dir=f"{folder}/ssd", idle_exit_s=60,
        ) as found,
    ):  # fmt: skip
        yield found


def put_all(fleet: Fleet, address: str) -> list[list[int]]:
    """Three times what the host tier holds; each prompt once the one before lies on disk."""
    size = fleet.shape.block_tokens
    prompts = [[p * 10_000 + i for i in range(DEPTH * size)] for p in range(PROMPTS)]
    for number, tokens in enumerate(prompts):
        fleet.fill(tokens, range(DEPTH))
        task = fleet.manager.put_async(tokens, fleet.slots(range(DEPTH)))
        answer = fleet.manager.wait(task)[task]
        assert answer.status is KVResponseStatus.SUCCESS
        assert answer.return_mask.all()
        deadline = time.monotonic() + 20
        while status(address)["ssd"]["written_blocks"] < (number + 1) * DEPTH:
            assert time.monotonic() < deadline, status(address)["ssd"]
            time.sleep(0.01)
    return prompts


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_blocks_that_left_the_host_tier_come_back_from_disk(address: str, shape: Shape) -> None:
    fleet = Fleet.start(shape, model="ssd")
    try:
        prompts = put_all(fleet, address)
        assert status(address)["cache"]["host_blocks"] <= HOST_BLOCKS
        for number, tokens in enumerate(prompts):
            if number % 2:
                task = fleet.manager.prefetch_async(tokens)
                answer = fleet.manager.wait(task)[task]
                assert answer.status is KVResponseStatus.SUCCESS
                assert answer.return_mask.all(), "it is in the host tier now"
                task, mask = fleet.manager.get_match(tokens, cpu_only=True)
            else:
                task, mask = fleet.manager.get_match(tokens)
            assert mask.all()
            fleet.wipe(range(20, 20 + DEPTH))
            fleet.manager.launch(task, fleet.slots(range(20, 20 + DEPTH)))
            assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS
            fleet.check(tokens, range(20, 20 + DEPTH))
        wait_for_no_leaks(address)
    finally:
        fleet.close()
