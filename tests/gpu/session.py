"""What the programs of this folder share: where results go, what was said, when to stop."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records import Record, Records

from gpu.engine import has_gpu
from gpu.shapes import TINY

_BEGUN = time.monotonic()


def say(text: str) -> None:
    """One line with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - _BEGUN:6.1f} s] {text}\n")
    sys.stdout.flush()


def elapsed_s() -> float:
    """Seconds since the start of this program."""
    return time.monotonic() - _BEGUN


def add_common(
    parser: argparse.ArgumentParser, default_out: str, shapes: Sequence[str] = ("8b", "tiny")
) -> None:
    """Options that every program here has."""
    parser.add_argument("--out", default=default_out, help="folder for records, raw rows and logs")
    parser.add_argument("--shape", choices=shapes, default="8b")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--budget-s", type=float, default=3600, help="begins no step after this")


NO_GPU = "no CUDA device is visible to torch"


def why_skipped(args: argparse.Namespace) -> str:
    """Why this program, which runs vLLM, does nothing on this machine, '' if it runs."""
    if importlib.util.find_spec("vllm") is None:
        return f"{Path(sys.executable).name} has no vLLM: VLLM_PYTHON names the one that has"
    if args.shape in TINY or has_gpu():
        return ""
    return f"{NO_GPU}; --shape tiny rehearses on a CPU"


def skip(file: Path, reason: str) -> int:
    """Says why nothing was run, and leaves it in place of the records; returns the exit status."""
    say(f"skipped: {reason}")
    records = Records()
    records.add(f"{file.stem}: skipped", reason, "")
    records.write(file)
    return 0


class Results:
    """Records and raw rows of one program, on disk after every step: a run that is cut off leaves
    what it had.
    """

    def __init__(self, folder: Path, name: str, budget_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.records = Records()
        self.missed: list[str] = []
        self._budget_s = budget_s
        self._records_file = folder / f"{name}.json"
        self._raw_file = folder / f"{name}-raw.jsonl"
        self._raw_file.unlink(missing_ok=True)

    def add(self, name: str, value: float | str, unit: str, **rest: Any) -> Record:
        """Adds a record, says it, and writes all."""
        record = self.records.add(name, value, unit, **rest)
        met = (
            ""
            if record.met is None
            else f"  (bar {record.bar}: {'met' if record.met else 'MISSED'})"
        )
        limit = "" if record.limit is None else f"  limit {record.limit:g}"
        say(f"{name} = {record.value} {unit}{limit}{met}")
        self.records.write(self._records_file)
        return record

    def row(self, **values: Any) -> None:
        """Keeps one raw measurement."""
        with self._raw_file.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def time_left(self, step: str) -> bool:
        """Whether another step may begin."""
        if elapsed_s() < self._budget_s:
            return True
        self.add(f"not run for lack of time: {step}", "skipped", "")
        return False


def environment(**more: str) -> dict[str, str]:
    """What every engine here is started with."""
    # In a rehearsal threads that wait for each other would crawl on a busy machine.
    on_cpu = {} if has_gpu() else {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    return {
        **on_cpu,
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
        **more,
    }
