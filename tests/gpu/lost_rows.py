"""Saves and loads over and over, and looks for rows that a load left as they were.

    python tests/gpu/lost_rows.py --heads 3 --seconds 8
    python tests/gpu/lost_rows.py --layout "one buffer" --heads 5 --seconds 8
    python tests/gpu/lost_rows.py --device cpu --seconds 5      (without a GPU)

With batched copies of several lengths a driver lost one row of 12 KiB (three heads of 64) in about
70 loads: docs/decisions/batches-of-one-length.md. Exit status 1 if a row is wrong; each is
described.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch

from gpu.geometries import BLOCK_TOKENS, LAYOUTS, Case, Ranks

_MEMORY_BYTES = 160 << 20


def wrong_rows(ranks: Ranks, case: Case, request: int, rng: random.Random,
               fill: torch.Generator) -> int:  # fmt: skip
    """One save and one load into other blocks; the rows that differ, each told."""
    memory, moved = ranks.memories[0], case.moved
    ids = rng.sample(range(case.blocks), 2 * moved)
    source, target = ids[:moved], ids[moved:]
    memory.fill(fill)
    ranks.save(request, source)
    saved = memory.images()
    memory.fill(fill)
    before = memory.images()
    loaded = ranks.load(request, target)
    wrong = 0
    for layer, (old, one, now) in enumerate(zip(before, saved, memory.images(), strict=True)):
        wanted, seen = one[source[:loaded]].flatten(1), now[target[:loaded]].flatten(1)
        stale = old[target[:loaded]].flatten(1)
        for row in (wanted != seen).any(1).nonzero().flatten().tolist():
            places = (wanted[row] != seen[row]).nonzero().flatten()
            left = bool((seen[row] == stale[row])[places].all())
            what = "as before the load" if left else "neither old nor new"
            print(f"request {request}, layer {layer}, block {row} of {loaded}:"
                  f" {len(places)} bytes from {int(places[0])} on, {what}")  # fmt: skip
            wrong += 1
    return wrong


def main() -> int:
    """Runs as long as it was told to; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layout", default="many allocations", choices=LAYOUTS)
    parser.add_argument("--heads", type=int, default=3, help="of 64 in bfloat16: 4 KiB a row each")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    args = parser.parse_args()
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", "2")
    device = torch.device(args.device, 0) if args.device == "cuda" else torch.device("cpu")
    row = BLOCK_TOKENS * args.heads * 64 * 2 * torch.bfloat16.itemsize
    blocks = min(2048, _MEMORY_BYTES // (row * args.layers))
    case = Case(args.layout, (args.layers,), args.heads, 64, blocks, torch.bfloat16,
                blocks // 2 - 1, False)  # fmt: skip
    ranks = Ranks(case, f"rows-{os.getpid()}", [device])
    rng, fill = random.Random(args.seed), torch.Generator(device=device).manual_seed(args.seed)
    wrong = loads = 0
    begun = time.monotonic()
    while time.monotonic() - begun < args.seconds:
        loads += 1
        wrong += wrong_rows(ranks, case, loads, rng, fill)
    ranks.close()
    print(f"{wrong} rows wrong in {loads} loads of {case.moved * args.layers} rows of {row} bytes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
