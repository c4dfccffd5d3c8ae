"""What the bytes of a KV block depend on besides the tokens, as one digest: ``Hello.namespace``.

Scheduler and workers compute it each for itself from their copies of ``vllm_config`` and must come
to the same value; so nothing in it depends on the process, the rank, a port or an address, nor on
what vLLM changes in a worker only (the model's configuration object while loading, the fitted
``max_model_len``).  The effective configuration follows from what is here: the configuration files,
the overrides, vLLM's version.  Block size, strides and the number of heads a rank holds are not
here: they are in the layout fingerprints of the ranks, which the sidecar mixes in.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexkv import hashseed
from flexkv.config import Settings
from flexkv.errors import ConfigError
from flexkv.model_source import UNSURE, config_files, source_identity

FORMAT = 1
"""Raised when the meaning of anything below changes."""

_MAX_DEPTH = 12
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MODEL_FIELDS = (
    "dtype",
    "quantization",
    "quantization_config",
    "hf_overrides",
    "model_class_overrides",
    "model_impl",
    "code_revision",
    "original_max_model_len",  # long-context rotary embeddings choose their factors by it
    "disable_sliding_window",
)
_CACHE_FIELDS = (
    "cache_dtype",
    "sliding_window",
    "prefix_match_unit",
    "kv_cache_dtype_skip_layers",
    "mamba_cache_dtype",
    "mamba_ssm_cache_dtype",
    "mamba_cache_mode",
    "calculate_kv_scales",
    "kv_sharing_fast_prefill",
)
_PARALLEL_FIELDS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "decode_context_parallel_size",
    "dcp_kv_cache_interleave_size",
    "cp_kv_cache_interleave_size",
)
_SPECULATIVE_FIELDS = ("method", "num_speculative_tokens", "quantization", "kv_cache_dtype")
_LORA_REMEDY = (
    "Remedy: set flexkv_weights_version in kv_connector_extra_config to a text that changes with "
    "the adapters"
)
_LIFE_DIGITS_MIN = 16
_LORA_FIELDS = ("max_lora_rank", "lora_dtype", "target_modules", "fully_sharded_loras")


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """``digest`` (64 hex digits) of ``description``; ``notes`` are for the user, logged once."""

    digest: str
    description: Mapping[str, Any]
    notes: tuple[str, ...]


def identity(vllm_config: Any, settings: Settings) -> Identity:
    """The namespace of an engine; ``ConfigError`` where its model cannot be described."""
    notes: list[str] = []
    model_config = vllm_config.model_config
    description = {
        "format": FORMAT,
        "vllm": getattr(sys.modules.get("vllm"), "__version__", None),
        "device": str(getattr(getattr(vllm_config, "device_config", None), "device_type", None)),
        "model": _model(model_config, vllm_config.load_config, notes),
        "weights_version": settings.weights_version,
        "speculative": _speculative(vllm_config, notes),
        "lora": _lora(vllm_config, settings, notes),
        "cache": _fields(vllm_config.cache_config, _CACHE_FIELDS),
        "hash": [hashseed.algorithm(vllm_config), hashseed.resolve(vllm_config, settings)],
        "parallel": _fields(vllm_config.parallel_config, _PARALLEL_FIELDS),
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return Identity(hashlib.sha256(text.encode()).hexdigest(), description, tuple(notes))


def namespace_digest(vllm_config: Any, settings: Settings) -> str:
    """``identity(...).digest``."""
    return identity(vllm_config, settings).digest


def _model(model_config: Any, load_config: Any, notes: list[str]) -> dict[str, Any]:
    # A model fetched from object storage has its place in model_weights, and a copy in model.
    name = getattr(model_config, "model_weights", "") or getattr(model_config, "model", None)
    if not name or not isinstance(name, (str, os.PathLike)):
        raise ConfigError(f"FlexKV cannot describe this engine's model: its name is {name!r}")
    source, unsure = source_identity(
        str(name),
        getattr(model_config, "revision", None),
        getattr(getattr(model_config, "hf_config", None), "_commit_hash", None),
        str(plain(getattr(load_config, "load_format", "auto"))),
        int(getattr(model_config, "seed", 0) or 0),
    )
    notes.extend(unsure)
    found = {"source": source, **_fields(model_config, _MODEL_FIELDS)}
    if getattr(model_config, "hf_config_path", None):
        found["config_files"] = config_files(Path(model_config.hf_config_path))
    overrides = getattr(model_config, "hf_overrides", None)
    if callable(overrides) and not str(getattr(overrides, "__module__", "")).startswith("vllm."):
        notes.append(UNSURE.format(name=str(name), why="hf_overrides is a function"))
    found["loader"] = plain(getattr(load_config, "model_loader_extra_config", None))
    return found


def _speculative(vllm_config: Any, notes: list[str]) -> dict[str, Any] | None:
    config = getattr(vllm_config, "speculative_config", None)
    if config is None:
        return None
    found = _fields(config, _SPECULATIVE_FIELDS)
    draft = getattr(config, "draft_model_config", None)
    if draft is not None:
        load_config = getattr(config, "draft_load_config", None) or vllm_config.load_config
        found["model"] = _model(draft, load_config, notes)
    return found


def _lora(vllm_config: Any, settings: Settings, notes: list[str]) -> dict[str, Any] | None:
    """Adapters: the block hash has their names and paths, not their weights.

    Which adapters there will be is not in ``vllm_config``, so two engines could know different
    ones by one name, and so could two lives of one engine.  Unless the user vouches for them with
    ``weights_version``, an engine with adapters shares with no other, and with none of its own
    earlier lives: its namespace has its id and that of its life in it.
    """
    config = getattr(vllm_config, "lora_config", None)
    if config is None:
        return None
    found = _fields(config, _LORA_FIELDS)
    defaults = getattr(config, "default_mm_loras", None) or {}
    found["default_mm_loras"] = {}
    for modality, path in sorted(defaults.items()):
        weights, unsure = source_identity(str(path), None, None, "auto", 0)
        found["default_mm_loras"][str(modality)] = weights
        notes.extend(unsure)
    if not settings.weights_version:
        found["engine"] = str(getattr(vllm_config.kv_transfer_config, "engine_id", None))
        found["life"] = _life(vllm_config)
        notes.append(
            "LoRA is on and adapters are known by name only: FlexKV serves this engine only what "
            f"it saved itself since it started. {_LORA_REMEDY}"
        )
    return found


def _life(vllm_config: Any) -> str:
    """What scheduler and workers of one start of an engine share, and no other start has.

    The id of the engine is not: vLLM draws one, but users set it.  That of the instance is the
    time at which its configuration was made, in ns; releases before that drew 20 bits.
    """
    life = str(getattr(vllm_config, "instance_id", None) or "")
    if len(life) < _LIFE_DIGITS_MIN:
        raise ConfigError(
            "LoRA is on, adapters are known by name only, and vLLM tells one start of an engine "
            f"from another by {life!r}, which may come again. {_LORA_REMEDY}"
        )
    return life


def _fields(config: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The named attributes that ``config`` has (vLLM's versions differ), as plain values."""
    return {name: plain(getattr(config, name)) for name in names if hasattr(config, name)}


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON that is the same in every process: no addresses, no order of a set."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)  # JSON has neither NaN nor infinity
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, enum.Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, Mapping):
        return {str(k): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, depth + 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v, depth + 1) for v in value), key=repr)
    if not isinstance(value, type) and callable(getattr(value, "to_dict", None)):
        return plain(value.to_dict(), depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return _ADDRESS.sub("", repr(value))
