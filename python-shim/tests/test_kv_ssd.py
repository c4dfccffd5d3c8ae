"""The Python API over a host tier that is smaller than what was put: the rest comes from disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kv_matrix import HOST_BLOCKS, put_get_verify_from_disk
from kv_rig import Shape, sidecar_environment, wait_for_no_leaks
from real_sidecar import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

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


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_blocks_that_left_the_host_tier_come_back_from_disk(address: str, shape: Shape) -> None:
    assert put_get_verify_from_disk(shape, address, model="ssd") > 0
    wait_for_no_leaks(address)
