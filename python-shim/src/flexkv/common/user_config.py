"""``UserConfig``: what a user sets, as the original's integrations pass it on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.config import Settings
from flexkv.config_file import CONFIG_PATH_ENV
from flexkv.options import BY_KEY

__all__ = [
    "UserConfig", "load_user_config_from_env", "load_user_config_from_file",
    "update_default_config_from_user_config",
]  # fmt: skip


@dataclass
class UserConfig:
    """Capacities in GB (10^9 bytes) and where they lie; names and defaults are the options'."""

    cpu_cache_gb: float = 16
    ssd_cache_gb: float = 0
    ssd_cache_dir: str | Sequence[str] = "./flexkv_ssd"
    enable_gds: bool = False
    enable_nixl: bool = False
    enable_p2p_cpu: bool = False
    enable_p2p_ssd: bool = False
    enable_3rd_remote: bool = False
    local_zmq_ip: str | None = None
    local_zmq_port: int | None = None
    local_ip: str | None = None
    redis_host: str | None = None
    redis_port: int | None = None
    redis_password: str | None = field(default=None, repr=False)
    kv_cache_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.cpu_cache_gb <= 0:
            raise ValueError(f"cpu_cache_gb is {self.cpu_cache_gb}, must be above 0")
        if self.ssd_cache_gb < 0:
            raise ValueError(f"ssd_cache_gb is {self.ssd_cache_gb}, must not be below 0")


def _from_settings(settings: Settings) -> UserConfig:
    found = {
        f.name: settings.values[f.name]
        for f in fields(UserConfig)
        if settings.sources.get(f.name, "default") != "default" and BY_KEY[f.name].type != "any"
    }
    return UserConfig(**found)  # type: ignore[arg-type]


def load_user_config_from_env() -> UserConfig:
    """From ``FLEXKV_CONFIG_PATH`` and the environment, by the rules of every other option."""
    return _from_settings(Settings.load())


def load_user_config_from_file(config_file: str) -> UserConfig:
    """From a ``.json``, ``.yaml`` or ``.yml`` file; raises ``ConfigError``."""
    return _from_settings(Settings.load(env={**os.environ, CONFIG_PATH_ENV: config_file}))


def update_default_config_from_user_config(
    model_config: ModelConfig, cache_config: CacheConfig, user_config: UserConfig
) -> None:
    """Sets a ``CacheConfig``'s tiers to what the user wants, in blocks of this model."""
    block_bytes = model_config.token_size_in_bytes * cache_config.tokens_per_block
    cache_config.num_cpu_blocks = max(1, int(user_config.cpu_cache_gb * 1e9 // block_bytes))
    cache_config.enable_ssd = user_config.ssd_cache_gb > 0
    if cache_config.enable_ssd:
        cache_config.num_ssd_blocks = max(1, int(user_config.ssd_cache_gb * 1e9 // block_bytes))
        cache_config.ssd_cache_dir = user_config.ssd_cache_dir
    for name in (
        "enable_gds", "enable_nixl", "enable_p2p_cpu", "enable_p2p_ssd", "enable_3rd_remote",
        "local_zmq_ip", "local_zmq_port", "local_ip", "redis_host", "redis_port",
        "redis_password",
    ):  # fmt: skip
        setattr(cache_config, name, getattr(user_config, name))
    if user_config.kv_cache_dtype:
        model_config.dtype = user_config.kv_cache_dtype
