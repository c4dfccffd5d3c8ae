"""Model folders with nothing but a `config.json`: vLLM draws the weights itself."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from harness.model import TINY_LATENT

SHAPES: dict[str, dict[str, int]] = {
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
               num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
               max_position_embeddings=33000),
    "tiny": dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=1024,
                 max_position_embeddings=4096),
    # Latent attention (MLA) with the dimensions of DeepSeek-V2-Lite, all of its layers dense.
    "mla": dict(hidden_size=2048, intermediate_size=10944, num_hidden_layers=27,
                num_attention_heads=16, num_key_value_heads=16, kv_lora_rank=512,
                qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, vocab_size=102400,
                first_k_dense_replace=27, max_position_embeddings=33000),
    "tiny-mla": asdict(TINY_LATENT),
}  # fmt: skip
#: Those of a rehearsal on a CPU.
TINY = ("tiny", "tiny-mla")


def write_config(shape: str) -> Path:
    """The configuration of a Llama or a DeepSeek-V2 of this shape; returns its folder.

    Always the same one: vLLM finds what it compiled for a model by the model's path.
    """
    folder = Path(tempfile.gettempdir()) / f"flexkv-gpu-{os.getuid()}" / shape
    family = (
        dict(architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2", q_lora_rank=None)
        if latent(shape)
        else dict(architectures=["LlamaForCausalLM"], model_type="llama")
    )
    config = dict(
        **family, rms_norm_eps=1e-5, rope_theta=500000.0, hidden_act="silu",
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        torch_dtype="bfloat16", **SHAPES[shape],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def latent(shape: str) -> bool:
    """Whether a token's keys and values are kept as one latent vector for all heads (MLA)."""
    return "kv_lora_rank" in SHAPES[shape]


def kv_bytes_per_token(shape: str, value_bytes: int = 2) -> int:
    """Bytes of keys and values of one token over all layers."""
    s = SHAPES[shape]
    if latent(shape):
        values = s["kv_lora_rank"] + s["qk_rope_head_dim"]
    else:
        values = 2 * s["num_key_value_heads"] * s["head_dim"]
    return s["num_hidden_layers"] * values * value_bytes
