"""What FlexKV needs to know of a vLLM engine, and whether it may serve it at all.

Reads vLLM's configuration objects by name and defensively: they differ by version, and an attribute
that is not there means the feature is not.  Imports nothing of vLLM.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from flexkv.protocol import ROLE_SCHEDULER, ROLE_WORKER

SERVED_SPECS = ("FullAttentionSpec", "MLAAttentionSpec")
"""KV cache specifications whose blocks each hold the whole KV of their tokens."""

VIRTUAL_MEMORY = (
    "the KV cache lies in CUDA virtual memory, which no other process can map by a handle. Remedy: "
    "start vLLM without --enable-sleep-mode and --enable-cumem-allocator, and without "
    "expandable_segments:True in PYTORCH_CUDA_ALLOC_CONF"
)
"""Why such an engine is served nothing, whoever finds it out."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine, as one of its processes sees it.

    ``distinct_parts`` counts the ranks that hold different bytes of a block.
    ``refused`` is empty or one sentence: why this engine is served nothing.
    ``same_on_all_ranks``: every rank holds the same bytes, so one copy serves all.
    ``lockstep``: data parallel, where experts may be spread over engines that step together.
    ``by_priority``: vLLM may preempt a request that it has scheduled in the same step.
    ``reads_ahead``: a drafter shares the cache whose KV of a token depends on the next token too.
    """

    role: int
    instance: str
    rank: int
    world_size: int
    distinct_parts: int
    block_tokens: int
    num_blocks: int
    kv_groups: int
    can_load: bool
    can_save: bool
    refused: str
    notes: tuple[str, ...] = ()
    same_on_all_ranks: bool = False
    lockstep: bool = False
    reads_ahead: bool = False
    by_priority: bool = False


def read_facts(
    vllm_config: Any, *, scheduler: bool, kv_cache_config: Any, facade: bool
) -> EngineFacts:
    """The facts of this engine; never raises for what is merely not supported."""
    parallel = vllm_config.parallel_config
    cache = vllm_config.cache_config
    transfer = vllm_config.kv_transfer_config
    groups = len(kv_cache_config.kv_cache_groups) if kv_cache_config is not None else 1
    num_blocks = kv_cache_config.num_blocks if kv_cache_config is not None else cache.num_gpu_blocks
    notes: list[str] = []
    if facade:
        notes.append(
            "vLLM's own FlexKVConnectorV1 wraps this connector: lookups start late, loads are "
            "fenced in start_load_kv, and reset_prefix_cache(reset_connector=True) does not reach "
            "FlexKV; use kv_connector_module_path=flexkv.connector for all of it"
        )
    world_size = int(getattr(parallel, "world_size", 1) or 1)
    data_rank = int(getattr(parallel, "data_parallel_rank", 0) or 0)
    return EngineFacts(
        role=ROLE_SCHEDULER if scheduler else ROLE_WORKER,
        instance=f"{transfer.engine_id}/{data_rank}",
        rank=0 if scheduler else int(getattr(parallel, "rank", 0) or 0) % world_size,
        world_size=world_size,
        distinct_parts=_distinct_parts(vllm_config, world_size),
        block_tokens=int(cache.block_size or 0),
        num_blocks=int(num_blocks or 0),
        kv_groups=groups,
        can_load=bool(transfer.is_kv_consumer),
        can_save=bool(transfer.is_kv_producer),
        refused=_why_refused(vllm_config, kv_cache_config, groups, int(num_blocks or 0)),
        notes=tuple(notes),
        same_on_all_ranks=_same_on_all_ranks(vllm_config, kv_cache_config, world_size),
        lockstep=int(getattr(parallel, "data_parallel_size", 1) or 1) > 1,
        reads_ahead=_reads_ahead(vllm_config),
        by_priority=_by_priority(vllm_config),
    )


def _by_priority(vllm_config: Any) -> bool:
    scheduler = getattr(vllm_config, "scheduler_config", None)
    return getattr(scheduler, "policy", "fcfs") == "priority"


def _reads_ahead(vllm_config: Any) -> bool:
    """Whether vLLM drafts by EAGLE, MTP or their kind, and drops a hit's last block for it.

    Such a drafter runs one token ahead.  Newer versions can be told to keep that block.
    """
    speculative = getattr(vllm_config, "speculative_config", None)
    for name in ("use_eagle_block_drop", "use_eagle"):
        ask = getattr(speculative, name, None)
        if callable(ask):
            return bool(ask())
    return False


def _distinct_parts(vllm_config: Any, world_size: int) -> int:
    """With latent attention all ranks of a tensor-parallel group hold the same."""
    if not getattr(vllm_config.model_config, "use_mla", False):
        return world_size
    tensor = int(getattr(vllm_config.parallel_config, "tensor_parallel_size", 1) or 1)
    return max(1, world_size // tensor)


def _same_on_all_ranks(vllm_config: Any, kv_cache_config: Any, world_size: int) -> bool:
    """Whether tensor parallelism leaves the whole KV on every rank: latent attention (MLA).

    Pipeline ranks have layers of their own.  Fewer KV heads than ranks is another matter: then
    some ranks are equal, and each still has its part.
    """
    parallel = vllm_config.parallel_config
    if world_size == 1 or int(getattr(parallel, "tensor_parallel_size", 1) or 1) != world_size:
        return False
    if kv_cache_config is None:
        return False  # and nothing is served
    specs = _layer_specs(kv_cache_config.kv_cache_groups[0].kv_cache_spec)
    return {type(spec).__name__ for spec in specs} == {"MLAAttentionSpec"}


def _why_refused(vllm_config: Any, kv_cache_config: Any, groups: int, num_blocks: int) -> str:
    """The first thing that would make bytes wrong, or ''."""
    cache = vllm_config.cache_config
    model = vllm_config.model_config
    parallel = vllm_config.parallel_config
    if groups != 1:
        return f"the model has {groups} KV cache groups, and only one is served so far"
    if kv_cache_config is None:
        return (
            "vLLM does not tell what kinds of KV cache it has, and of some (sliding windows) "
            "blocks change hands unseen while their request runs. Remedy: "
            "kv_connector_module_path=flexkv.connector, or FLEXKV_PLUGIN_REPLACE=1"
        )
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    names = {type(s).__name__ for s in _layer_specs(spec)}
    other = sorted(names - set(SERVED_SPECS))
    if other:
        return f"KV caches of kind {', '.join(other)} are not served"
    if getattr(cache, "calculate_kv_scales", False):
        return "calculate_kv_scales makes the bytes of the KV cache depend on the process"
    if getattr(cache, "enable_prefix_caching", True) is False:
        return "prefix caching is off, so requests carry no block hashes"
    if getattr(model, "is_encoder_decoder", False):
        return "encoder-decoder models are not served"
    if getattr(model, "is_diffusion", False) or getattr(vllm_config, "diffusion_config", None):
        return "diffusion models rewrite blocks that already have a hash"
    unit = getattr(kv_cache_config, "hash_block_size", None) or getattr(
        cache, "prefix_match_unit", None
    )
    if unit and unit != cache.block_size:
        return f"prefix_match_unit {unit} differs from the block size {cache.block_size}"
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if (getattr(parallel, name, 1) or 1) > 1:
            return f"{name} > 1 is not served so far"
    if _in_virtual_memory(vllm_config):
        return VIRTUAL_MEMORY
    if not cache.block_size or num_blocks < 2:
        return f"block size {cache.block_size} and {num_blocks} blocks leave nothing to serve"
    return ""


def _in_virtual_memory(vllm_config: Any) -> bool:
    """Whether vLLM takes its KV cache from its own allocator; sleep mode needs that one."""
    model = vllm_config.model_config
    device = getattr(getattr(vllm_config, "device_config", None), "device_type", "")
    return device == "cuda" and any(
        getattr(model, name, False) is True
        for name in ("enable_cumem_allocator", "enable_sleep_mode")
    )


def _layer_specs(spec: Any) -> list[Any]:
    inner = getattr(spec, "kv_cache_specs", None)
    return list(inner.values()) if isinstance(inner, dict) else [spec]


def page_sizes(kv_cache_config: Any) -> dict[str, tuple[int, ...]]:
    """Bytes of one block of each layer that its specification allows (padded, unpadded)."""
    if kv_cache_config is None:
        return {}
    sizes: dict[str, tuple[int, ...]] = {}
    group = kv_cache_config.kv_cache_groups[0]
    inner = getattr(group.kv_cache_spec, "kv_cache_specs", None)
    for name in group.layer_names:
        spec = inner.get(name, None) if isinstance(inner, dict) else group.kv_cache_spec
        if spec is None:
            continue
        known = [spec.page_size_bytes]
        for attribute in ("real_page_size_bytes", "unpadded_page_size_bytes"):
            size = getattr(spec, attribute, None)
            if isinstance(size, int):
                known.append(size)
        sizes[name] = tuple(dict.fromkeys(known))
    return sizes


def adopt_failure_policy(vllm_config: Any, wanted: str) -> str:
    """Makes vLLM recompute what could not be loaded; '' or why loads must be refused.

    vLLM's default ends the request.  Its scheduler reads the policy after it has made the
    connector, from the same object, so the scheduler-side constructor can set it.  Under
    MultiConnector that object is a copy, and only the outer policy counts.
    """
    outer = _outer_config(vllm_config)
    if outer is not None:
        policy = getattr(outer.kv_transfer_config, "kv_load_failure_policy", "recompute")
        if policy == "recompute" or wanted == "fail":
            return ""
        return (
            "under MultiConnector loads need kv_load_failure_policy=recompute in the outer "
            f"--kv-transfer-config (it is {policy}); FlexKV saves, but loads nothing"
        )
    transfer = vllm_config.kv_transfer_config
    if hasattr(transfer, "kv_load_failure_policy"):
        transfer.kv_load_failure_policy = wanted
    return ""


def hidden_blocks() -> str:
    """'' or why nothing can be served inside the MultiConnector that is making us right now.

    Before vLLM 0.26 it shows a request's blocks only to the connector that loads it.  What is
    handed out to others then goes uncounted, and a save that is on its way would take their bytes
    for those of the blocks' last owner.
    """
    maker, _ = _multi_connector()
    after_alloc = getattr(type(maker), "update_state_after_alloc", None)
    code = getattr(after_alloc, "__code__", None)
    if maker is None or code is None or "new_empty" not in code.co_names:
        return ""
    return (
        "this vLLM's MultiConnector shows a request's blocks only to the connector that loads it. "
        "Remedy: vLLM 0.26 or newer, or FlexKV without MultiConnector"
    )


def wrappers_kv_cache_config() -> Any:
    """The KV cache configuration kept by vLLM's wrapper that is making us right now, or ``None``.

    The wrapper has it in place before it makes us, and does not hand it on.
    """
    for frame in _callers():
        maker: Any = frame.f_locals.get("self")
        if frame.f_code.co_name == "__init__" and hasattr(maker, "_kv_cache_config"):
            return maker._kv_cache_config
    return None


def _outer_config(vllm_config: Any) -> Any:
    """The configuration of a MultiConnector that is making us right now, or ``None``."""
    _, outer = _multi_connector()
    return outer if outer is not vllm_config else None


def _multi_connector() -> tuple[Any, Any]:
    """The MultiConnector that is making us right now, and its configuration, or ``None`` twice.

    It hands a copy to its children and leaves no trace in it, so the callers' frames are looked
    at: its constructor calls ours directly.
    """
    for frame in _callers():
        maker = frame.f_locals.get("self")
        if type(maker).__name__ == "MultiConnector" and frame.f_code.co_name == "__init__":
            return maker, frame.f_locals.get("vllm_config")
    return None, None


def _callers() -> Iterator[FrameType]:
    """The frames that led to whoever asks, the nearest first; so many as constructors nest."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(14):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
