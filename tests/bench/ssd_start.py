"""How long a start takes until all blocks of a full SSD are served again.

`io.flexkv.session.SsdStartBench` measures it, in fresh processes for each number of blocks: as many
as a terabyte has of 4 MiB, 1 MiB and 256 KiB, the median of three each; that of 64 KiB goes on at
the pace of the last step.  It needs 16 GB for two minutes in the folder that
`FLEXKV_BENCH_SSD_DIR` names, `build/bench` unless set.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.records import Records, read

from flexkv.config import Settings
from flexkv.java import find_jar, find_java
from flexkv.launcher import DEFAULT_JVM_ARGS

_MAIN = "io.flexkv.session.SsdStartBench"
_TIMEOUT_S = 180
_PROCESSES = 3
_TERA = 10**12
_MEASURED_KIB = (4096, 1024, 256)
_EXTRAPOLATED_KIB = 64
_BAR_S = 5.0
_SERVING_BAR_S = 1.0


def _blocks(kib: int) -> int:
    """Blocks of this size in a terabyte."""
    return _TERA // (kib << 10)


def _measure(kib: int, folder: Path) -> dict[str, float]:
    """Medians of some processes; of waits, the longest of all."""
    runs = [_run(kib, folder) for _ in range(_PROCESSES)]
    return {
        name: (max if "longest" in name else statistics.median)(run[name] for run in runs)
        for name in runs[0]
    }


def _run(kib: int, folder: Path) -> dict[str, float]:
    """The figures of one process, with as many blocks as a terabyte has of this size."""
    settings = Settings.load()
    # The sidecar's own arguments, so that what a start keeps has no more room here.
    java = [find_java(settings).path, *DEFAULT_JVM_ARGS, "-cp", str(find_jar(settings))]
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "records.json"
        command = [*java, _MAIN, str(file), str(folder), str(_blocks(kib))]
        subprocess.run(command, timeout=_TIMEOUT_S, check=True)
        return {record.name: float(record.value) for record in read(file)}


def _record(records: Records, kib: int, figures: dict[str, float]) -> None:
    blocks = f"SSD start, 1 TB of {kib} KiB ({_blocks(kib):,} blocks)"
    serving = figures["start 1: serving"]
    seconds = figures["start 1: all"]
    records.add(
        f"{blocks}: serving", serving, "s", bar=_SERVING_BAR_S, met=serving <= _SERVING_BAR_S
    )
    records.add(f"{blocks}: all are back", seconds, "s", bar=_BAR_S, met=seconds <= _BAR_S)
    records.add(f"{blocks}: … a second time, code compiled", figures["start 2: all"], "s")
    busy = figures["start 2: processor time of the cache thread"] / _blocks(kib)
    records.add(f"{blocks}: … and of that by the cache thread, a block", busy * 1e6, "us")
    for wait in ("wait p50", "wait p99", "longest wait"):
        name = f"{blocks}: a call of the cache thread meanwhile, {wait}"
        records.add(name, figures[f"start 1: {wait}"], "ms")


def _extrapolate(records: Records, before: dict[str, float], last: dict[str, float]) -> None:
    """A terabyte of the smallest blocks takes more room than most disks have to spare."""
    seconds = last["start 1: all"]
    sizes = _MEASURED_KIB[-2:]
    step = _blocks(sizes[1]) - _blocks(sizes[0])
    pace = (last["start 2: all"] - before["start 2: all"]) / step
    seconds += pace * (_blocks(_EXTRAPOLATED_KIB) - _blocks(sizes[1]))
    records.add("SSD start: a block more", pace * 1e6, "us")
    records.add(
        f"SSD start, 1 TB of {_EXTRAPOLATED_KIB} KiB, extrapolated: all are back",
        seconds,
        "s",
        bar=_BAR_S,
        met=seconds <= _BAR_S,
    )


def main() -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/ssd-start.json"))
    options = parser.parse_args()
    folder = Path(os.environ.get("FLEXKV_BENCH_SSD_DIR") or options.out.parent)
    folder.mkdir(parents=True, exist_ok=True)
    records = Records()
    measured = [_measure(kib, folder) for kib in _MEASURED_KIB]
    for kib, figures in zip(_MEASURED_KIB, measured, strict=True):
        _record(records, kib, figures)
    _extrapolate(records, measured[-2], measured[-1])
    records.write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
