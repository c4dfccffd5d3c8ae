"""The tutorial's performance test: how many requests a second, at which hit rate, and how fast.

The tutorial leaves two things to the reader, which are filled in here: the ranks that lend their KV
memory (``lend_memory``), and requests with a slot mapping (``requests``): conversations, each of
which comes back several times, longer by an answer and a question, after a shared system prompt.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

Tokens = npt.NDArray[np.int64]

GPU_BLOCKS = 1024


def lend_memory(manager: KVManager, device: str) -> KVTPClient:
    """One rank with a KV cache of ``GPU_BLOCKS`` blocks."""
    model, block_tokens = manager.model_config, manager.cache_config.tokens_per_block
    layout = KVCacheLayout(
        KVCacheLayoutType.LAYERFIRST, model.num_layers, GPU_BLOCKS, block_tokens,
        model.num_kv_heads, model.head_size,
    )  # fmt: skip
    shape = layout.kv_shape[1:]
    caches = [torch.ones(shape, dtype=model.dtype, device=device) for _ in range(model.num_layers)]
    rank = KVTPClient(manager.gpu_register_port, manager.dp_client_id, device_id=0)
    rank.register_to_server(caches, layout)
    while not manager.is_ready():
        time.sleep(0.01)
    return rank


def requests(count: int, conversations: int, seed: int) -> Iterator[Tokens]:
    """Prompts of 500 to about 6,000 tokens."""
    rng = random.Random(seed)
    words = np.random.default_rng(seed)
    system = words.integers(0, 32_000, 500)
    open_ones = [system for _ in range(conversations)]
    for _ in range(count):
        chosen = rng.randrange(conversations)
        more = words.integers(0, 32_000, rng.randint(50, 600))
        open_ones[chosen] = np.concatenate([open_ones[chosen], more])
        yield open_ones[chosen]
        if len(open_ones[chosen]) > 5_500:
            open_ones[chosen] = system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--conversations", type=int, default=10)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--cpu-blocks", type=int, default=10_000)
    options = parser.parse_args()

    model_config = ModelConfig(
        num_layers=options.layers, num_kv_heads=8, head_size=64, dtype=torch.float16,
        model_name="example-performance",
    )  # fmt: skip
    config = CacheConfig(num_cpu_blocks=options.cpu_blocks, tokens_per_block=16)
    manager = KVManager(model_config, config)
    manager.start()
    rank = lend_memory(manager, options.device)
    manager.reset()

    slots = np.arange(GPU_BLOCKS * config.tokens_per_block)
    asked = hit = saved = failed = 0
    match_us: list[float] = []
    get_s = put_s = 0.0
    began = time.perf_counter()
    for tokens in requests(options.requests, options.conversations, seed=1):
        start = time.perf_counter()
        task, mask = manager.get_match(tokens)
        match_us.append((time.perf_counter() - start) * 1e6)
        if mask.any():
            start = time.perf_counter()
            manager.launch(task, slots[: mask.sum()])
            answer = manager.wait(task)[task]
            get_s += time.perf_counter() - start
            failed += answer.status is not KVResponseStatus.SUCCESS
            hit += int(answer.return_mask.sum())
        asked += len(tokens)
        # Here an engine would compute the tokens that were not loaded.
        start = time.perf_counter()
        put = manager.put_async(tokens, slots[: len(tokens)])
        answer = manager.wait(put)[put]
        put_s += time.perf_counter() - start
        failed += answer.status is not KVResponseStatus.SUCCESS
        saved += int(answer.return_mask.sum())
    took = time.perf_counter() - began

    size = model_config.token_size_in_bytes
    print(f"{options.requests} requests in {took:.2f} s: {options.requests / took:.0f} a second")
    print(f"hit rate {100 * hit / asked:.1f} % of {asked} tokens, {failed} failures")
    print(f"get_match p50 {sorted(match_us)[len(match_us) // 2]:.0f} us")
    print(f"get {hit * size / 1e9 / max(get_s, 1e-9):.2f} GB/s, "
          f"put {saved * size / 1e9 / max(put_s, 1e-9):.2f} GB/s")  # fmt: skip
    assert failed == 0
    rank.shutdown()
    manager.shutdown()


if __name__ == "__main__":
    main()
