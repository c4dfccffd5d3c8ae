"""Where the milliseconds of a hit go: the engine's stamps and the sidecar's, on one clock."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from pathlib import Path

from harness.sidecar import Sidecar

from flexkv.errors import FlexKVError
from gpu.session import Results
from gpu.tasks import Timed

#: Name of each span and the stamps it lies between, in the order of a load's life.
SPANS = (
    ("front end to scheduler", "added", "new"),
    ("lookup answered", "new", "answered"),
    ("blocks allocated, load planned", "answered", "planned"),
    ("worker says go, fence recorded", "planned", "go"),
    ("sidecar's mover has it", "go", "arrived_ns"),
    ("fence reached", "arrived_ns", "fence_reached_ns"),
    ("first slice on its way", "fence_reached_ns", "first_slice_ns"),
    ("copies", "first_slice_ns", "ended_ns"),
    ("end seen by the scheduler", "ended_ns", "done_seen"),
    ("request scheduled again", "done_seen", "scheduled"),
    ("forward, sampling, first token", "scheduled", "first_token"),
)


class Tracer:
    """Joins what `gpu.traced` wrote, the sidecar's stages of its last load, and the front end."""

    def __init__(self, file: Path, sidecar: Sidecar) -> None:
        self._file = file
        self._sidecar = sidecar
        self._read = 0
        self._rows: list[dict[str, float]] = []
        self._hooks_ms: dict[str, list[float]] = {"sidecar hit": [], "engine hit": []}
        file.unlink(missing_ok=True)
        self.environment = {"FLEXKV_TRACE_FILE": str(file)}

    def begin(self) -> None:
        """A new set of loads."""
        self._rows = []
        self._hooks_ms = {"sidecar hit": [], "engine hit": []}
        self._lines()

    def collect(self, timed: Timed) -> None:
        """The load of the request that has just ended; nothing if it cannot be put together."""
        limit = time.monotonic() + 1.0
        loads: list[dict[str, float]] = []
        while not loads and time.monotonic() < limit:
            # The engine hit before it has a row too, and what was computed beside it.
            for row in map(json.loads, self._lines()):
                spent = sum(row.pop("hooks_ns", {}).values()) / 1e6
                self._hooks_ms["sidecar hit" if "planned" in row else "engine hit"].append(spent)
                if "planned" in row:
                    loads.append(row)
            time.sleep(0.001)
        with contextlib.suppress(FlexKVError, KeyError, IndexError):
            row = loads[-1]
            # The one instance whose engine this is: moves of others are not traced.
            stages = max(
                (
                    rank["load"]["last_job"]
                    for instance in self._sidecar.status()["instances"]
                    for rank in instance["ranks"]
                ),
                key=lambda stages: stages["ended_ns"],
            )
            row.update(stages, added=timed.added_ns, first_token=timed.first_token_ns)
            # The sidecar's stages belong to this load only if they lie within it.
            if row["planned"] <= row["arrived_ns"] and row["ended_ns"] <= row["resumed"]:
                self._rows.append(row)

    def report(self, results: Results, what: str, link_ms: float) -> None:
        """Medians of the spans, which add up to the time to first token but for rounding."""
        if not self._rows:
            return
        for name, begin, end in SPANS:
            spans = [
                (row[end] - row[begin]) / 1e6 for row in self._rows if {begin, end} <= set(row)
            ]
            if spans:
                results.add(f"{what}, stages of {len(spans)} hits: {name}",
                            statistics.median(spans), "ms",
                            limit=link_ms if name == "copies" else None)  # fmt: skip
        for kind, spent in self._hooks_ms.items():
            if spent:
                results.add(f"{what}, inside FlexKV's hooks of the engine: {kind}",
                            statistics.median(spent), "ms")  # fmt: skip

    def _lines(self) -> list[str]:
        try:
            with self._file.open() as file:
                file.seek(self._read)
                text = file.read()
        except OSError:
            return []
        whole = text.rpartition("\n")[0]
        self._read += len(whole) + (1 if whole else 0)
        return whole.splitlines()
