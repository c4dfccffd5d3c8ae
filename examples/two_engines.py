"""Two engines as processes: what one put, the other loads, also after the first has ended."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import torch

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

BLOCK_TOKENS, GPU_BLOCKS, BLOCKS = 16, 32, 8


def engine(client: int, device: str, pipe: Connection) -> None:
    """One engine: obeys "put" and "get", of one prompt in its first blocks."""
    model = ModelConfig(2, 4, 64, dtype=torch.float16, instance_num=2, model_name="example-two")
    manager = KVManager(model, CacheConfig(tokens_per_block=BLOCK_TOKENS), dp_client_id=client)
    manager.start()
    layout = KVCacheLayout(KVCacheLayoutType.BLOCKFIRST, 2, GPU_BLOCKS, BLOCK_TOKENS, 4, 64)
    cache = torch.zeros(layout.kv_shape, dtype=torch.float16, device=device)
    rank = KVTPClient(manager.gpu_register_port, client)
    rank.register_to_server([cache], layout)
    while not manager.is_ready():
        time.sleep(0.01)
    tokens = torch.arange(BLOCKS * BLOCK_TOKENS)
    while (order := pipe.recv()) != "end":
        if order == "put":
            manager.reset()  # nothing is left of an earlier run
            cache[:BLOCKS] = torch.arange(BLOCKS, device=device).reshape(-1, 1, 1, 1, 1, 1) + 1
            if device != "cpu":
                torch.cuda.synchronize()
            task = manager.put_async(tokens, tokens)
        else:
            task = manager.get_async(tokens, tokens)
        answer = manager.wait(task)[task]
        assert answer.status is KVResponseStatus.SUCCESS
        seen = [int(cache[block].float().mean()) for block in range(BLOCKS)]
        pipe.send((int(answer.return_mask.sum()), seen))
    rank.shutdown()
    manager.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    device = parser.parse_args().device
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    for client in range(2):
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=engine, args=(client, device, theirs), daemon=True))
        processes[-1].start()
        pipes.append(ours)
    first, second = pipes
    first.send("put")
    print(f"engine 0 put {first.recv()[0]} tokens")
    processes[0].kill()  # in any way
    processes[0].join()
    second.send("get")
    tokens, seen = second.recv()
    print(f"engine 1 loaded {tokens} tokens: {seen}")
    assert seen == [block + 1 for block in range(BLOCKS)]
    second.send("end")
    processes[1].join()


if __name__ == "__main__":
    main()
