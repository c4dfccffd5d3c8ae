"""The put/get/verify matrix of the Python API on CPU memory, against the real sidecar."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kv_matrix import SHAPES, put_get_verify
from kv_rig import Fleet, Shape, own_sidecar, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv.common.request import KVResponseStatus

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60) as found:
        yield found


@pytest.mark.parametrize("shape", SHAPES, ids=[f"{s.name}-b{s.block_tokens}" for s in SHAPES])
def test_put_get_any_shape_brings_the_same_bytes(address: str, shape: Shape) -> None:
    assert put_get_verify(shape) > 0
    wait_for_no_leaks(address)


@pytest.mark.parametrize(("tp", "pp", "copies"), [(1, 1, 1), (4, 1, 1), (2, 2, 4)])
def test_latent_attention_is_stored_once_for_all_ranks_of_one_stage(
    address: str, tp: int, pp: int, copies: int
) -> None:
    shape = Shape("flat", kv_heads=1, head_size=512, kv_dim=1, tp=tp, pp=pp)
    fleet = Fleet.start(shape, model=f"mla-{tp}-{pp}")
    try:
        before = status(address)["cache"]["used_bytes"]
        tokens = list(range(10 * shape.block_tokens))
        fleet.fill(tokens, range(10))
        task = fleet.manager.put_async(tokens, fleet.slots(range(10)))
        assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS
        stored = status(address)["cache"]["used_bytes"] - before
        assert stored == copies * 10 * fleet.ranks[0].block_bytes
        task = fleet.manager.get_async(tokens, fleet.slots(range(20, 30)))
        assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS
        fleet.check(tokens, range(20, 30))
    finally:
        fleet.close()


def test_put_get_over_messages_in_place_of_rings(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on machines whose stores Python cannot order."""
    monkeypatch.setenv("FLEXKV_RINGS", "0")
    assert put_get_verify(Shape("kv-first", kv_heads=8, tp=2), model="messages") > 0
    wait_for_no_leaks(address)
