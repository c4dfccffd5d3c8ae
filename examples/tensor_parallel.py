"""A manager and two ranks, each a process of its own that holds its part of the heads."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection

import torch

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

LAYERS, HEADS, HEAD_SIZE, TP, BLOCK_TOKENS, GPU_BLOCKS = 2, 8, 32, 2, 16, 32


def rank_process(rank: int, device: str, register_port: str, pipe: Connection) -> None:
    """One rank: lends its tensors, fills blocks 0 to 3, and says later whether 10 to 13 equal."""
    whole = KVCacheLayout(
        KVCacheLayoutType.LAYERFIRST, LAYERS, GPU_BLOCKS, BLOCK_TOKENS, HEADS, HEAD_SIZE
    )
    layout = whole.div_head(TP)
    name = device if device == "cpu" else f"{device}:{rank % torch.cuda.device_count()}"
    torch.manual_seed(rank)
    caches = [torch.randn(layout.kv_shape[1:]).half().to(name) for _ in range(LAYERS)]
    index = torch.device(name).index or 0
    client = KVTPClient(register_port, 0, index, 0, rank)
    client.register_to_server(caches, layout)
    pipe.send("registered")
    pipe.recv()  # the manager has loaded blocks 0 to 3 into 10 to 13
    pipe.send(all(torch.equal(cache[:, 0:4], cache[:, 10:14]) for cache in caches))
    client.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    device = parser.parse_args().device
    model = ModelConfig(
        LAYERS, HEADS, HEAD_SIZE, dtype=torch.float16, tp_size=TP, model_name="example-tp"
    )
    manager = KVManager(model, CacheConfig(tokens_per_block=BLOCK_TOKENS))
    manager.start()
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for rank in range(TP):
        ours, theirs = spawn.Pipe()
        arguments = (rank, device, manager.gpu_register_port, theirs)
        spawn.Process(target=rank_process, args=arguments, daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        assert pipe.recv() == "registered"
    while not manager.is_ready():
        time.sleep(0.01)

    tokens = torch.randint(0, 32_000, (4 * BLOCK_TOKENS,))
    put = manager.put_async(tokens, torch.arange(0, 4 * BLOCK_TOKENS))
    assert manager.wait(put)[put].status is KVResponseStatus.SUCCESS
    start = 10 * BLOCK_TOKENS
    get = manager.get_async(tokens, torch.arange(start, start + 4 * BLOCK_TOKENS))
    assert manager.wait(get)[get].status is KVResponseStatus.SUCCESS
    for rank, pipe in enumerate(pipes):
        pipe.send("loaded")
        equal = pipe.recv()
        print(f"rank {rank}: its part is {'the same' if equal else 'WRONG'}")
        assert equal
    manager.shutdown()


if __name__ == "__main__":
    main()
