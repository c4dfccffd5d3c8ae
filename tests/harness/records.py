"""Records of what a run measured, and tables made from nothing but records."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Where every run leaves its records, below the checkout.
FOLDER = Path("build/bench")
_CHECKOUT = Path(__file__).resolve().parents[2]

LEGEND = (
    "limit: what the hardware, or nothing but the engine, did in the same run · ratio: value / "
    "limit · bar: what was asked for"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One figure.

    `limit` is what the hardware (or the best known other way) did in the same run, `ratio` is value
    over limit, `bar` what was asked for and `met` the comparison; None where there is none.
    """

    name: str
    value: float | int | str
    unit: str
    limit: float | None
    ratio: float | None
    bar: float | str | None
    met: bool | None
    command: str
    machine: str


def typed_command() -> str:
    """How this run is started from the checkout, wherever that lies."""
    program = Path(sys.argv[0])
    if program.is_absolute() and program.is_relative_to(_CHECKOUT):
        program = program.relative_to(_CHECKOUT)
    return shlex.join([Path(sys.executable).name, str(program), *sys.argv[1:]])


class Records:
    """Collects the records of one run."""

    def __init__(self) -> None:
        self._command = typed_command()
        self._machine = describe_machine()
        self.all: list[Record] = []

    def add(
        self,
        name: str,
        value: float | str,
        unit: str,
        *,
        limit: float | None = None,
        bar: float | str | None = None,
        met: bool | None = None,
    ) -> Record:
        """Adds one; numbers keep four significant digits."""
        rounded = _rounded(value)
        ratio = None
        if limit is not None and limit > 0 and not isinstance(value, str):
            ratio = round(value / limit, 3)
        limit = None if limit is None else float(_rounded(limit))
        record = Record(name, rounded, unit, limit, ratio, bar, met, self._command, self._machine)
        self.all.append(record)
        return record

    def value(self, name: str) -> float:
        """The number in the record with this name."""
        return float(next(record.value for record in self.all if record.name == name))

    @property
    def missed(self) -> list[str]:
        """Names of the records whose bar was not met."""
        return [record.name for record in self.all if record.met is False]

    def write(self, path: Path) -> None:
        """Writes them as a JSON list."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(record) for record in self.all]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def describe_machine() -> str:
    """GPU, cores, processor, memory, load: enough to know whether two figures may be compared."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{_gpus()}{cores} cores {model}, {memory:.0f} GiB, load {load:.1f} at start"


def _gpus() -> str:
    """Names of the GPUs, '' where there are none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return f"{len(names)} x {names[0]}, " if names else ""


def read(path: Path) -> list[Record]:
    """The records of a file; fields that a newer version added are dropped."""
    known = Record.__dataclass_fields__
    rows = json.loads(path.read_text())
    return [Record(**{name: row.get(name) for name in known}) for row in rows]


def table(records: Sequence[Record]) -> str:
    """All records, a line each: value, its limit in the same run, what was asked for."""
    rows = [("", "value", "limit", "ratio", "bar", "")]
    for r in records:
        limit = "" if r.limit is None else f"{r.limit:,} {r.unit}".replace(".0 ", " ")
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        met = {True: "met", False: "MISSED", None: ""}[r.met]
        value = r.value if isinstance(r.value, str) else f"{r.value:,}"
        bar = "" if r.bar is None else str(r.bar)
        rows.append((r.name, f"{value} {r.unit}".rstrip(), limit, ratio, bar, met))
    return f"{columns(rows)}\n{LEGEND}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Text in columns; the first is flush left, the others flush right; a rule under the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def _rounded(value: float | str) -> float | int | str:
    if isinstance(value, str | int):
        return value
    return float(f"{value:.4g}")
