"""Event objects of vLLM, byte for byte: with array classes, as older versions have them.

Map classes are compared in ``tests/e2e/test_event_bytes.py``, with the installed vLLM's own.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from flexkv.protocol import TIER_HOST, TIER_SSD
from flexkv.vllm_events import VllmEvents

VECTORS = json.loads((Path(__file__).parent / "data" / "kv_event_vectors.json").read_text())


class _Event(msgspec.Struct, array_like=True, tag=True):
    pass


class BlockStored(_Event):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class BlockRemoved(_Event):
    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class Oldest(_Event, tag="BlockStored"):
    """Before LoRA names and extra keys."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None


def batch(event: Any) -> str:
    return msgspec.msgpack.encode([1700000000.5, [event], 0]).hex()


def golden(name: str) -> str:
    found: str = VECTORS[f"{name} | positional (vLLM < #42892)"]["hex"]
    return found


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """vLLM's modules as far as events need them."""
    root = types.ModuleType("vllm")
    root.envs = SimpleNamespace()  # type: ignore[attr-defined]
    events = types.ModuleType("vllm.distributed.kv_events")
    events.BlockStored, events.BlockRemoved = BlockStored, BlockRemoved  # type: ignore[attr-defined]
    utils = types.ModuleType("vllm.v1.core.kv_cache_utils")
    core = types.ModuleType("vllm.v1.core")
    core.kv_cache_utils = utils  # type: ignore[attr-defined]
    modules = {
        "vllm": root, "vllm.distributed": types.ModuleType("vllm.distributed"),
        "vllm.distributed.kv_events": events, "vllm.v1": types.ModuleType("vllm.v1"),
        "vllm.v1.core": core, "vllm.v1.core.kv_cache_utils": utils,
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return utils


def test_stores_and_removes_are_the_golden_bytes(engine: types.ModuleType) -> None:
    make = VllmEvents(16, "CPU")
    block, parent, tokens = 0x1111, 0x123456789ABCDEF, list(range(1, 17))
    assert batch(make.stored(TIER_HOST, block, parent, tokens, b"")) == golden("cpu_store_child")
    assert batch(make.stored(TIER_SSD, block, parent, tokens, b"")) == golden("disk_store_child")
    assert batch(make.removed(TIER_HOST, block)) == golden("cpu_remove")


def test_cpu_medium_for_older_routers(engine: types.ModuleType) -> None:
    make = VllmEvents(16, "CPU_PINNED")
    assert make.stored(TIER_HOST, 1, None, [], b"").medium == "CPU_PINNED"
    assert make.removed(TIER_HOST, 1).medium == "CPU_PINNED"
    assert make.removed(TIER_SSD, 1).medium == "DISK"


def test_version_without_lora_names_gets_only_fields_it_has(
    engine: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vllm.distributed.kv_events"], "BlockStored", Oldest)
    make = VllmEvents(4, "CPU")
    extra = msgspec.msgpack.encode((7, "sql", ("sql",)))
    event = make.stored(TIER_HOST, 1, None, [1, 2, 3, 4], extra)
    assert (event.lora_id, event.medium) == (7, "CPU")


def test_lora_and_salt_travel_as_vllm_writes_them(engine: types.ModuleType) -> None:
    keys = (("lora", "sql"), ("mm", "image-1", 8), ("cache_salt", "s"))
    untagged = ("sql", ("image-1", 8), "s")
    vars(engine)["generate_block_hash_extra_keys"] = lambda request, start, end, mm: (keys, 0)
    vars(engine)["to_event_extra_keys"] = lambda blocks: [untagged for _ in blocks]
    make = VllmEvents(4, "CPU")
    request = SimpleNamespace(
        lora_request=SimpleNamespace(adapter_id=7, name="sql"), cache_salt="s", mm_features=[],
        prompt_embeds=None,
    )  # fmt: skip
    packed = make.extra_keys(request, 1, 3)
    assert packed is not None
    assert len(packed) == 2
    event = make.stored(TIER_HOST, 1, None, [1, 2, 3, 4], packed[1])
    assert (event.lora_id, event.lora_name) == (7, "sql")
    assert event.extra_keys == [("sql", ("image-1", 8), "s")]


def test_plain_request_has_no_extra_keys(engine: types.ModuleType) -> None:
    request = SimpleNamespace(lora_request=None, cache_salt=None, mm_features=[])
    assert VllmEvents(4, "CPU").extra_keys(request, 0, 9) == []


def test_version_that_does_not_say_its_extra_keys_announces_no_such_block(
    engine: types.ModuleType,
) -> None:
    request = SimpleNamespace(lora_request=None, cache_salt="s", mm_features=[])
    assert VllmEvents(4, "CPU").extra_keys(request, 0, 9) is None


def test_whole_hashes_follow_vllms_switch(
    engine: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not VllmEvents(4, "CPU").whole_hashes
    flag = SimpleNamespace(VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=False)
    monkeypatch.setattr(sys.modules["vllm"], "envs", flag)
    assert VllmEvents(4, "CPU").whole_hashes
