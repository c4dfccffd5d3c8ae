"""How long a load waits at most while the sidecar's pool gets its pages and is pinned.

One process owns KV-like memory and plays both halves of an engine over the real protocol. It loads
64 MiB again and again from the moment the sidecar serves, while threads give the pool its pages,
while it is pinned, and for some seconds afterwards; a stall is what a load takes beyond the median
of those last ones.

    python tests/gpu/stall.py --gb 64 --out records.json
    python tests/gpu/stall.py --gb 2 --device cpu --out records.json       (without a GPU)
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness.records import Records

from flexkv import protocol as p
from gpu import connectors
from gpu.figures import quantile
from gpu.rank import BLOCK_BYTES, Rank

_LOAD_BYTES = 64 << 20
_BAR_MS = 5.0
_LOOK_EVERY_S = 0.25


def one_load_ms(rank: Rank) -> float:
    """From the go to the end, as the worker sees it."""
    scheduler, worker = rank.sessions()
    begin = time.perf_counter()
    job = rank.start_load(scheduler, worker, 1)
    done = rank.wait_done(worker, job)
    if done.status != p.STATUS_OK:
        raise SystemExit(f"a load ended as {p.STATUS_NAMES.get(done.status)}")
    return (time.perf_counter() - begin) * 1e3


def loads_until(rank: Rank, reached: Callable[[], bool], limit_s: float) -> list[float]:
    """Loads, one after another, until that is reached (asked now and then) or the time is over."""
    times: list[float] = []
    begun = looked = time.monotonic()
    while time.monotonic() - begun < limit_s:
        times.append(one_load_ms(rank))
        if time.monotonic() - looked > _LOOK_EVERY_S:
            if reached():
                break
            looked = time.monotonic()
    return times


def main() -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--gb", type=float, default=64)
    parser.add_argument("--limit-s", type=float, default=60)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    sidecar = connectors.sidecar(args.gb)
    os.environ.update(sidecar.environment)
    rank = Rank(args.device, _LOAD_BYTES // BLOCK_BYTES, scattered=True)
    scheduler, worker = rank.sessions()
    rank.fill_source(1)
    rank.extend(scheduler, 1, 1)
    rank.save(scheduler, worker, 1)
    begun = time.monotonic()
    filling = loads_until(rank, lambda: sidecar.status()["pool"]["finished"], args.limit_s)
    pinning = loads_until(
        rank, lambda: connectors.pinned(sidecar), args.limit_s - (time.monotonic() - begun)
    )
    seconds = time.monotonic() - begun
    whole = connectors.pinned(sidecar)
    after = loads_until(rank, lambda: False, min(seconds, 5))
    rank.close()
    usual = quantile(after, 0.5)
    records = Records()
    records.add(f"pool of {args.gb:g} GB: loads of 64 MiB go on while it is pinned for",
                seconds if whole else f"more than {seconds:.0f}", "s")  # fmt: skip
    phases = (
        ("while its pages come", filling), ("while it is pinned", pinning), ("pinned", after)
    )  # fmt: skip
    for label, times in phases:
        if not times:
            continue
        for share, word in ((0.5, "median"), (0.99, "99th of a hundred")):
            records.add(f"pool of {args.gb:g} GB, {label}: a load of 64 MiB, {word}",
                        quantile(times, share), "ms")  # fmt: skip
        longest = max(times) - usual
        records.add(f"pool of {args.gb:g} GB, {label}: longest stall of {len(times)} loads",
                    longest, "ms", bar=None if times is after else _BAR_MS,
                    met=None if times is after else longest <= _BAR_MS)  # fmt: skip
    records.write(pathlib.Path(args.out))
    for record in records.all:
        print(f"{record.name} = {record.value} {record.unit}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
