"""The token times of an engine that has nothing to do with the cache, while blocks move."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import processes
from harness.sidecar import Sidecar

from gpu import tasks
from gpu.figures import quantile
from gpu.remote import RemoteEngine
from gpu.session import Results

_WINDOWS = 5


@dataclass(frozen=True, slots=True)
class Fragments:
    """How the moved blocks lie on the GPU: bytes of a layer's share, and in how many buffers."""

    page: int = 65536
    one_buffer: bool = False

    @classmethod
    def named(cls, text: str) -> Fragments:
        """`64` are fragments of 64 KiB, `16s` rows of 16 KiB at one stride in one buffer."""
        return cls(int(text.rstrip("s")) << 10, text.endswith("s"))

    def __str__(self) -> str:
        kib = self.page >> 10
        if self.one_buffer:
            return f"{kib} KiB rows of one buffer"
        return f"scattered {kib} KiB fragments"


class Mover:
    """`gpu.moving` in a process of its own."""

    def __init__(
        self, sidecar: Sidecar, log: Path, gib: float, device: str, fragments: Fragments
    ) -> None:
        path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "gpu.moving",
                    "--device",
                    device,
                    "--gib",
                    str(gib),
                    "--page",
                    str(fragments.page),
                    *["--one-buffer"] * fragments.one_buffer,
                ],
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


def beside_moves(
    engine: RemoteEngine, sidecar: Sidecar, results: Results, *, tiny: bool,
    limits_gb_s: Sequence[float] = (), geometries: Sequence[Fragments] = (Fragments(),),
) -> None:  # fmt: skip
    """Windows of decoding alone, beside loads, and beside loads and saves, in turns.

    Then the same with each direction under each of these limits (`load_limit_gb_s`,
    `save_limit_gb_s`), to find the highest that a neighbour does not feel; all of it for each
    geometry of the moved blocks.
    """
    outputs = 24 if tiny else 200
    engine.call(120, tasks.gaps_ms, 0, 8, outputs)
    for fragments in geometries:
        mover = Mover(
            sidecar, results.folder / "mover.log", 0.03 if tiny else 0.5,
            "cpu" if tiny else "cuda", fragments,
        )  # fmt: skip
        try:
            for limit in (0.0, *limits_gb_s):
                set_limits(sidecar, limit)
                _beside(engine, mover, results, outputs, limit, fragments)
        finally:
            mover.close()
            set_limits(sidecar, 0.0)


def set_limits(sidecar: Sidecar, gb_s: float) -> None:
    """What each direction of each rank may move in a second; 0: as fast as the link."""
    with sidecar.session() as session:
        session.control("set", {"load_limit_gb_s": gb_s, "save_limit_gb_s": gb_s}, 5.0)


def _beside(
    engine: RemoteEngine, mover: Mover, results: Results, outputs: int, limit: float,
    fragments: Fragments,
) -> None:  # fmt: skip
    gaps: dict[str, list[float]] = {"alone": [], "load": [], "both": []}
    rates: dict[str, list[float]] = {"load": [], "both": []}
    for window in range(_WINDOWS):
        for what in gaps:
            if what != "alone":
                mover.begin(what)
            gaps[what] += engine.call(120, tasks.gaps_ms, window, 8, outputs)
            if what != "alone":
                rates[what].append(mover.end())
    results.row(
        part="neighbour", fragments=str(fragments), limit=limit, gaps_ms=gaps, rates=rates
    )  # fmt: skip
    alone = quantile(gaps["alone"], 0.99)
    under = f", at most {limit:g} GB/s each way" if limit else ""
    if fragments != Fragments():
        under = f", {fragments}{under}"
    results.add(f"neighbour's time a token alone{under}, p50",
                statistics.median(gaps["alone"]), "ms")  # fmt: skip
    results.add(f"neighbour's time a token alone{under}, p99", alone, "ms")
    for what, words in (("load", "loads"), ("both", "loads and saves")):
        what_moves = "" if fragments != Fragments() else f" of {fragments}"
        results.add(f"moved beside it: {words}{what_moves}{under}",
                    statistics.median(rates[what]), "GB/s")  # fmt: skip
        p99 = quantile(gaps[what], 0.99)
        results.add(f"neighbour's time a token beside {words}{under}, p50",
                    statistics.median(gaps[what]), "ms")  # fmt: skip
        results.add(f"neighbour's time a token beside {words}{under}, p99", p99, "ms", limit=alone,
                    bar=round(1.04 * alone, 3), met=p99 <= 1.04 * alone)  # fmt: skip
