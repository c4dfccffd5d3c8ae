"""Configuration objects, layouts and addresses of the Python API."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_rig import Shape, share_a_tensor

from flexkv.addresses import manager_ports, publish_register_port, rank_address
from flexkv.client import Link
from flexkv.common.config import CacheConfig, LayerGroupSpec, ModelConfig, RankInfo
from flexkv.common.memory_handle import TensorSharedHandle
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.errors import ConfigError, FlexKVError, MemoryInUseError
from flexkv.layout import LayoutError
from flexkv.namespaces import namespace_digest
from flexkv.rank_layout import rank_layout
from flexkv.registration import Registration
from flexkv.server.client import KVTPClient

LAYERFIRST, BLOCKFIRST = KVCacheLayoutType.LAYERFIRST, KVCacheLayoutType.BLOCKFIRST


# ---------------------------------------------------------------------- models
def test_model_counts_bytes_and_ranks() -> None:
    model = ModelConfig(4, 8, 128, dtype=torch.bfloat16, tp_size=2, pp_size=2, dp_size=3)
    assert model.token_size_in_bytes == 4 * 2 * 8 * 128 * 2
    assert (model.ranks, model.total_clients, model.num_kv_heads_per_node) == (4, 3, 8)
    assert ModelConfig(4, 1, 576, use_mla=True, dtype="fp8").token_size_in_bytes == 4 * 576
    attention = ModelConfig(tp_size=8, dp_size=4, enable_dp_attention=True)
    assert attention.ranks == 2
    groups = [LayerGroupSpec(2, 8, 64, dtype="float16"), LayerGroupSpec(1, 1, 64, dtype="int8")]
    assert ModelConfig(layer_groups=groups).token_size_in_bytes == 2 * 2 * 8 * 64 * 2 + 2 * 64


def test_model_frozen_cannot_be_changed() -> None:
    model = ModelConfig()
    model.tp_size = 2
    model.freeze()
    with pytest.raises(AttributeError, match="frozen, tp_size cannot be set"):
        model.tp_size = 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"kv_dim": 3}, "kv_dim is 3, must be 1"),
        ({"tp_size": 0}, "tp_size is 0, must be an integer from 1 on"),
    ],
)
def test_model_wrong_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelConfig(**values)


def test_dtype_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="dtype is 'float13', must be a torch dtype or one of"):
        _ = ModelConfig(dtype="float13").token_size_in_bytes


def test_rank_info_names_client_and_place() -> None:
    model = ModelConfig(num_layers=8, tp_size=4, pp_size=2, dp_size=2, instance_num=2)
    rank = RankInfo(model, tp_rank=3, pp_rank=1, dp_rank=1, instance_id=1)
    assert (rank.dp_client_id, rank.intra_client_id, rank.num_layers_per_pp_stage) == (3, 3, 4)


def test_namespace_differs_by_everything_that_bytes_depend_on() -> None:
    base: dict[str, Any] = {"num_layers": 2, "num_kv_heads": 4, "head_size": 8, "dtype": "float16"}
    others: list[dict[str, Any]] = [
        {"num_layers": 4}, {"num_kv_heads": 8}, {"head_size": 16}, {"kv_dim": 1},
        {"dtype": "bfloat16"}, {"tp_size": 2}, {"pp_size": 2}, {"model_name": "m"},
        {"layer_groups": [LayerGroupSpec(2, 4, 8)]},
    ]  # fmt: skip
    digests = {namespace_digest(ModelConfig(**{**base, **other}), 16, "") for other in others}
    digests.add(namespace_digest(ModelConfig(**base), 16, ""))
    digests.add(namespace_digest(ModelConfig(**base), 32, ""))
    digests.add(namespace_digest(ModelConfig(**base), 16, "v2"))
    assert len(digests) == len(others) + 3
    torch_dtype = ModelConfig(**{**base, "dtype": torch.float16})
    assert namespace_digest(torch_dtype, 16, "") == namespace_digest(ModelConfig(**base), 16, "")


# ---------------------------------------------------------------------- tiers
def test_cache_blocks_become_room_for_as_many() -> None:
    options = CacheConfig(num_cpu_blocks=1000).sidecar_options(1 << 20)
    assert options["num_cpu_blocks"] == 1000
    assert options["cpu_cache_gb"] * 1e9 >= 1000 << 20
    assert options["cpu_cache_gb"] * 1e9 <= (1000 << 20) + (128 << 20)
    assert CacheConfig().sidecar_options(1 << 20) == {}, "the configured GB count"


def test_cache_ssd_and_eviction_are_passed_on_where_set() -> None:
    config = CacheConfig(
        enable_ssd=True, num_ssd_blocks=10_000, ssd_cache_dir=["/a", "/b"], eviction_policy="lfu"
    )
    assert config.sidecar_options(100_000) == {
        "ssd_cache_gb": 1.0, "ssd_cache_dir": "/a;/b", "eviction_policy": "lfu",
    }  # fmt: skip
    assert CacheConfig(num_ssd_blocks=10).sidecar_options(1) == {}, "the tier is off"


def test_cache_unused_fields_are_listed_only_if_set() -> None:
    assert CacheConfig().replaced() == {}
    assert list(CacheConfig(enable_gds=True, transfer_sms_h2d=16).replaced()) == [
        "enable_gds", "transfer_sms_h2d",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [0, 3, 48, "16"])
def test_tokens_per_block_not_a_power_of_two_is_named(tokens: Any) -> None:
    with pytest.raises(ValueError, match="must be a power of two"):
        CacheConfig(tokens_per_block=tokens)


# ---------------------------------------------------------------------- layouts
def test_layout_strides_are_those_of_a_tensor_of_its_shape() -> None:
    for kind in (LAYERFIRST, BLOCKFIRST):
        layout = KVCacheLayout(kind, 3, 5, 16, 4, 8)
        tensor = torch.empty(layout.kv_shape)
        names = "lkb" if kind is LAYERFIRST else "blk"
        strides = dict(zip(names, tensor.stride(), strict=False))
        assert layout.get_layer_stride() == strides["l"]
        assert layout.get_kv_stride() == strides["k"]
        assert layout.get_block_stride() == strides["b"]
        assert layout.get_total_elements() == tensor.numel()
        assert layout.get_elements_per_block() == tensor.numel() // 5


def test_layout_parts_and_older_names() -> None:
    layout = KVCacheLayout(KVCacheLayoutType.LAYERWISE, 4, 10, 16, 8, 64, is_mla=True)
    assert layout.type is LAYERFIRST
    assert layout.kv_dim == 1
    assert layout.div_head(2).num_head == 4
    assert layout.div_layer(4).num_layer == 1
    assert layout.div_block(3, padding=True).num_block == 4
    assert layout == KVCacheLayout(LAYERFIRST, 4, 10, 16, 8, 64, kv_dim=1)
    with pytest.raises(ValueError, match="num_block is 10, which 3 parts cannot share"):
        layout.div_block(3)
    with pytest.raises(ValueError, match="num_head is 0, must be at least 1"):
        KVCacheLayout(LAYERFIRST, 4, 10, 16, 0, 64)


def test_regions_of_two_blocks_only_k_and_v_first() -> None:
    shape = Shape("kv-first", layers=1)
    layout = shape.layout(2)
    found = rank_layout(shape.tensors(layout, "cpu"), layout)
    assert [(r.block_stride, r.bytes_per_block) for r in found.regions] == [(2048, 2048)] * 2


def test_regions_of_different_forms_have_different_fingerprints() -> None:
    prints = set()
    for form in ("kv-first", "block-kv", "packed", "split", "all-layers", "blockfirst"):
        shape = Shape(form)
        layout = shape.layout(8)
        prints.add(rank_layout(shape.tensors(layout, "cpu"), layout).fingerprint)
    assert len(prints) >= 5, "their blocks' images differ, so they must not be shared"


def test_tensor_of_another_shape_is_named() -> None:
    layout = Shape("kv-first").layout(8)
    with pytest.raises(LayoutError, match="no KV tensors"):
        rank_layout([], layout)
    with pytest.raises(LayoutError, match=r"shape \(7, 3\) does not fit the layout LAYERFIRST"):
        rank_layout([torch.zeros(7, 3)], layout)


def test_shared_handle_opens_in_another_process() -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=share_a_tensor, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(60), "the other process sent nothing"
    tensor = ours.recv().get_tensor()
    assert tensor.tolist() == torch.arange(12).reshape(3, 4).tolist()
    tensor[1, 2] = 77
    ours.send("written")
    assert ours.poll(60)
    assert ours.recv() == 77, "both see the same memory"
    process.join(20)
    assert process.exitcode == 0


def test_shared_handle_of_something_else_is_named() -> None:
    with pytest.raises(FlexKVError, match="a bytes cannot be shared, must be a torch tensor"):
        TensorSharedHandle(b"x" * 64)


# ---------------------------------------------------------------------- addresses
def test_register_port_default_is_computed_back() -> None:
    port, name = manager_ports("ipc:///tmp/a", "", 3)
    assert port == "ipc:///tmp/a_gpu_register"
    assert rank_address(port) == "ipc:///tmp/a"
    assert name.endswith("/3")
    assert manager_ports("ipc:///tmp/b", "", 3)[1] != name


def test_register_port_not_a_path_is_named() -> None:
    with pytest.raises(ConfigError, match="gpu_register_port is 'tcp://a:1', must be ipc://"):
        manager_ports("ipc:///tmp/a", "tcp://a:1", 0)
    with pytest.raises(ConfigError, match="must be ipc://"):
        KVTPClient("somewhere")


def test_register_port_left_by_a_dead_manager_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "port"
    link.symlink_to("/gone")
    publish_register_port(f"ipc://{link}", "ipc:///tmp/new")
    assert link.readlink() == Path("/tmp/new")


def test_ranks_of_stages_are_counted_through() -> None:
    layout = KVCacheLayout(LAYERFIRST, 1, 8, 16, 1, 8, tp_size=2)
    port = "ipc:///tmp/a_gpu_register"
    assert KVTPClient(port, 0, 0, 1, 1)._rank(layout) == 3
    assert KVTPClient(port, 0, 0, 2, 0, ranks_per_stage=4)._rank(layout) == 8
    assert KVTPClient(port, 0, 0, 5)._rank(layout) == 5, "four arguments: no stages"
    with pytest.raises(FlexKVError, match="intra_client_id is 2 and a stage has 2 ranks"):
        KVTPClient(port, 0, 0, 1, 2)._rank(layout)
    with pytest.raises(FlexKVError, match="ranks on another host are not served"):
        KVTPClient(port).set_slot_mapping(1, [])


@pytest.mark.parametrize(
    "error", [None, MemoryInUseError("it may still write"), KeyboardInterrupt()]
)
def test_rank_that_could_not_be_registered_leaves_no_link_behind(
    error: BaseException | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[Link] = []

    def first(self: Registration, layout: Any, fences: Any, link: Link, *_: Any, **__: Any) -> bool:
        links.append(link)
        if error is not None:
            raise error
        return False

    monkeypatch.setattr(Registration, "first", first)
    client = KVTPClient(f"ipc://{tmp_path}/nobody")
    layout = KVCacheLayout(LAYERFIRST, 1, 10, 4, 1, 16)
    with pytest.raises(FlexKVError if error is None else type(error)):
        client.register_to_server([torch.zeros(2, 10, 4, 1, 16)], layout)
    assert links[0].wait(5.0) is None, "it would lend the memory to the next sidecar"
    assert links[0]._stopping
