"""What a second busy instance costs the lookups of the first.

Two plain instances of one sidecar, each in a process of its own and with a chain of its own.  One
asks alone, then both at once, in turns of ``ROUNDS`` so that a change of the machine meets both.
The first one's figures are compared: alone, beside an instance that asks as fast as it can, and
beside one that asks at the pace of an engine's scheduling steps (one lookup each ``STEP_S``).

    FLEXKV_JAR=… python python-shim/tests/bench/two_instances.py [--turns 12] [--out build/bench]

Needs three cores that nobody else uses: two for the instances, one for the sidecar's thread.  With
fewer it says so in the records, and the figures are those of a shared core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_rig import Record, percentile, run
from lookup import WARM_UP, Bench

KEYS = 512
ROUNDS = 400
STEP_S = 0.005
BAR = 1.03
"""What was asked for: both at once lose no more than 3 % of one's p50."""


def neighbour(path: str, asks: Event, fast: Event, ready: Connection) -> None:
    """The second instance: asks while it is told to."""
    bench = Bench(path, 50.0, seed=6)
    for _ in range(WARM_UP // 2):
        bench.ask(KEYS)
    ready.send(True)
    while True:
        asks.wait()
        bench.ask(KEYS)
        if not fast.is_set():
            time.sleep(STEP_S)


MODES = ("alone", "beside steps", "beside all it can")


def measure(path: str, turns: int) -> dict[str, list[list[float]]]:
    """µs of the first instance's lookups, a list a turn, by what the second does."""
    context = multiprocessing.get_context("spawn")
    asks, fast = context.Event(), context.Event()
    mine, theirs = context.Pipe()
    other = context.Process(target=neighbour, args=(path, asks, fast, theirs), daemon=True)
    other.start()
    bench = Bench(path, 50.0)
    for _ in range(WARM_UP):
        bench.ask(KEYS)
    assert mine.poll(60), "the second instance is not ready"
    found: dict[str, list[list[float]]] = {name: [] for name in MODES}
    for turn in range(turns):
        for name in MODES[turn % 3 :] + MODES[: turn % 3]:  # each of them first as often as last
            (fast.set if name == "beside all it can" else fast.clear)()
            (asks.clear if name == "alone" else asks.set)()
            time.sleep(0.01)
            found[name].append([bench.ask(KEYS) for _ in range(ROUNDS)])
    other.kill()
    other.join()
    return found


def records(found: dict[str, list[list[float]]], where: str) -> list[Record]:
    """One record a figure: the median turn's, beside that of the instance alone.

    The ratio is the median of the turns' own, each against the same turn alone.
    """
    rows = []
    for name in MODES:
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            each = [percentile(turn, share) for turn in found[name]]
            alone = [percentile(turn, share) for turn in found["alone"]]
            lone = name == "alone"
            ratio = percentile([a / b for a, b in zip(each, alone, strict=True)], 0.5)
            bar = BAR if not lone and label == "p50" else None
            rows.append(
                {
                    "name": f"lookup of {KEYS} keys, {label}, {name}",
                    "value": round(percentile(each, 0.5), 2),
                    "unit": "us",
                    "limit": None if lone else round(percentile(alone, 0.5), 2),
                    "ratio": None if lone else round(ratio, 3),
                    "bar": bar,
                    "met": None if bar is None else ratio <= bar,
                    "command": f"python {' '.join(sys.argv)}",
                    "machine": where,
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Lookups of two instances at once.")
    parser.add_argument("--turns", type=int, default=12)
    return run(
        "two_instances",
        lambda path, given, where: records(measure(path, given.turns), where),
        parser,
        "alone",
    )


if __name__ == "__main__":
    sys.exit(main())
