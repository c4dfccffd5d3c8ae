"""Our events, encoded by the installed vLLM with its own classes, byte for byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from harness import checkout
from harness.zygote import EngineProcess

from e2e import scenarios

pytestmark = pytest.mark.both_versions

_FILE = checkout.ROOT / "python-shim" / "tests" / "data" / "kv_event_vectors.json"


@pytest.fixture(scope="module")
def encoded(plain: EngineProcess) -> dict[str, str]:
    """What vLLM's encoder makes of our events, in hex; it is imported in the engine's process."""
    return plain.call(scenarios.encoded_events)


def _golden(name: str) -> str:
    found: str = json.loads(_FILE.read_text())[f"{name} | map (vLLM >= #42892)"]["hex"]
    return found


def test_stores_and_removes_are_the_golden_maps(encoded: dict[str, str]) -> None:
    for name in ("cpu_store_child", "disk_store_child", "cpu_remove"):
        assert encoded[name] == _golden(name)


def test_store_made_by_names_is_the_same_as_one_made_by_places(encoded: dict[str, str]) -> None:
    """With extra keys fields are given by name; without LoRA and salt both say the same."""
    assert encoded["by_names"] == _golden("cpu_store_child")


def test_lora_and_salt_are_the_golden_map_and_their_fields(encoded: dict[str, str]) -> None:
    seen = msgspec.msgpack.decode(bytes.fromhex(encoded["lora_and_salt"]))[1][0]
    wanted = msgspec.msgpack.decode(bytes.fromhex(_golden("cpu_store_child")))[1][0]
    assert seen == {**wanted, "lora_id": 7, "lora_name": "sql", "extra_keys": [["sql", "salt"]]}
