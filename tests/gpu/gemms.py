"""A process that computes like a decode step: one CUDA graph of 64 matrix products, over and over.

With `--copies` a step also brings six tensors of 8 KiB to the GPU before and one back after it, as
an engine's does.

Reads a number of seconds a line, and answers with one JSON object: how many steps it made in that
time, and their median and 99th of a hundred in ms. Ends with standard input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from gpu.figures import quantile

_WIDTH, _BATCH, _PRODUCTS = 4096, 64, 64
_INPUTS, _INPUT_LENGTH = 6, 2048


def copies() -> tuple[Callable[[], None], Callable[[], None]]:
    """What goes to the GPU before a step, and what comes back after it."""
    inputs = [
        (torch.zeros(_INPUT_LENGTH, dtype=torch.int32).pin_memory(),
         torch.zeros(_INPUT_LENGTH, dtype=torch.int32, device="cuda")) for _ in range(_INPUTS)
    ]  # fmt: skip
    tokens = torch.zeros(_BATCH, dtype=torch.int64, device="cuda")
    seen = torch.zeros(_BATCH, dtype=torch.int64).pin_memory()

    def bring() -> None:
        for host, device in inputs:
            device.copy_(host, non_blocking=True)

    def fetch() -> None:
        seen.copy_(tokens, non_blocking=True)

    return bring, fetch


def nothing() -> None:
    """Without `--copies`."""


def main() -> None:
    bring, fetch = copies() if "--copies" in sys.argv[1:] else (nothing, nothing)
    weights = [torch.randn(_WIDTH, _WIDTH, device="cuda", dtype=torch.bfloat16) / 64
               for _ in range(_PRODUCTS)]  # fmt: skip
    state = torch.randn(_BATCH, _WIDTH, device="cuda", dtype=torch.bfloat16)

    def step() -> torch.Tensor:
        out = state
        for weight in weights:
            out = out @ weight
        return out

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while time.perf_counter() < end:
            begin = time.perf_counter()
            bring()
            graph.replay()
            fetch()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
        answer = {"steps": len(times), "p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
