"""What a side has done, in one line for the log.

vLLM's own statistics objects change with its versions and are asserted on by ``MultiConnector``, so
none is handed over here: the sidecar's metrics have the same figures for all engines.
"""

from __future__ import annotations

from flexkv.scheduler import SchedulerSide
from flexkv.worker import WorkerSide


def scheduler_line(side: SchedulerSide) -> str:
    """Figures of the scheduler side since it was made."""
    figures = {
        "lookups": side.lookups.asked,
        "asked again": side.lookups.asked_again,
        "gave up": side.lookups.gave_up,
        "lookup p50 us": round(side.lookups.times.quantile(0.5)),
        "lookup p99 us": round(side.lookups.times.quantile(0.99)),
        "loads": side.loads.granted,
        "failed loads": side.loads.failed,
        "told ahead": side.arrivals.told_ahead,
        "blocks loaded": side.loads.blocks,
        "save plans": side.saves.jobs,
        "blocks planned": side.saves.blocks,
        "blocks committed": side.blocks_committed,
        "blocks dropped": side.blocks_dropped,
        "ring full": side.saves.ring_full,
    }
    if side.events is not None:
        figures |= {
            "events stored": side.events.stored,
            "events removed": side.events.removed,
            "blocks untold": side.events.untold,
            "listings": side.events.listings,
        }
    return _line(figures)


def worker_line(side: WorkerSide) -> str:
    """Figures of the worker side since it was made."""
    figures = {
        "loads": side.loads.ok,
        "failed loads": side.loads.failed,
        "revoked": side.loads.revoked,
        "sidecars killed": side.loads.kills,
        "saves": side.saves_done,
        "saves dropped": side.saves_dropped,
        "bytes": side.bytes_moved,
    }
    return _line(figures)


def _line(figures: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())
