"""A prompt's KV into the cache and back, once, with every step spelled out."""

from __future__ import annotations

import argparse
import time

import torch

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

LAYERS, HEADS, HEAD_SIZE, BLOCK_TOKENS, GPU_BLOCKS = 4, 8, 64, 16, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    device = parser.parse_args().device

    # What a token's KV is, and the unit of caching.
    model = ModelConfig(LAYERS, HEADS, HEAD_SIZE, dtype=torch.float16, model_name="example")
    manager = KVManager(model, CacheConfig(tokens_per_block=BLOCK_TOKENS, num_cpu_blocks=2048))
    manager.start()

    # The engine's KV cache: a tensor [K or V, block, token, head, element] for each layer.
    layout = KVCacheLayout(
        KVCacheLayoutType.LAYERFIRST, LAYERS, GPU_BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE
    )
    caches = [
        torch.randn(layout.kv_shape[1:], device=device).to(torch.float16) for _ in range(LAYERS)
    ]
    rank = KVTPClient(manager.gpu_register_port, dp_client_id=0, device_id=0)
    rank.register_to_server(caches, layout)
    while not manager.is_ready():
        time.sleep(0.01)

    # A prompt of 100 tokens lies in blocks 3, 9, 4, …: a slot is block · tokens_per_block + offset.
    tokens = torch.randint(0, 32_000, (100,))
    blocks = torch.tensor([3, 9, 4, 17, 5, 40])
    slots = (blocks[:, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).reshape(-1)
    put = manager.put_async(tokens, slots)
    answer = manager.wait(put)[put]  # from here on the blocks may be used again
    assert answer.status is KVResponseStatus.SUCCESS
    print(f"put: {int(answer.return_mask.sum())} of {len(tokens)} tokens, in whole blocks")

    # Another request with the same beginning gets it into its own blocks.
    target = torch.arange(100, 106)
    target_slots = (target[:, None] * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS)).reshape(-1)
    get = manager.get_async(tokens, target_slots)
    answer = manager.wait(get)[get]
    assert answer.status is KVResponseStatus.SUCCESS
    print(f"get: {int(answer.return_mask.sum())} tokens")
    for cache in caches:
        assert torch.equal(cache[:, blocks], cache[:, target])
    print("every byte is the same")

    rank.shutdown()
    manager.shutdown()


if __name__ == "__main__":
    main()
