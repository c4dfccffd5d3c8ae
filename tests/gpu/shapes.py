"""Model folders with nothing but a `config.json`: vLLM draws the weights itself."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

SHAPES: dict[str, dict[str, int]] = {
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
               num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
               max_position_embeddings=33000),
    "tiny": dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=1024,
                 max_position_embeddings=4096),
}  # fmt: skip


def write_config(shape: str) -> Path:
    """The configuration of a Llama of this shape; returns its folder.

    Always the same one: vLLM finds what it compiled for a model by the model's path.
    """
    folder = Path(tempfile.gettempdir()) / f"flexkv-gpu-{os.getuid()}" / shape
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", rms_norm_eps=1e-5,
        rope_theta=500000.0, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, torch_dtype="bfloat16", **SHAPES[shape],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def kv_bytes_per_token(shape: str, value_bytes: int = 2) -> int:
    """Bytes of keys and values of one token over all layers."""
    s = SHAPES[shape]
    return 2 * s["num_hidden_layers"] * s["num_key_value_heads"] * s["head_dim"] * value_bytes
