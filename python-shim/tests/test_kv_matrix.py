"""The put/get/verify matrix of the Python API on CPU memory, against the real sidecar."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kv_matrix import SHAPES, put_get_verify
from kv_rig import Shape, sidecar_environment, wait_for_no_leaks
from real_sidecar import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(Path(folder), idle_exit_s=60) as found,
    ):
        yield found


@pytest.mark.parametrize("shape", SHAPES, ids=[f"{s.name}-b{s.block_tokens}" for s in SHAPES])
def test_put_get_any_shape_brings_the_same_bytes(address: str, shape: Shape) -> None:
    assert put_get_verify(shape) > 0
    wait_for_no_leaks(address)


def test_put_get_over_messages_in_place_of_rings(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines whose stores Python cannot order."""
    monkeypatch.setenv("FLEXKV_RINGS", "0")
    assert put_get_verify(Shape("kv-first", kv_heads=8, tp=2), model="messages") > 0
    wait_for_no_leaks(address)
