"""A randomly initialised model on disk, in which every cached key and value matters.

vLLM's own `load_format=dummy` is of no use for a test of bytes: it draws *every* parameter, norm
weights included, from ±0.001, so attention adds about 1e-9 of the residual, and the answer depends
on the last token alone. A cache that returned garbage would pass. Here the embedding has unit
variance, norms are one, projections keep the variance, and query and key projections are scaled
until a softmax picks a few tens of positions out of thousands: one wrong block changes the tokens
(`tests/e2e/test_sensitivity.py` holds that).

float32, because greedy equality between two orders of summation is a fair demand only if the two
best logits are further apart than rounding: with bfloat16 every thirtieth token of a random model
is a tie, with float32 one in a million.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("flexkv.tests.model")

#: Standard deviation of an attention logit; 2 leaves about 2 % of the positions with the weight.
ATTENTION_LOGIT_STD = 2.2

_VALUE_GAIN = 2.0
_OUTPUT_GAIN = 1.5

_END_OF_TEXT = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a random Llama (the names are those of its `config.json`)."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    vocab_size: int = 1024
    max_position_embeddings: int = 4096

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers, as float32."""
        return self.num_hidden_layers * 2 * self.num_key_value_heads * self.head_dim * 4


@dataclass(frozen=True, slots=True)
class LatentShape(ModelShape):
    """Dimensions of a random DeepSeek-V2 whose layers are all dense: latent attention (MLA).

    What a token leaves behind is one vector a layer, for all heads. The latent's dimensions are
    those that vLLM's kernels know.
    """

    num_key_value_heads: int = 4
    head_dim: int = 192
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of latents of one token over all layers, as bfloat16."""
        return self.num_hidden_layers * (self.kv_lora_rank + self.qk_rope_head_dim) * 2


#: Starts in two seconds and answers 600 tokens in tens of milliseconds: the shape of the tests.
TINY = ModelShape()
TINY_LATENT = LatentShape()


def write_model(folder: Path, shape: ModelShape = TINY, seed: int = 1) -> Path:
    """Writes config, tokenizer and weights of a random model unless they are there.

    Whoever wants the same model meanwhile waits.
    """
    stamp = folder / "made-from.json"
    recipe = json.dumps(
        {"recipe": 2, "seed": seed, "logit_std": ATTENTION_LOGIT_STD, **asdict(shape)}
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == recipe:
            return folder
        logger.info("writing a random model into %s", folder)
        weights = _weights(shape, np.random.default_rng(seed))
        _write_config(folder, shape)
        _write_tokenizer(folder, shape)
        _write_safetensors(folder / "model.safetensors", weights)
        stamp.write_text(recipe)
    return folder


def _write_config(folder: Path, shape: ModelShape) -> None:
    config = {
        **_family(shape),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": _END_OF_TEXT,
        "torch_dtype": "float32",
        **asdict(shape),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _family(shape: ModelShape) -> dict[str, object]:
    if isinstance(shape, LatentShape):
        return {
            "architectures": ["DeepseekV2ForCausalLM"],
            "model_type": "deepseek_v2",
            "q_lora_rank": None,
            "first_k_dense_replace": shape.num_hidden_layers,
        }
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def _write_tokenizer(folder: Path, shape: ModelShape) -> None:
    """A byte-level tokenizer without merges, the rest of the vocabulary is filler."""
    words = ["<pad>", "<s>", "</s>", *_byte_alphabet()]
    words += [f"<filler{i}>" for i in range(len(words), shape.vocab_size)]
    special = [
        {
            "id": i,
            "content": words[i],
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in range(3)
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": shape.max_position_embeddings,
        "chat_template": "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins that byte-level tokenizers use for bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(shifted)) for b in range(256)]


def _weights(shape: ModelShape, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    linear = _Linear(rng)
    hidden, inner = shape.hidden_size, shape.intermediate_size
    ones = np.ones(hidden, dtype=np.float32)
    weights = {
        "model.embed_tokens.weight": rng.standard_normal(
            (shape.vocab_size, hidden), dtype=np.float32
        ),
        "model.norm.weight": ones,
        "lm_head.weight": linear(shape.vocab_size, hidden),
    }
    # The end of a text is never the best token: all answers are equally long.
    weights["lm_head.weight"][_END_OF_TEXT] = 0.0
    for layer in range(shape.num_hidden_layers):
        name = f"model.layers.{layer}."
        weights[name + "input_layernorm.weight"] = ones
        weights[name + "post_attention_layernorm.weight"] = ones
        if isinstance(shape, LatentShape):
            attention = _latent_attention(shape, linear)
        else:
            attention = _attention(shape, linear)
        for part, weight in attention.items():
            weights[f"{name}self_attn.{part}.weight"] = weight
        weights[name + "mlp.gate_proj.weight"] = linear(inner, hidden)
        weights[name + "mlp.up_proj.weight"] = linear(inner, hidden)
        weights[name + "mlp.down_proj.weight"] = linear(hidden, inner)
    return weights


@dataclass(frozen=True, slots=True)
class _Linear:
    """Draws matrices that keep the variance, times a gain."""

    rng: np.random.Generator

    def __call__(self, rows: int, columns: int, gain: float = 1.0) -> npt.NDArray[np.float32]:
        weight = self.rng.standard_normal((rows, columns), dtype=np.float32)
        weight *= np.float32(gain / math.sqrt(columns))
        return weight


def _attention(shape: ModelShape, linear: _Linear) -> dict[str, npt.NDArray[np.float32]]:
    query = shape.num_attention_heads * shape.head_dim
    key_value = shape.num_key_value_heads * shape.head_dim
    sharp = math.sqrt(ATTENTION_LOGIT_STD)  # once in the query, once in the key
    return {
        "q_proj": linear(query, shape.hidden_size, sharp),
        "k_proj": linear(key_value, shape.hidden_size, sharp),
        # Averaging shrinks values; the gain keeps attention's share of the residual near one half.
        "v_proj": linear(key_value, shape.hidden_size, _VALUE_GAIN),
        "o_proj": linear(shape.hidden_size, query, _OUTPUT_GAIN),
    }


def _latent_attention(shape: LatentShape, linear: _Linear) -> dict[str, npt.NDArray[np.float32]]:
    heads, latent = shape.num_attention_heads, shape.kv_lora_rank
    keys_values = linear(heads * (shape.qk_nope_head_dim + shape.v_head_dim), latent)
    per_head = keys_values.reshape(heads, -1, latent)
    per_head[:, shape.qk_nope_head_dim :] *= _VALUE_GAIN
    query = heads * (shape.qk_nope_head_dim + shape.qk_rope_head_dim)
    return {
        # All of it in the query: a norm would take the latent's share back.
        "q_proj": linear(query, shape.hidden_size, ATTENTION_LOGIT_STD),
        "kv_a_proj_with_mqa": linear(latent + shape.qk_rope_head_dim, shape.hidden_size),
        "kv_a_layernorm": np.ones(latent, dtype=np.float32),
        "kv_b_proj": keys_values,
        "o_proj": linear(shape.hidden_size, heads * shape.v_head_dim, _OUTPUT_GAIN),
    }


def _write_safetensors(path: Path, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    """Header length (8 bytes, little endian), header as JSON, the tensors one after another."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, weight in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(weight.shape),
            "data_offsets": [offset, offset + weight.nbytes],
        }
        offset += weight.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for weight in weights.values():
            file.write(weight.tobytes())


#: Matrices that every rank holds whole, so that it must be the same on each.
_REPLICATED = ("kv_a_proj_with_mqa",)


def redraw_weights(model: torch.nn.Module, seed: int = 1) -> None:
    """Gives a dummy-loaded Llama or DeepSeek-V2 in vLLM weights like those of `write_model`.

    For models whose checkpoint would be too large to write; in place. vLLM fuses query, key and
    value (rows in that order) and gate and up; the rest has the names of the checkpoint.
    """
    import torch

    # With tensor parallelism each rank holds other rows of the same matrices.
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    for number, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator(device=parameter.device)
        same = any(part in name for part in _REPLICATED)
        generator.manual_seed(seed + number + (0 if same else 10_000 * rank))
        weight = parameter.data
        if "norm" in name:
            weight.fill_(1.0)
            continue
        weight.normal_(generator=generator)
        if "embed_tokens" in name:
            continue
        weight.div_(math.sqrt(weight.shape[-1]))
        _sharpen(name, weight, model.config)
    for module in model.modules():
        if hasattr(module, "W_UK_T"):  # latent attention multiplies by parts of kv_b_proj
            module.process_weights_after_loading(module.W_UK_T.dtype)


def _sharpen(name: str, weight: torch.Tensor, config: Any) -> None:
    """The gains of `_weights`, on one matrix of a fused or a latent attention."""
    if "qkv_proj" in name:
        heads, pairs = config.num_attention_heads, config.num_key_value_heads
        keys_end = weight.shape[0] * (heads + pairs) // (heads + 2 * pairs)
        weight[:keys_end].mul_(math.sqrt(ATTENTION_LOGIT_STD))
        weight[keys_end:].mul_(_VALUE_GAIN)
    elif "q_proj" in name:
        weight.mul_(ATTENTION_LOGIT_STD)
    elif "kv_b_proj" in name:
        wide = config.qk_nope_head_dim + config.v_head_dim
        weight.view(-1, wide, weight.shape[-1])[:, config.qk_nope_head_dim :].mul_(_VALUE_GAIN)
    elif "o_proj" in name:
        weight.mul_(_OUTPUT_GAIN)
    elif "lm_head" in name:
        weight[_END_OF_TEXT].zero_()
