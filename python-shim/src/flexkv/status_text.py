"""``flexkv status --short``: what a person wants of the sidecar's status, in about ten lines."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

GB = 1e9
_TAIL_BYTES = 64 * 1024
_BOOT_S = 2.0
"""So long a sidecar logs before it counts its uptime, generously."""
_PROBLEM = re.compile(r"\S+ (WARN|ERROR) ")


def short(status: Mapping[str, Any], address: str) -> Iterator[str]:
    """The lines; a figure that an older sidecar does not tell is 0 or left out."""
    cache, ssd = status.get("cache", {}), status.get("ssd", {})
    yield f"address   {status.get('address', address)}"
    yield f"sidecar   pid {status['pid']}, build {status.get('build', '?')}{uptime(status)}"
    yield from _engines(status)
    yield f"host      {used(cache)}, {cache.get('host_blocks', 0)} blocks"
    yield from _ssd(ssd)
    found, asked = cache.get("hits", 0), cache.get("lookups", 0)
    yield f"lookups   {asked}, {found} found something ({cache.get('hit_blocks', 0)} blocks)"
    ok, failed = cache.get("load_parts_ok", 0), cache.get("load_parts_failed", 0)
    yield f"loads     {ok} ok, {failed} failed"
    ok, failed = _saves(status)
    saved = cache.get("saved_blocks", 0)
    yield f"saves     {saved} blocks; of the engines here {ok} ok, {failed} failed"
    began = time.time() - status["uptime_s"] if "uptime_s" in status else 0.0
    yield f"problem   {last_problem(str(status.get('log_file', '')), began)}"
    yield f"log       {status.get('log_file', '')}"


def _engines(status: Mapping[str, Any]) -> Iterator[str]:
    instances = status.get("instances", [])
    if not instances:
        yield "engines   none"
    for one in instances:
        missing = f", {one['missing']}" if one.get("missing") else ""
        state = "ready" if one["ready"] else f"not ready{missing}"
        yield f"engine    {one['name']}: {state}, {one['world_size']} rank(s)"


def _ssd(ssd: Mapping[str, Any]) -> Iterator[str]:
    if not ssd.get("present"):
        yield "ssd       none" + (", although one is configured" if ssd.get("wanted") else "")
    for one in ssd.get("directories", []):
        cause = f": {one['cause']}" if one["cause"] else ""
        yield f"ssd       {one['path']} {one['state']}, {used(one)}{cause}"
    for one in ssd.get("unusable", []):
        yield f"ssd       {one['path']} not used: {one['cause']}"


def used(figures: Mapping[str, Any]) -> str:
    """A tier's bytes in use, of all it has."""
    used, capacity = figures.get("used_bytes", 0), figures.get("capacity_bytes", 0)
    return f"{used / GB:.2f} of {capacity / GB:.2f} GB"


def _saves(status: Mapping[str, Any]) -> tuple[int, int]:
    """Ranks' parts of saves that ended well, and that did not, of the engines that are there."""
    sides = [rank["save"] for one in status.get("instances", []) for rank in one["ranks"]]
    return sum(s["jobs_ok"] for s in sides), sum(s["jobs_failed"] for s in sides)


def uptime(status: Mapping[str, Any]) -> str:
    """As the sidecar says: its pid may be of another namespace, and somebody else's here."""
    if "uptime_s" not in status:
        return ""
    minutes, seconds = divmod(int(status["uptime_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    return f", up {hours} h {minutes} min" if hours else f", up {minutes} min {seconds} s"


def last_problem(log_file: str, began: float = 0.0) -> str:
    """The last line at WARN or ERROR in the end of the sidecar's log; ``none`` if there is none.

    The file may hold earlier lives: ``began`` is when this one did, in seconds of the machine's
    clock; what is more than ``_BOOT_S`` older is another's.
    """
    try:
        with Path(log_file).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "the log cannot be read"
    return next(
        (line for line in reversed(lines) if _PROBLEM.match(line) and _at(line) > began - _BOOT_S),
        "none in the log",
    )


def _at(line: str) -> float:
    """When a line was logged; a time that cannot be read counts as now."""
    try:
        return datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()
    except ValueError:
        return time.time()
