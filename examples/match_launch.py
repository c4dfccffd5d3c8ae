"""The two-phase form: match first, look at the mask, then launch or cancel."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

BLOCK_TOKENS, GPU_BLOCKS = 16, 64


def slots(*blocks: int) -> torch.Tensor:
    """The slot mapping of whole blocks."""
    starts = torch.tensor(blocks) * BLOCK_TOKENS
    return (starts[:, None] + torch.arange(BLOCK_TOKENS)).reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    device = parser.parse_args().device
    # One latent vector a token (MLA): kv_dim is 1.
    model = ModelConfig(
        num_layers=2, num_kv_heads=1, head_size=576, kv_dim=1, dtype=torch.bfloat16,
        model_name="example-mla",
    )  # fmt: skip
    manager = KVManager(model, CacheConfig(tokens_per_block=BLOCK_TOKENS))
    manager.start()
    layout = KVCacheLayout(
        KVCacheLayoutType.LAYERFIRST, 2, GPU_BLOCKS, BLOCK_TOKENS, 1, 576, kv_dim=1
    )
    caches = [torch.randn(GPU_BLOCKS, BLOCK_TOKENS, 576, device=device).bfloat16() for _ in "ab"]
    rank = KVTPClient(manager.gpu_register_port)
    rank.register_to_server(caches, layout)
    while not manager.is_ready():
        time.sleep(0.01)
    manager.reset()  # nothing is left of an earlier run

    system = np.arange(4 * BLOCK_TOKENS)  # a system prompt, shared by all
    put = manager.put_async(system, slots(0, 1, 2, 3))
    assert manager.wait(put)[put].status is KVResponseStatus.SUCCESS

    # A request whose first block the engine has itself: it asks for the rest only.
    request = np.concatenate([system, np.arange(1000, 1050)])
    not_on_gpu = np.ones(len(request), dtype=bool)
    not_on_gpu[:BLOCK_TOKENS] = False
    task, mask = manager.get_match(request, not_on_gpu)
    print(f"match: tokens {mask.argmax()} to {mask.nonzero()[0][-1]} can be loaded")
    manager.launch(task, slots(11, 12, 13))
    assert manager.wait(task)[task].status is KVResponseStatus.SUCCESS
    assert all(torch.equal(cache[1:4], cache[11:14]) for cache in caches)

    # What is new of it is saved: put_match leaves out what is cached.
    task, mask = manager.put_match(request)
    print(f"put_match: {mask.sum()} tokens are new")
    manager.launch(task, slots(14, 15, 16))
    assert manager.wait(task)[task].status is KVResponseStatus.SUCCESS

    # Several matched requests as one batch; one that is not wanted any more is cancelled.
    tasks = [manager.get_match(request[: n * BLOCK_TOKENS])[0] for n in (1, 2, 3)]
    manager.cancel(tasks[0])
    batch = manager.launch(tasks[1:], [slots(20, 21), slots(30, 31, 32)], as_batch=True)
    answer = manager.wait(batch)[batch[0]]
    print(f"batch: {[int(mask.sum()) for mask in answer.return_mask]} tokens")

    # The same tokens in another namespace (a LoRA, a tenant's salt) are other keys.
    task, mask = manager.get_match(request, namespace=["tenant-b"])
    print(f"another namespace: {mask.sum()} tokens")
    manager.reset()
    task, mask = manager.get_match(request)
    print(f"after reset: {mask.sum()} tokens")
    rank.shutdown()
    manager.shutdown()


if __name__ == "__main__":
    main()
