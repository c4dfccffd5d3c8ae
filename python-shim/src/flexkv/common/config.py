"""Configuration objects of the Python API, under the original's names.

``ModelConfig`` says what a token's KV is, ``CacheConfig`` how large the tiers are.  They are plain
data: nothing here opens, starts or reads anything, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["CacheConfig", "LayerGroupSpec", "ModelConfig", "RankInfo", "SWAPoolConfig"]

ORIGINAL_CPU_BLOCKS = 1_000_000
ORIGINAL_SSD_BLOCKS = 10_000_000
"""Defaults of the original: taken for "not set", the configured GB count then."""

_ITEM_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float": 4,
    "float16": 2, "bfloat16": 2, "half": 2, "int16": 2,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "fp8": 1, "int8": 1, "uint8": 1,
    "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "fp8_ds_mla": 1,
}  # fmt: skip


def dtype_name(dtype: Any) -> str:
    """``torch.float16``, ``numpy.dtype("float16")`` and ``"float16"`` are all ``float16``."""
    return str(dtype).removeprefix("torch.")


def dtype_bytes(dtype: Any) -> int:
    """Bytes of one element; raises ``ValueError`` for a name that is not known."""
    size = getattr(dtype, "itemsize", None)
    if isinstance(size, int):
        return size
    name = dtype_name(dtype)
    if name not in _ITEM_BYTES:
        raise ValueError(
            f"dtype is {dtype!r}, must be a torch dtype or one of {', '.join(sorted(_ITEM_BYTES))}"
        )
    return _ITEM_BYTES[name]


@dataclass
class LayerGroupSpec:
    """Layers whose KV has one shape: ``num_kv_heads`` per GPU, ``head_size`` elements a head."""

    num_layers: int
    num_kv_heads: int
    head_size: int
    layer_indices: Sequence[int] = ()
    dtype: Any = "bfloat16"
    compress_ratio: int = 1


@dataclass
class ModelConfig:
    """What the KV of one token is, and over how many ranks it is spread.

    ``num_kv_heads`` counts the heads of the whole model.  ``kv_dim`` is 2 (K and V) or 1 (one
    latent vector, MLA); ``use_mla=True`` is the older spelling of the latter.  ``dtype`` is a torch
    dtype or its name.  ``model_name`` is new: models of the same shape that share a sidecar must
    differ in it, or they would read each other's KV.  ``freeze()`` forbids changes from then on.
    """

    num_layers: int = 1
    num_kv_heads: int = 1
    head_size: int = 1
    kv_dim: int = 2
    dtype: Any = "bfloat16"
    tp_size: int = 1
    pp_size: int = 1
    dp_size: int = 1
    enable_dp_attention: bool = False
    attn_cp_size: int = 1
    cp_size: int = 1
    nnodes: int = 1
    master_host: str = "localhost"
    master_ports: Any = ("5556", "5557", "5558")
    use_trtllm_subprocess: bool = False
    trtllm_subprocess_host: str = "localhost"
    trtllm_subprocess_ports: Any = ("6667", "6668", "6669")
    instance_num: int = 1
    layer_groups: Sequence[LayerGroupSpec] | None = None
    use_mla: bool = False
    model_name: str = ""

    def __post_init__(self) -> None:
        if self.use_mla:
            self.kv_dim = 1
        if self.kv_dim not in (1, 2):
            raise ValueError(f"kv_dim is {self.kv_dim}, must be 1 (MLA) or 2 (K and V)")
        for name in (
            "num_layers", "num_kv_heads", "head_size", "tp_size", "pp_size", "dp_size",
            "instance_num", "nnodes",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, must be an integer from 1 on")

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"this ModelConfig is frozen, {name} cannot be set")
        object.__setattr__(self, name, value)

    def freeze(self) -> None:
        """Forbids further changes."""
        object.__setattr__(self, "_frozen", True)

    @property
    def token_size_in_bytes(self) -> int:
        """Bytes of one token's KV over all layers and heads of the model."""
        if self.layer_groups:
            return sum(
                g.num_layers * self.kv_dim * g.num_kv_heads * g.head_size * dtype_bytes(g.dtype)
                for g in self.layer_groups
            )
        heads = self.num_kv_heads * self.head_size
        return self.num_layers * self.kv_dim * heads * dtype_bytes(self.dtype)

    @property
    def num_kv_heads_per_node(self) -> int:
        """KV heads that the ranks of one host hold together."""
        return max(1, self.num_kv_heads // self.nnodes)

    @property
    def ranks(self) -> int:
        """Ranks that hold parts of one client's KV, each registered by one ``KVTPClient``."""
        tensor = self.tp_size // self.dp_size if self.enable_dp_attention else self.tp_size
        return max(1, tensor) * self.pp_size

    @property
    def total_clients(self) -> int:
        """``KVManager`` objects that share the sidecar."""
        return self.instance_num * self.dp_size


@dataclass
class RankInfo:
    """Where one process stands among the ranks."""

    model_config: ModelConfig
    tp_rank: int = 0
    pp_rank: int = 0
    dp_rank: int = 0
    cp_rank: int = 0
    attn_cp_rank: int = 0
    node_rank: int = 0
    instance_id: int = 0
    pp_start_layer: int = 0
    pp_end_layer: int = 0
    local_rank: int = 0

    @property
    def dp_client_id(self) -> int:
        """The ``KVManager`` that this rank belongs to."""
        return self.instance_id * self.model_config.dp_size + self.dp_rank

    @property
    def intra_client_id(self) -> int:
        """Which of that client's ranks within one pipeline stage it is."""
        config = self.model_config
        return self.tp_rank % (config.ranks // config.pp_size)

    @property
    def num_layers_per_pp_stage(self) -> int:
        """Layers of this rank's pipeline stage."""
        if self.pp_end_layer > self.pp_start_layer:
            return self.pp_end_layer - self.pp_start_layer
        return self.model_config.num_layers // self.model_config.pp_size


@dataclass
class SWAPoolConfig:
    """Pool of sliding-window states of the original; see ``CacheConfig.swa``."""

    num_slots: int = 1024
    num_ssd_slots: int = 0
    num_remote_slots: int = 0
    num_layers: int = 61
    bytes_per_token_per_layer: int = 584


@dataclass
class CacheConfig:
    """How large the tiers are.  Only whoever starts the sidecar decides it; others join.

    ``tokens_per_block`` is the unit of caching, a power of two.  ``num_cpu_blocks`` and
    ``num_ssd_blocks`` count blocks of the model's size; at their defaults the configured
    ``cpu_cache_gb`` and ``ssd_cache_gb`` count.  Fields that this implementation does not need are
    accepted; ``KVManager`` says of each that was set, in one line, what took its place.
    """

    tokens_per_block: int = 16
    eviction_policy: str | None = None
    enable_cpu: bool = True
    enable_ssd: bool = False
    enable_gds: bool = False
    enable_nixl: bool = False
    nixl_extra_config: Mapping[str, Any] | None = field(default=None, repr=False)
    enable_remote: bool = False
    enable_kv_sharing: bool = False
    enable_p2p_cpu: bool = False
    enable_p2p_ssd: bool = False
    enable_3rd_remote: bool = False
    distributed_node_id: int = -1
    num_tmp_cpu_blocks: int = 500
    use_hugepage_cpu_buffer: bool = False
    use_hugepage_tmp_buffer: bool = False
    hugepage_size_bytes: int = 2 * 1024 * 1024
    num_cpu_blocks: int = ORIGINAL_CPU_BLOCKS
    num_ssd_blocks: int = ORIGINAL_SSD_BLOCKS
    num_remote_blocks: int | None = None
    num_local_blocks: int | None = None
    ssd_cache_dir: str | Sequence[str] | None = None
    remote_cache_path: str | Sequence[str] | None = None
    remote_cache_size_mode: str = "file_size"
    remote_file_size: int | None = None
    remote_file_num: int | None = None
    remote_file_prefix: str | None = None
    remote_config_custom: Mapping[str, Any] | None = field(default=None, repr=False)
    local_zmq_ip: str | None = None
    local_zmq_port: int | None = None
    redis_host: str | None = None
    redis_port: int | None = None
    redis_password: str | None = field(default=None, repr=False)
    local_ip: str | None = None
    node_ttl_seconds: int = 30
    use_mooncake_store_backend: bool = False
    mooncake_store_config_path: str | None = None
    mooncake_store_pp_rank: int = 0
    mooncake_store_pp_size: int = 1
    mooncake_store_node_layer_start: int = 0
    mooncake_store_node_layer_end: int = 0
    mooncake_store_total_layers: int = 0
    swa: SWAPoolConfig | None = None
    enable_swa_transfer: bool = False
    # -- spelled so up to 1.0
    gpu_kv_layout_type: Any = None
    cpu_kv_layout_type: Any = None
    ssd_kv_layout_type: Any = None
    remote_kv_layout_type: Any = None
    use_gds: bool = False
    index_accel: bool = True
    use_ce_transfer_h2d: bool = False
    use_ce_transfer_d2h: bool = False
    transfer_sms_h2d: int = 8
    transfer_sms_d2h: int = 8
    evict_ratio: float | None = None
    evict_start_threshold: float | None = None
    max_blocks_per_file: int = -1
    ssd_cache_iouring_entries: int = 512
    ssd_cache_iouring_flags: int = 0
    enable_trace: bool = False
    trace_file_path: str = "./flexkv_trace.log"
    trace_max_file_size_mb: int = 100
    trace_max_files: int = 5
    trace_flush_interval_ms: int = 1000

    def __post_init__(self) -> None:
        tokens = self.tokens_per_block
        if not isinstance(tokens, int) or tokens < 1 or tokens & (tokens - 1):
            raise ValueError(f"tokens_per_block is {tokens!r}, must be a power of two")

    def sidecar_options(self, block_bytes: int) -> dict[str, Any]:
        """Options for a sidecar that has to be started; ``block_bytes`` over all ranks."""
        options: dict[str, Any] = {}
        if self.num_cpu_blocks != ORIGINAL_CPU_BLOCKS:
            # The pool hands memory to block sizes in extents, so that one in part filled is added.
            room = -(-self.num_cpu_blocks * block_bytes // _EXTENT_BYTES) + 1
            options["cpu_cache_gb"] = room * _EXTENT_BYTES / 1e9
            options["num_cpu_blocks"] = self.num_cpu_blocks
        if self.enable_ssd:
            if self.num_ssd_blocks != ORIGINAL_SSD_BLOCKS:
                options["ssd_cache_gb"] = self.num_ssd_blocks * block_bytes / 1e9
            if self.ssd_cache_dir is not None:
                folders = self.ssd_cache_dir
                options["ssd_cache_dir"] = (
                    folders if isinstance(folders, str) else ";".join(folders)
                )
        for name in ("eviction_policy", "evict_ratio", "evict_start_threshold"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        return options

    def replaced(self) -> dict[str, str]:
        """Fields that were set and have no effect, each with what took its place."""
        defaults = {f.name: f.default for f in fields(self)}
        return {
            name: what for name, what in _REPLACED.items() if getattr(self, name) != defaults[name]
        }


_EXTENT_BYTES = 64 << 20
_LAYOUT = "blocks lie in the host tier as the ranks registered them, one after another"
_COPY = "the GPU's copy engines move blocks, without kernels"
_FILES = "the SSD tier's own options replace it"
_SHARING = "sharing between hosts is configured at the sidecar"
_REPLACED = {
    "enable_gds": "SSD blocks come through the host tier",
    "use_gds": "SSD blocks come through the host tier",
    "enable_nixl": "SSD blocks come through the host tier",
    "nixl_extra_config": "SSD blocks come through the host tier",
    "enable_remote": "remote tiers are configured at the sidecar",
    "enable_kv_sharing": _SHARING,
    "enable_p2p_cpu": _SHARING,
    "enable_p2p_ssd": _SHARING,
    "enable_3rd_remote": "remote tiers are configured at the sidecar",
    "num_tmp_cpu_blocks": "there is no staging pool",
    "use_hugepage_cpu_buffer": "the host tier is a memory file that the kernel backs as it can",
    "use_hugepage_tmp_buffer": "there is no staging pool",
    "num_remote_blocks": "remote tiers are configured at the sidecar",
    "remote_cache_path": "remote tiers are configured at the sidecar",
    "remote_config_custom": "remote tiers are configured at the sidecar",
    "use_mooncake_store_backend": _SHARING,
    "swa": "sliding-window groups are cached as blocks of their own",
    "enable_swa_transfer": "sliding-window groups are cached as blocks of their own",
    "gpu_kv_layout_type": "the layout is read off the registered tensors",
    "cpu_kv_layout_type": _LAYOUT,
    "ssd_kv_layout_type": _LAYOUT,
    "remote_kv_layout_type": _LAYOUT,
    "index_accel": "there is one index, in the sidecar",
    "use_ce_transfer_h2d": _COPY,
    "use_ce_transfer_d2h": _COPY,
    "transfer_sms_h2d": _COPY,
    "transfer_sms_d2h": _COPY,
    "max_blocks_per_file": _FILES,
    "ssd_cache_iouring_entries": _FILES,
    "ssd_cache_iouring_flags": _FILES,
    "enable_trace": "the sidecar's log and metrics tell what was moved",
}


def __getattr__(name: str) -> Any:
    """``UserConfig`` and its loaders, which live in a module that reads the settings."""
    from flexkv.common import user_config

    if name in user_config.__all__:
        return getattr(user_config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
