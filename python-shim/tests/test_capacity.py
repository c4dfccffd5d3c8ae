"""Capacities in blocks, and the files of the original's book as they are printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from test_engine_facts import FullAttentionSpec, caches, config

from flexkv.capacity import in_bytes
from flexkv.config import OVERRIDES_ENV, Settings
from flexkv.engine import EngineFacts, read_facts
from flexkv.launcher import environment

CONFIGS = Path(__file__).with_name("original_configs")
BLOCK_BYTES = 2 * 2 * 4000  # two ranks, two layers


def engine(kv_cache_config: Any = None) -> EngineFacts:
    return read_facts(config(), scheduler=True, kv_cache_config=kv_cache_config, facade=False)


def sized(env: dict[str, str], known: bool = True) -> Settings:
    kv_cache_config = caches(FullAttentionSpec()) if known else None
    return in_bytes(Settings.load(env=env), engine(kv_cache_config), kv_cache_config)


def test_blocks_alone_size_the_tiers_of_a_sidecar_that_we_start() -> None:
    settings = sized({"FLEXKV_NUM_CPU_BLOCKS": "50000", "FLEXKV_NUM_SSD_BLOCKS": "200000"})
    assert settings.sidecar == {
        "cpu_cache_gb": 50_000 * BLOCK_BYTES / 1e9, "num_cpu_blocks": 0,
        "ssd_cache_gb": 200_000 * BLOCK_BYTES / 1e9, "num_ssd_blocks": 0,
    }  # fmt: skip
    assert "FLEXKV_NUM_CPU_BLOCKS: 50000 blocks of 16 tokens take 0.80 GB" in str(settings.notes)


def test_blocks_as_a_size_are_the_users_and_no_default(tmp_path: Path) -> None:
    settings = sized(
        {"FLEXKV_NUM_CPU_BLOCKS": "50000", "FLEXKV_RUNTIME_DIR": str(tmp_path / "run")}
    )
    decided = json.loads(environment(settings, {})[OVERRIDES_ENV])
    assert decided["cpu_cache_gb"] == 0.8
    assert decided["num_cpu_blocks"] == 0
    for name in ("cpu_cache_gb", "num_cpu_blocks"):  # by one source for both the sidecar tells
        assert decided["sources"][name] == "FLEXKV_NUM_CPU_BLOCKS"
    unnamed = dataclasses.replace(settings, sources={**settings.sources, "cpu_cache_gb": "default"})
    decided = json.loads(environment(unnamed, {})[OVERRIDES_ENV])
    assert "cpu_cache_gb" not in decided["sources"], "the sidecar would cut it to an eighth"


def test_blocks_beside_gigabytes_stay_a_cap() -> None:
    settings = sized({"FLEXKV_NUM_CPU_BLOCKS": "50000", "FLEXKV_CPU_CACHE_GB": "2"})
    assert settings.sidecar == {}
    assert settings.notes == ()


def test_blocks_of_other_tokens_take_the_memory_that_was_meant() -> None:
    settings = sized({"FLEXKV_NUM_CPU_BLOCKS": "50000", "FLEXKV_TOKENS_PER_BLOCK": "64"})
    assert settings.sidecar["cpu_cache_gb"] == 4 * 50_000 * BLOCK_BYTES / 1e9
    warning, text = settings.notes[0]
    assert warning
    assert text == (
        "FLEXKV_TOKENS_PER_BLOCK is 64, vLLM's blocks have 16 tokens, and those count. Remedy: "
        "vllm serve --block-size 64, or leave tokens_per_block out"
    )


def test_engine_that_does_not_tell_its_blocks_gets_the_remedy() -> None:
    settings = sized({"FLEXKV_NUM_CPU_BLOCKS": "50000"}, known=False)
    assert settings.sidecar == {}
    assert "say cpu_cache_gb (now 16.0)" in settings.notes[0].text


def printed(name: str, **env: str) -> Settings:
    path = CONFIGS / name
    return sized({"FLEXKV_CONFIG_PATH": str(path), **env})


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGS.iterdir())])
def test_printed_file_is_used_with_a_line_for_each_part_that_is_not(name: str) -> None:
    settings = printed(name)
    assert settings.enabled
    assert settings.num_log_interval_requests == 200
    assert not [n for n in settings.notes if "unknown" in n.text]
    assert settings.sidecar["cpu_cache_gb"] > 0.6


def test_printed_single_gpu_case() -> None:
    settings = printed("single-gpu.json")
    assert settings.server_recv_port == "ipc:///tmp/flexkv_test"
    assert settings.values["evict_ratio"] == 0.05
    assert settings.sidecar["ssd_cache_gb"] == 200_000 * BLOCK_BYTES / 1e9
    assert "transfer_num_cta_h2d: blocks are moved by the GPU's copy engines" in str(settings.notes)


def test_printed_dynamo_worker_has_no_ssd_and_its_own_address() -> None:
    settings = printed("dynamo-worker.json", worker_id="3")
    assert settings.server_recv_port == "ipc:///tmp/flexkv_3_test"
    assert settings.values["enable_ssd"] == "false"
    assert "tokens_per_block is 64, vLLM's blocks have 16" in str(settings.notes)


def test_printed_distributed_worker_says_once_that_there_is_no_remote_tier() -> None:
    said = [note.text for note in printed("dynamo-distributed.json").notes if note.warning]
    remote = [text for text in said if "the remote tier is not built yet" in text]
    assert len(remote) == 1
    assert all(
        key in remote[0] for key in ("enable_remote", "num_remote_blocks", "remote_cache_path")
    )


def test_mla_counts_shared_bytes_once() -> None:
    kv_cache_config = caches(FullAttentionSpec())
    facts = dataclasses.replace(engine(kv_cache_config), distinct_parts=1)
    found = Settings.load(env={"FLEXKV_NUM_CPU_BLOCKS": "50000"})
    settings = in_bytes(found, facts, kv_cache_config)
    assert settings.sidecar["cpu_cache_gb"] == 50_000 * BLOCK_BYTES / 2 / 1e9
