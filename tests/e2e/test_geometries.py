"""Layouts that no small model has: random ones, several ranks, byte for byte, without vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import checkout
from harness.records import read
from harness.sidecar import Sidecar

_PROGRAM = Path(__file__).resolve().parents[1] / "gpu" / "geometries.py"
_CASES = 5


def test_random_geometries_on_the_cpu_are_byte_exact(scratch: Path, seed: int) -> None:
    sidecar = Sidecar(scratch / "geometries", FLEXKV_CPU_CACHE_GB="0.5")
    records = scratch / "geometries.json"
    command = [sys.executable, str(_PROGRAM), "--device", "cpu", "--cases", str(_CASES)]
    command += ["--rank-mib", "4", "--ranks", "3", "--seed", str(seed), "--out", str(records)]
    log = checkout.LOGS / "geometries.log"
    with log.open("wb") as out:
        subprocess.run(command, env={**os.environ, **sidecar.environment}, stdout=out,
                       stderr=subprocess.STDOUT, check=True, timeout=120)  # fmt: skip
    assert read(records)[0].value == _CASES
    sidecar.wait_gone()
