"""What could move KV rows at all: every call of the driver that `bare_copy.cpp` knows, in turns.

    python tests/gpu/copy_candidates.py --out build/bench/gpu --budget-s 150
    python tests/gpu/copy_candidates.py --out build/bench/gpu --only 'staged|rows3d$' --beside

For each geometry and direction: gigabytes a second of each candidate beside large copies (the
limit), the median of some passes over the same scattered blocks, and how long this thread took to
submit one copy. The first kind of host memory is the sidecar's own (huge pages, registered in
pieces of 32 MiB); a few candidates are repeated with the others. `--beside` looks at the step
times of another process that computes (`gemms.py`) while a candidate runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.records import Records

_ROOT = Path(__file__).resolve().parents[2]
_OWNER = _ROOT / "connector-jvm/src/main/resources/io/flexkv/transfer/cuda_memory.py"
_PIECE = 32 << 20
_LOOK_S = 1.0
_USUAL, *_OTHERS = HOSTS = (f"huge:{_PIECE}", "huge", f"memfd:{_PIECE}", "memfd")

#: Of rows in an allocation a layer and of rows in one alike.
PLAIN = (
    "batch", "batch+call=128", "batch+call=2048", "batch+events", "batch+window=16",
    "batch+window=96", "batch+order=ids", "batch+order=layers=16", "batch+order=layers=128",
    "batch+order=layers=1024", "batch+streams=2", "batch+threads=2", "batch+threads=4", "staged",
    "batch+window=96+poll",
)  # fmt: skip
STRIDED = (
    "rows2d", "rows3d", "rows3d+events", "rows3d+window=96", "rows3d+window=96+call=16",
    "rows3d+window=32+call=16", "rows3d+call=512", "rows3d+call=8", "rows3d+order=ids",
    "rows2d+events+call=64", "rows2d+streams=2+call=1", "rows2d+streams=4+call=1",
    "rows3d+streams=2+call=8", "rows2d+threads=2", "rows3d+threads=2", "rows3d+threads=4",
    "graph", "graph+call=512", "staged", "staged+gathers=2", "staged+gathers=3", "staged+call=8",
    "rows3d+window=96+poll", "batch", "batch+order=layers=128", "rows3d+fresh", "rows2d+fresh",
    "rows3d+fresh+warm=1", "rows3d+fresh+warm=8", "rows3d+fresh+warm=64", "rows3d+fresh+warm=512",
    "rows3d+fresh+warm=64+few", "rows3d+fresh+warm=1+few", "rows2d+fresh+warm=64",
    "batch+fresh", "rows3d+warm=1", "rows3d+warm=8", "rows3d+warm=64", "rows3d+warm=512",
)  # fmt: skip
BESIDE = ("link", "batch", "rows3d", "staged", "staged+gathers=2")
REPEATED = ("batch", "batch+window=96", "rows3d", "rows3d+window=96")


@dataclass(frozen=True, slots=True)
class Geometry:
    """How blocks lie on the GPU."""

    single: bool
    layers: int
    kib: int

    @property
    def words(self) -> str:
        """As `bare_copy` takes it; blocks have no neighbours."""
        return f"{'single' if self.single else 'apart'} {self.layers} {self.kib << 10} 1"

    def __str__(self) -> str:
        where = "one allocation" if self.single else "an allocation a layer"
        return f"{self.kib} KiB rows, {self.layers} layers, {where}"


#: The most telling first: the time may end before the list. 33 layers are no power of two apart.
GEOMETRIES = (
    Geometry(True, 32, 4), Geometry(True, 32, 16), Geometry(False, 32, 16), Geometry(True, 33, 4),
    Geometry(False, 32, 32), Geometry(True, 80, 4), Geometry(True, 32, 32), Geometry(True, 32, 64),
    Geometry(False, 32, 4), Geometry(True, 80, 8), Geometry(True, 32, 8), Geometry(True, 80, 16),
    Geometry(False, 32, 8), Geometry(True, 64, 8), Geometry(False, 80, 16),
)  # fmt: skip


class Bare:
    """One `bare_copy` with its own pinned memory."""

    def __init__(self, program: str, host: str, handles: list[str]) -> None:
        self._process = subprocess.Popen(
            [program, host, *handles], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._answer() != ["ready"]:
            raise SystemExit("bare_copy did not come up")

    def _answer(self) -> list[str]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("bare_copy ended")
        return line.split()

    def copy(
        self, direction: str, way: str, geometry: Geometry, size: int, seed: int
    ) -> tuple[float, float] | None:
        """Gigabytes a second, and seconds it took to submit; None if it was refused."""
        self.begin(direction, way, geometry, size, seed)
        return self.end()

    def begin(self, direction: str, way: str, geometry: Geometry, size: int, seed: int) -> None:
        """Starts a copy; `end` follows."""
        assert self._process.stdin
        self._process.stdin.write(f"copy {direction} {way} {geometry.words} {size} {seed}\n")
        self._process.stdin.flush()

    def end(self) -> tuple[float, float] | None:
        """What the copy did, as `copy` says it."""
        first, *rest = self._answer()
        if first == "refused":
            return None
        return int(rest[0]) / int(first), int(rest[1]) / 1e9

    def close(self) -> None:
        """Ends the program."""
        self._process.kill()
        self._process.wait()


class Decoder:
    """`gemms.py`: step times of a process that computes."""

    def __init__(self, *options: str) -> None:
        path = [str(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, str(_ROOT / "tests/gpu/gemms.py"), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip
        assert self._process.stdout
        self._process.stdout.readline()

    def begin(self, seconds: float) -> None:
        """Looks for so long, from now on."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, float]:
        """What was seen."""
        assert self._process.stdout
        seen: dict[str, float] = json.loads(self._process.stdout.readline())
        return seen

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def beside(
    bare: Bare, records: Records, geometry: Geometry, ways: tuple[str, ...], size: int
) -> None:
    """Step times of a process that computes: alone, and while each way moves rows."""
    decoder = Decoder()
    for direction in ("load", "save"):
        decoder.begin(_LOOK_S)
        alone = decoder.end()
        for way in ways:
            first = bare.copy(direction, way, geometry, size, 1)
            if first is None:
                continue
            times = int((_LOOK_S + 0.3) * first[0] * 1e9 / size) + 1
            bare.begin(direction, f"{way}+times={times}", geometry, size, 1)
            time.sleep(0.15)
            decoder.begin(_LOOK_S)
            seen = decoder.end()
            rate = bare.end()
            moved = f"{rate[0]:.1f} GB/s" if rate else "refused"
            name = f"beside {direction}, {geometry}: {way} at {moved}, a step"
            for figure in ("p50", "p99"):
                records.add(f"{name}, {figure}", seen[figure], "ms", limit=alone[figure])
            print(f"{name}: p50 {seen['p50']:.3f} of {alone['p50']:.3f}, "
                  f"p99 {seen['p99']:.3f} of {alone['p99']:.3f} ms", flush=True)  # fmt: skip
    decoder.close()


@contextlib.contextmanager
def gpu_memory(sizes: list[int]) -> Iterator[list[str]]:
    """Handles of allocations that another process owns meanwhile."""
    owner = subprocess.Popen(
        [sys.executable, str(_OWNER), *map(str, sizes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert owner.stdout
        yield owner.stdout.readline().split()[1:]
    finally:
        owner.kill()
        owner.wait()


def compiled(folder: str) -> str:
    """The path of `bare_copy`, made from its source."""
    program = f"{folder}/bare_copy"
    source = _ROOT / "tests/gpu/bare_copy.cpp"
    subprocess.run(["g++", "-O2", "-std=c++17", "-o", program, source, "-ldl", "-pthread"],
                   check=True)  # fmt: skip
    return program


def measure(
    bare: Bare, records: Records, geometry: Geometry, ways: tuple[str, ...], size: int,
    rounds: int, label: str,
) -> None:  # fmt: skip
    """All ways in turns, in both directions; one record each."""
    rows = size // (geometry.kib << 10)
    for direction in ("load", "save"):
        rates: dict[str, list[float]] = {way: [] for way in ("link", *ways)}
        submits: dict[str, list[float]] = {way: [] for way in rates}
        for seed in range(-1, rounds):
            for way, seen in rates.items():
                one = bare.copy(direction, way, geometry, size, seed + 100)
                if one and seed >= 0:
                    seen.append(one[0])
                    submits[way].append(one[1])
        link = statistics.median(rates["link"])
        for way in ways:
            name = f"{label}{direction}, {geometry}: {way}"
            if not rates[way]:
                records.add(name, "refused", "")
                continue
            us = statistics.median(submits[way]) / rows * 1e6
            rate = statistics.median(rates[way])
            records.add(f"{name}, {us:.2f} us a row to submit", rate, "GB/s", limit=link)
            print(f"{rate:6.2f} of {link:5.2f} GB/s, {us:5.2f} us a row: {name}", flush=True)


def main() -> int:
    """Runs what the time allows; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="build/bench/gpu")
    parser.add_argument("--budget-s", type=float, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu-bytes", type=int, default=8 << 30)
    parser.add_argument("--pass-bytes", type=int, default=512 << 20)
    parser.add_argument("--widest-kib", type=int, default=64)
    parser.add_argument("--only", default="", help="regular expression of the candidates")
    parser.add_argument("--beside", action="store_true", help="step times instead of rates")
    parser.add_argument("--name", default="gpu-copy-candidates", help="of the record file")
    args = parser.parse_args()
    records, begun = Records(), time.monotonic()
    Path(args.out).mkdir(parents=True, exist_ok=True)
    most = max(g.layers for g in GEOMETRIES)
    layer = args.gpu_bytes // most // (2 << 20) * (2 << 20)
    sizes = [args.gpu_bytes] + [layer] * most
    geometries = [g for g in GEOMETRIES if g.kib <= args.widest_kib]
    with tempfile.TemporaryDirectory() as folder, gpu_memory(sizes) as handles:
        program = compiled(folder)
        for host in HOSTS:
            usual = host == _USUAL
            bare = Bare(program, f"{args.pass_bytes}:{host}", handles)
            for geometry in geometries if usual else geometries[:5]:
                ways: tuple[str, ...] = (
                    (STRIDED if geometry.single else PLAIN) if usual else REPEATED
                )
                if not geometry.single:
                    ways = tuple(way for way in ways if not way.startswith("rows"))
                if args.beside:
                    ways = BESIDE if usual and geometry.single else ()
                ways = tuple(way for way in ways if re.search(args.only, way))
                label = "" if usual else f"host {host}: "
                if not ways:
                    continue
                if time.monotonic() - begun < args.budget_s * (0.85 if usual else 1):
                    if args.beside:
                        beside(bare, records, geometry, ways, args.pass_bytes)
                    else:
                        measure(bare, records, geometry, ways, args.pass_bytes, args.rounds, label)
                    records.write(Path(args.out) / f"{args.name}.json")
            bare.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
