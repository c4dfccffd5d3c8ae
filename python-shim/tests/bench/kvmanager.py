"""What the Python API costs: matches, puts and gets of one GiB, and a neighbour's price.

    FLEXKV_JAR=… python python-shim/tests/bench/kvmanager.py [--device cuda] [--out build/bench]

``get_match`` of 512 blocks of 16 tokens is timed twice: of prompts that this manager was asked
about before (their keys are remembered), and of prompts whose tokens it sees for the first time,
beside a bare echo of as many bytes.  The rate of a put and of a get of one GiB is held against what
the device backend did while it copied (``busy_us`` of the rank's mover in the sidecar's status), so
the ratio is the share of the time that the API leaves to the copies.  Two managers in two processes
ask at once, each with a pause between its questions, as schedulers do.

Writes ``kvmanager.json``: records of {name, value, unit, limit, ratio, bar, met, command, machine}.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from bench_rig import machine, percentile, table
from kv_rig import Fleet, Shape, sidecar_environment, status
from real_sidecar import missing

from flexkv import protocol as p
from flexkv.common.request import KVResponseStatus

BLOCKS = 512
SMALL = Shape("kv-first", layers=1, kv_heads=1, head_size=8)
LARGE = Shape("blockfirst", layers=16, kv_heads=8, head_size=128)
"""1 MiB a block of 16 tokens, in one piece."""

LAYERED = Shape("kv-first", layers=16, kv_heads=8, head_size=128)
"""The same bytes in 32 pieces of 32 KiB."""

GIB = 1 << 30
PAUSE_S = 0.001
MATCH_BAR_US, COPY_BAR, NEIGHBOUR_BAR = 60.0, 0.95, 1.03


class Matches:
    """One manager with 8 prompts of 512 blocks in the cache."""

    def __init__(self, client: int) -> None:
        self.fleet = Fleet.start(SMALL, model="bench", blocks=2 * BLOCKS, client=client)
        self.manager = self.fleet.manager
        rng = np.random.default_rng(7)
        self.prompts = [rng.integers(0, 1 << 17, BLOCKS * 16) for _ in range(8)]
        slots = self.fleet.slots(range(BLOCKS))
        for prompt in self.prompts:
            task = self.manager.put_async(prompt, slots)
            answer = self.manager.wait(task)[task]
            assert answer.status is KVResponseStatus.SUCCESS, answer
        self._query = 1 << 40

    def ask(self, prompt: Any) -> float:
        """µs of one ``get_match``."""
        began = time.perf_counter_ns()
        task, mask = self.manager.get_match(prompt)
        took = (time.perf_counter_ns() - began) / 1000
        assert mask.all()
        self.manager.cancel(task)
        return took

    def again(self, rounds: int, pause_s: float = 0.0) -> list[float]:
        """Prompts that were asked about before."""
        times = []
        for i in range(rounds):
            times.append(self.ask(self.prompts[i % 8]))
            if pause_s:
                time.sleep(pause_s)
        return times

    def first(self, rounds: int) -> list[float]:
        """As if this manager had never seen the tokens: nothing is remembered."""
        times = []
        for i in range(rounds):
            self.manager._matcher.hasher._chunks.clear()
            self.manager._matcher.hasher._used = 0
            times.append(self.ask(self.prompts[i % 8]))
        return times

    def echo(self, rounds: int) -> list[float]:
        """A record as long as 512 keys that is only sent back."""
        session = self.manager._link.session()
        assert session is not None
        payload = bytes(BLOCKS * 32)
        times = []
        for _ in range(rounds):
            self._query += 1
            began = time.perf_counter_ns()
            assert session.send(p.Echo(self._query, payload))
            assert session.wait_for(self._query, 5_000_000.0) is not None
            times.append((time.perf_counter_ns() - began) / 1000)
        return times


class Table:
    """Collects records."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.records: list[dict[str, Any]] = []

    def add(
        self, name: str, value: float, unit: str, limit: float | None, bar: float | None,
        *, least: bool = False,
    ) -> None:  # fmt: skip
        ratio = None if not limit else round(value / limit, 3)
        against = ratio if unit == "GB/s" or name.endswith("beside_another") else value
        met = None
        if bar is not None and against is not None:
            met = against >= bar if least else against <= bar
        self.records.append(
            {
                "name": name, "value": round(value, 2), "unit": unit,
                "limit": None if limit is None else round(limit, 2), "ratio": ratio, "bar": bar,
                "met": met, "command": f"python {' '.join(sys.argv)}", "machine": self.where,
            }
        )  # fmt: skip


def matches(rows: Table, rounds: int) -> None:
    bench = Matches(0)
    bench.again(300)
    bench.echo(300)
    known, new, echoed = bench.again(rounds), bench.first(rounds // 4), bench.echo(rounds)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        bar = MATCH_BAR_US if name == "p50" else None
        limit = percentile(echoed, share)
        rows.add(f"get_match_512_{name}_known_prefix", percentile(known, share), "us", limit, bar)
        rows.add(f"get_match_512_{name}_first_sight", percentile(new, share), "us", limit, bar)
    neighbour(rows, bench, rounds)
    bench.fleet.close()


def neighbour(rows: Table, bench: Matches, rounds: int) -> None:
    """Alone and beside another in turns, so that both see the same machine."""
    command = [sys.executable, __file__, "--neighbour"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    alone: list[float] = []
    beside: list[float] = []
    for turn in range(8):
        for busy in (False, True) if turn % 2 else (True, False):
            other.stdin.write("ask\n" if busy else "rest\n")
            other.stdin.flush()
            assert other.stdout.readline() == "so\n"
            (beside if busy else alone).extend(bench.again(rounds // 16, PAUSE_S))
    other.stdin.close()
    other.wait(20)
    other.stdout.close()
    rows.add(
        "get_match_512_p50_beside_another", percentile(beside, 0.5), "us", percentile(alone, 0.5),
        NEIGHBOUR_BAR,
    )  # fmt: skip


def be_neighbour() -> None:
    """The other process: asks, or rests, as it is told by lines on stdin."""
    import threading

    bench = Matches(1)
    bench.again(300)
    asking, ended = threading.Event(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            if asking.wait(0.01):
                bench.again(1, PAUSE_S)

    thread = threading.Thread(target=work)
    thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        (asking.set if line == "ask\n" else asking.clear)()
        print("so", flush=True)
    ended.set()
    thread.join()
    bench.fleet.close()


def copies(rows: Table, shape: Shape, name: str, device: str, rounds: int) -> None:
    """One GiB in, and out again, several times; the best of each, and its mover's own rate."""
    fleet = Fleet.start(shape, model=name, blocks=1024, client=2, device=device)
    count = GIB // fleet.ranks[0].block_bytes
    slots = fleet.slots(range(count))
    for tensor in fleet.ranks[0].tensors:
        tensor.view(torch.uint8).random_(0, 256)
    fleet.synchronize()
    moved: dict[str, list[tuple[float, float]]] = {"save": [], "load": []}
    for turn in range(rounds):
        tokens = np.arange(count * 16) + turn * 7
        fleet.manager.reset()
        for side in ("save", "load"):
            before = _mover(fleet, side)
            began = time.perf_counter()
            if side == "save":
                task = fleet.manager.put_async(tokens, slots)
            else:
                task = fleet.manager.get_async(tokens, slots)
            answer = fleet.manager.wait(task, timeout=60)[task]
            took = time.perf_counter() - began
            assert answer.status is KVResponseStatus.SUCCESS, answer.status
            assert answer.return_mask.all(), f"{int(answer.return_mask.sum())} tokens"
            size, busy_us = (b - a for a, b in zip(before, _mover(fleet, side), strict=True))
            assert size == GIB, size
            moved[side].append((GIB / took / 1e9, GIB / busy_us / 1e3))
    for side, word in (("save", "put"), ("load", "get")):
        best = max(moved[side][1:])
        rows.add(f"{word}_1gib_{name}_{device}", best[0], "GB/s", best[1], COPY_BAR, least=True)
    fleet.close()


def _mover(fleet: Fleet, side: str) -> tuple[int, int]:
    """Bytes moved and µs spent by the rank's mover so far."""
    found = status(fleet.manager.server_recv_port)
    ours = next(i for i in found["instances"] if i["name"].endswith("/2"))
    return ours["ranks"][0][side]["bytes"], ours["ranks"][0][side]["busy_us"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--neighbour", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if options.neighbour:
        be_neighbour()
        return 0
    why = missing()
    if why:
        sys.stderr.write(f"kvmanager bench: {why}\n")
        return 1
    rows = Table(machine())  # before anything of ours runs
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(Path(folder), cpu_cache_gb=3, idle_exit_s=60),
    ):
        matches(rows, options.rounds)
        copies(rows, LARGE, "one_piece", options.device, options.copies)
        copies(rows, LAYERED, "by_layer", options.device, options.copies)
    options.out.mkdir(parents=True, exist_ok=True)
    Path(options.out, "kvmanager.json").write_text(json.dumps(rows.records, indent=1) + "\n")
    sys.stdout.write(f"{rows.where}\n{table(rows.records)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
