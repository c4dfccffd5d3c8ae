"""Our events, encoded by the installed vLLM with its own classes, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from harness import checkout

from flexkv.protocol import TIER_HOST, TIER_SSD
from flexkv.vllm_events import VllmEvents

pytestmark = pytest.mark.both_versions

_FILE = checkout.ROOT / "python-shim" / "tests" / "data" / "kv_event_vectors.json"
_BLOCK, _PARENT, _TOKENS = 0x1111, 0x123456789ABCDEF, list(range(1, 17))


def _golden(name: str) -> str:
    found: str = json.loads(_FILE.read_text())[f"{name} | map (vLLM >= #42892)"]["hex"]
    return found


def _batch(event: Any) -> str:
    from vllm.distributed.kv_events import KVEventBatch

    batch = KVEventBatch(ts=1700000000.5, events=[event], data_parallel_rank=0)
    return msgspec.msgpack.Encoder().encode(batch).hex()


def test_stores_and_removes_are_the_golden_maps() -> None:
    make = VllmEvents(16, "CPU")
    cpu = make.stored(TIER_HOST, _BLOCK, _PARENT, _TOKENS, b"")
    disk = make.stored(TIER_SSD, _BLOCK, _PARENT, _TOKENS, b"")
    assert _batch(cpu) == _golden("cpu_store_child")
    assert _batch(disk) == _golden("disk_store_child")
    assert _batch(make.removed(TIER_HOST, _BLOCK)) == _golden("cpu_remove")


def test_store_made_by_names_is_the_same_as_one_made_by_places() -> None:
    """With extra keys fields are given by name; without LoRA and salt both say the same."""
    make = VllmEvents(16, "CPU")
    none = msgspec.msgpack.encode((None, None, None))
    named = make.stored(TIER_HOST, _BLOCK, _PARENT, _TOKENS, none)
    assert _batch(named) == _golden("cpu_store_child")


def test_lora_and_salt_are_the_golden_map_and_their_fields() -> None:
    make = VllmEvents(16, "CPU")
    extra = msgspec.msgpack.encode((7, "sql", ("sql", "salt")))
    event = make.stored(TIER_HOST, _BLOCK, _PARENT, _TOKENS, extra)
    seen = msgspec.msgpack.decode(bytes.fromhex(_batch(event)))[1][0]
    wanted = msgspec.msgpack.decode(bytes.fromhex(_golden("cpu_store_child")))[1][0]
    assert seen == {**wanted, "lora_id": 7, "lora_name": "sql", "extra_keys": [["sql", "salt"]]}
