"""What the KV of a token depends on, for the Python API: two models must never share a key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flexkv.common.config import ModelConfig, dtype_name


def namespace_digest(config: ModelConfig, block_tokens: int, weights_version: str) -> str:
    """What the KV of a token depends on besides the tokens and the ranks' layouts, as hex."""
    groups: Sequence[Mapping[str, Any]] = [
        {
            "layers": [group.num_layers, *group.layer_indices],
            "heads": group.num_kv_heads,
            "head_size": group.head_size,
            "dtype": dtype_name(group.dtype),
            "ratio": group.compress_ratio,
        }
        for group in config.layer_groups or ()
    ]
    described = {
        "kind": "flexkv-kvmanager-1",
        "model": config.model_name,
        "weights": weights_version,
        "shape": [config.num_layers, config.num_kv_heads, config.head_size, config.kv_dim],
        "dtype": dtype_name(config.dtype),
        "ranks": [config.tp_size, config.pp_size, config.ranks],
        "block_tokens": block_tokens,
        "groups": groups,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
