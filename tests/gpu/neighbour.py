"""The token times of an engine that has nothing to do with the cache, while blocks move."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import processes
from harness.sidecar import Sidecar

from gpu import tasks
from gpu.figures import quantile
from gpu.remote import RemoteEngine
from gpu.session import Results

_WINDOWS = 5


class Mover:
    """`gpu.moving` in a process of its own."""

    def __init__(self, sidecar: Sidecar, log: Path, gib: float, device: str) -> None:
        path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gpu.moving", "--device", device, "--gib", str(gib)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env={**os.environ, **sidecar.environment, "PYTHONPATH": os.pathsep.join(path)},
                preexec_fn=processes.die_with_parent,  # noqa: PLW1509 (one system call)
            )
        self._read()

    def begin(self, what: str) -> None:
        """`load` or `both` from now on."""
        self._say(what)

    def end(self) -> float:
        """Ends it; GB/s that were moved."""
        self._say("end")
        moved = self._read()
        return float(moved["bytes"] / moved["seconds"] / 1e9)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that moves blocks has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def beside_moves(engine: RemoteEngine, sidecar: Sidecar, results: Results, *, tiny: bool) -> None:
    """Windows of decoding alone, beside loads, and beside loads and saves, in turns."""
    outputs = 24 if tiny else 200
    mover = Mover(
        sidecar, results.folder / "mover.log", 0.03 if tiny else 0.5, "cpu" if tiny else "cuda"
    )
    gaps: dict[str, list[float]] = {"alone": [], "load": [], "both": []}
    rates: dict[str, list[float]] = {"load": [], "both": []}
    try:
        engine.call(120, tasks.gaps_ms, 0, 8, outputs)
        for window in range(_WINDOWS):
            for what in gaps:
                if what != "alone":
                    mover.begin(what)
                gaps[what] += engine.call(120, tasks.gaps_ms, window, 8, outputs)
                if what != "alone":
                    rates[what].append(mover.end())
    finally:
        mover.close()
    results.row(part="neighbour", gaps_ms=gaps, rates=rates)
    alone = quantile(gaps["alone"], 0.99)
    results.add("neighbour's time a token alone, p50", statistics.median(gaps["alone"]), "ms")
    results.add("neighbour's time a token alone, p99", alone, "ms")
    for what, words in (("load", "loads"), ("both", "loads and saves")):
        results.add(f"moved beside it: {words} of scattered 64 KiB fragments",
                    statistics.median(rates[what]), "GB/s")  # fmt: skip
        p99 = quantile(gaps[what], 0.99)
        results.add(f"neighbour's time a token beside {words}, p50",
                    statistics.median(gaps[what]), "ms")  # fmt: skip
        results.add(f"neighbour's time a token beside {words}, p99", p99, "ms", limit=alone,
                    bar=round(1.04 * alone, 3), met=p99 <= 1.04 * alone)  # fmt: skip
