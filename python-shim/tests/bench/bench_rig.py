"""What the benches beside this file share: the machine in a line, records, a sidecar, a main."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from real_sidecar import missing, settings

from flexkv import launcher
from flexkv import protocol as p
from flexkv.session import open_session

Record = dict[str, Any]
"""{name, value, unit, limit, ratio, bar, met, command, machine}."""


def machine() -> str:
    """Processor, cores, Python; to be asked for before anything of the bench runs."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return (
        f"{model}, {free_cores():.1f} of {os.cpu_count()} cores free, "
        f"Python {platform.python_version()}"
    )


def free_cores(seconds: float = 1.0) -> float:
    """Cores that nobody used while we slept: with less than two the figures say little."""

    def idle_ticks() -> int:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[4]) + int(fields[5])

    before = idle_ticks()
    time.sleep(seconds)
    return (idle_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(records: list[Record], limit: str = "bare echo") -> str:
    """The records for people; ``limit`` names what they are held against."""
    width = max(len(r["name"]) for r in records) + 2
    lines = [f"{'':{width}}{'measured':>12}{limit:>12}{'asked for':>12}  met"]
    for r in records:
        beside = "-" if r["limit"] is None else f"{r['limit']:.1f}"
        bar = "-" if r["bar"] is None else f"{r['bar']:g}"
        met = "-" if r["met"] is None else ("yes" if r["met"] else "NO")
        lines.append(
            f"{r['name']:{width}}{r['value']:>9.1f} {r['unit']:4}{beside:>10}{bar:>12}  {met}"
        )
    return "\n".join(lines)


@contextmanager
def serving() -> Iterator[str]:
    """A sidecar for one bench; the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        path = str(Path(folder, "s"))
        found = settings(path, Path(folder, "run"))
        tool = p.Hello(role=p.ROLE_TOOL, pid=0)
        keep = launcher.start_or_join(found, lambda: open_session(path, tool, None), lambda: False)
        assert keep is not None
        try:
            yield path
        finally:
            os.kill(keep.server_pid, signal.SIGKILL)


def run(
    name: str,
    measure: Callable[[str, argparse.Namespace, str], list[Record]],
    parser: argparse.ArgumentParser,
    limit: str = "bare echo",
) -> int:
    """The main of a bench: measures beside a sidecar of its own, writes ``name``.json, prints it.

    ``measure`` gets the socket's path, the arguments, and the machine's line.
    """
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    arguments = parser.parse_args()
    why = missing()
    if why:
        sys.stderr.write(f"bench {name}: {why}\n")
        return 1
    where = machine()
    with serving() as path:
        records = measure(path, arguments, where)
    arguments.out.mkdir(parents=True, exist_ok=True)
    Path(arguments.out, f"{name}.json").write_text(json.dumps(records, indent=1) + "\n")
    sys.stdout.write(f"{where}\n{table(records, limit)}\n")
    return 0
