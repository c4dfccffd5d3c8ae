"""``FlexKVConfig``: everything that a ``KVManager`` needs, from the environment and an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flexkv.common.config import CacheConfig, ModelConfig, RankInfo
from flexkv.common.user_config import (
    UserConfig,
    load_user_config_from_env,
    update_default_config_from_user_config,
)
from flexkv.config import Settings
from flexkv.errors import FlexKVError


@dataclass
class FlexKVConfig:
    """Configuration of one engine that drives a ``KVManager`` itself.

    vLLM needs none of it: its connector reads the same settings.
    """

    enable_flexkv: bool = True
    server_recv_port: str = ""
    gpu_register_port: str = ""
    model_config: ModelConfig = field(default_factory=ModelConfig)
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    user_config: UserConfig = field(default_factory=UserConfig)
    rank_info: RankInfo | None = None

    @classmethod
    def from_env(cls) -> FlexKVConfig:
        """From ``FLEXKV_CONFIG_PATH`` and the environment; raises ``ConfigError``."""
        settings = Settings.load()
        config = cls(
            enable_flexkv=settings.enabled,
            server_recv_port=settings.server_recv_port,
            gpu_register_port=settings.server_recv_port + "_gpu_register",
            model_config=ModelConfig(instance_num=settings.instance_num),
            user_config=load_user_config_from_env(),
        )
        config.rank_info = RankInfo(config.model_config, instance_id=settings.instance_id)
        return config

    def post_init_from_vllm_config(self, vllm_config: Any) -> None:
        """Takes the shape of vLLM's KV cache and its parallel sizes."""
        model, parallel = vllm_config.model_config, vllm_config.parallel_config
        block = int(vllm_config.cache_config.block_size)
        cache_dtype = str(getattr(vllm_config.cache_config, "cache_dtype", "auto"))
        mla = bool(getattr(model, "use_mla", False))
        self.model_config = ModelConfig(
            num_layers=int(model.get_num_layers(parallel)) * parallel.pipeline_parallel_size,
            num_kv_heads=1 if mla else int(model.get_total_num_kv_heads()),
            head_size=int(model.get_head_size()),
            kv_dim=1 if mla else 2,
            dtype=str(model.dtype if cache_dtype == "auto" else cache_dtype).removeprefix("torch."),
            tp_size=parallel.tensor_parallel_size,
            pp_size=parallel.pipeline_parallel_size,
            dp_size=parallel.data_parallel_size,
            instance_num=self.model_config.instance_num,
            model_name=str(model.model),
        )
        self.cache_config = CacheConfig(tokens_per_block=block)
        instance = self.rank_info.instance_id if self.rank_info else 0
        self.rank_info = RankInfo(
            self.model_config,
            dp_rank=int(getattr(parallel, "data_parallel_rank", 0) or 0),
            instance_id=instance,
        )
        update_default_config_from_user_config(
            self.model_config, self.cache_config, self.user_config
        )

    def post_init_from_sglang_config(self, *_: Any, **__: Any) -> None:
        """SGLang is not served."""
        raise FlexKVError("SGLang is not served; build a ModelConfig and a CacheConfig yourself")

    def post_init_from_trt_config(self, *_: Any, **__: Any) -> None:
        """TensorRT-LLM is not served."""
        raise FlexKVError(
            "TensorRT-LLM is not served; build a ModelConfig and a CacheConfig yourself"
        )
