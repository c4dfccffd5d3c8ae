"""A process that computes like a decode step: one CUDA graph of 64 matrix products, over and over.

Reads a number of seconds a line, and answers with one JSON object: how many steps it made in that
time, and their median and 99th of a hundred in ms. Ends with standard input.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from gpu.figures import quantile

_WIDTH, _BATCH, _PRODUCTS = 4096, 64, 64


def main() -> None:
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
            graph.replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
        answer = {"steps": len(times), "p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
