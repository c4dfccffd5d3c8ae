"""``UserConfig`` and ``FlexKVConfig``: from where users set things to what a KVManager needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flexkv.common import config as common
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.user_config import (
    UserConfig,
    load_user_config_from_env,
    load_user_config_from_file,
    update_default_config_from_user_config,
)
from flexkv.errors import ConfigError, FlexKVError
from flexkv.integration.config import FlexKVConfig


def test_user_config_is_found_where_the_original_has_it() -> None:
    assert common.UserConfig is UserConfig
    assert not hasattr(common, "NoSuchName")


def test_user_config_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXKV_CONFIG_PATH", raising=False)
    monkeypatch.setenv("FLEXKV_CPU_CACHE_GB", "32")
    monkeypatch.setenv("FLEXKV_SSD_CACHE_GB", "128")
    found = load_user_config_from_env()
    assert (found.cpu_cache_gb, found.ssd_cache_gb) == (32, 128)


def test_user_config_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"cpu_cache_gb": 8, "ssd_cache_gb": 64, "ssd_cache_dir": "/a;/b"}')
    found = load_user_config_from_file(str(file))
    assert (found.cpu_cache_gb, found.ssd_cache_gb) == (8, 64)
    with pytest.raises(ConfigError, match="must end in"):
        load_user_config_from_file(str(tmp_path / "c.txt"))


def test_user_config_becomes_blocks_of_the_model() -> None:
    model = ModelConfig(10, 10, 10, dtype="float16")  # 4,000 bytes a token
    cache = CacheConfig(tokens_per_block=16)
    user = UserConfig(cpu_cache_gb=6.4, ssd_cache_gb=64, ssd_cache_dir="/x", redis_password="s")
    update_default_config_from_user_config(model, cache, user)
    assert (cache.num_cpu_blocks, cache.num_ssd_blocks) == (100_000, 1_000_000)
    assert (cache.enable_ssd, cache.ssd_cache_dir) == (True, "/x")
    assert "redis_password" not in repr(user)


@pytest.mark.parametrize("values", [{"cpu_cache_gb": 0}, {"ssd_cache_gb": -1}])
def test_user_config_impossible_is_named(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="_cache_gb is"):
        UserConfig(**values)  # type: ignore[arg-type]


def test_flexkv_config_of_a_vllm_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXKV_CONFIG_PATH", raising=False)
    monkeypatch.setenv("FLEXKV_SERVER_RECV_PORT", "ipc:///tmp/here")
    monkeypatch.setenv("FLEXKV_INSTANCE_NUM", "2")
    monkeypatch.setenv("FLEXKV_INSTANCE_ID", "1")
    monkeypatch.setenv("FLEXKV_CPU_CACHE_GB", "1")
    config = FlexKVConfig.from_env()
    assert config.gpu_register_port == "ipc:///tmp/here_gpu_register"
    config.post_init_from_vllm_config(
        SimpleNamespace(
            model_config=SimpleNamespace(
                get_num_layers=lambda parallel: 16, get_total_num_kv_heads=lambda: 8,
                get_head_size=lambda: 128, dtype="torch.bfloat16", model="m", use_mla=False,
            ),
            parallel_config=SimpleNamespace(
                pipeline_parallel_size=2, tensor_parallel_size=4, data_parallel_size=2,
                data_parallel_rank=1,
            ),
            cache_config=SimpleNamespace(block_size=64, cache_dtype="fp8_e5m2"),
        )
    )  # fmt: skip
    model = config.model_config
    assert (model.num_layers, model.num_kv_heads, model.ranks) == (32, 8, 8)
    assert model.dtype == "fp8_e5m2", "what the cache holds, not what the weights are"
    assert config.cache_config.tokens_per_block == 64
    assert config.cache_config.num_cpu_blocks == int(1e9 // (model.token_size_in_bytes * 64))
    assert config.rank_info is not None
    assert config.rank_info.dp_client_id == 1 * 2 + 1


def test_flexkv_config_of_other_engines_is_refused_by_name() -> None:
    with pytest.raises(FlexKVError, match="SGLang is not served"):
        FlexKVConfig().post_init_from_sglang_config()
    with pytest.raises(FlexKVError, match="TensorRT-LLM is not served"):
        FlexKVConfig().post_init_from_trt_config()
