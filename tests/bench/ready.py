"""From nothing to the first session: importing the package, starting the sidecar, joining it.

Each figure is the median of fresh processes, beside what no package of this kind can do without:
the start of a bare interpreter and of a bare Java runtime on the same machine, minutes apart at
most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import checkout
from harness.records import Records
from harness.sidecar import Sidecar

from flexkv.config import Settings
from flexkv.java import find_java

_TIMEOUT_S = 90.0

#: What every engine's process does with the package before the first request.
_FIRST_SESSION = """
import json, os, time
begun = time.perf_counter()
from flexkv.client import Link
from flexkv.config import Settings
from flexkv.protocol import ROLE_TOOL, Hello
imported = time.perf_counter()
link = Link(Settings.load(), lambda: Hello(role=ROLE_TOOL, pid=os.getpid()))
link.start()
session = link.wait(60)
ready = time.perf_counter()
assert session is not None, "no session within 60 s"
print(json.dumps({"import": imported - begun, "session": ready - imported}))
link.close()
"""


def main() -> int:
    """Measures and writes the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=checkout.RECORDS / "ready.json")
    options = parser.parse_args()
    runs = options.runs
    records = Records()
    python = _median(runs, lambda: _seconds([sys.executable, "-c", "pass"]))
    java_path = find_java(Settings.load()).path
    java = _median(runs, lambda: _seconds([java_path, "-Xshare:auto", "-version"]))
    cold, joined, imported = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="fkv-ready-") as folder:
            sidecar = Sidecar(Path(folder), FLEXKV_CPU_CACHE_GB="0.25", FLEXKV_IDLE_EXIT_S="1")
            first = _first_session(sidecar)
            second = _first_session(sidecar)
            cold.append(first["session"])
            joined.append(second["session"])
            imported += [first["import"], second["import"]]
            sidecar.wait_gone()
    records.add(
        "import of flexkv.client", 1000 * statistics.median(imported), "ms", limit=1000 * python
    )
    records.add(
        "wheel import to first session, sidecar started by it",
        1000 * (statistics.median(cold) + statistics.median(imported)),
        "ms",
        limit=1000 * java,
    )
    records.add("first session with a running sidecar", 1000 * statistics.median(joined), "ms")
    records.write(options.out)
    return 0


def _first_session(sidecar: Sidecar) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_SESSION],
        stdout=subprocess.PIPE,
        timeout=_TIMEOUT_S,
        check=True,
        env={**os.environ, **sidecar.environment},
    )
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
    return time.perf_counter() - begun


def _median(runs: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(runs))


if __name__ == "__main__":
    sys.exit(main())
