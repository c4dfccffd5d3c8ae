"""``flexkv config check FILE``: what would happen with a file, before anything is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flexkv.config import Settings
from flexkv.config_file import CONFIG_PATH_ENV
from flexkv.machine import MachineMemory
from flexkv.options import OPTIONS

GB = 1e9


def load(path: str, env: Mapping[str, str]) -> Settings:
    """The settings of a start with this file; raises ``ConfigError`` if it cannot be used."""
    return Settings.load(env={**env, CONFIG_PATH_ENV: path}, file_named_by="FILE")


def objection(settings: Settings) -> str:
    """Why no sidecar would start on this machine, with the remedy; empty if one would."""
    if not settings.enabled:
        return ""
    machine = MachineMemory.read()
    return machine.objection(machine.host_gb(settings))


def explain(path: str, settings: Settings) -> Iterator[str]:
    """Lines for people."""
    why = objection(settings)
    yield f"{path} cannot be used on this machine: {why}" if why else f"{path} can be used."
    yield from _meeting(settings)
    yield from _host_tier(settings)
    yield from _ssd_tier(settings)
    for option in OPTIONS:
        source = settings.sources.get(option.name, "default")
        if source != "default" and option.status == "works":
            yield f"{option.name} = {option.shown(settings.values[option.name])}  ({source})"
    for warning, text in settings.notes:
        yield f"{'warning' if warning else 'note'}: {text}"


def _meeting(settings: Settings) -> Iterator[str]:
    if not settings.enabled:
        yield "FlexKV is off: enable_flexkv is false."
    elif settings.launch:
        yield f"The first engine starts a sidecar at {settings.server_recv_port}, others join it."
    else:
        yield f"Engines wait for `flexkv serve` at {settings.server_recv_port}."


def _host_tier(settings: Settings) -> Iterator[str]:
    values, sources = settings.values, settings.sources
    blocks = _number(values["num_cpu_blocks"])
    if blocks and sources["cpu_cache_gb"] == "default":
        yield (
            f"Host memory: what {blocks:.0f} of the engine's blocks take; `flexkv serve`, which "
            f"knows no engine, takes {MachineMemory.read().host_gb(settings):g} GB."
        )
        return
    wanted = MachineMemory.read().host_gb(settings) * GB
    cap = f", at most {blocks:.0f} blocks" if blocks else ""
    total, available = memory()
    yield (
        f"Host memory: {wanted / GB:g} GB{cap}, taken at the start; of {total / GB:.1f} GB here "
        f"{available / GB:.1f} GB are available."
    )
    if wanted > available and not objection(settings):
        yield f"warning: that is {(wanted - available) / GB:.1f} GB too much for this machine now."


def _ssd_tier(settings: Settings) -> Iterator[str]:
    values = settings.values
    wanted = _number(values["ssd_cache_gb"]) * GB
    blocks = _number(values["num_ssd_blocks"])
    if values["enable_ssd"] in ("0", "false"):
        yield "SSD: none."
        return
    if not (wanted or blocks):
        yield "SSD: none."
        return
    folders: Any = values["ssd_cache_dir"]
    size = f"{wanted / GB:g} GB" if wanted else f"what {blocks:.0f} of the engine's blocks take"
    yield f"SSD: {size} over {len(folders)} folder(s)."
    for folder in folders:
        free = free_bytes(Path(folder))
        share = f" for {wanted / len(folders) / GB:g} GB" if wanted else ""
        yield f"  {folder}: {free / GB:.1f} GB free{share}"
        why = folder_objection(Path(folder), wanted / len(folders))
        if why:
            yield f"warning: {why}"


def _number(value: Any) -> float:
    return float(value)


def memory() -> tuple[int, int]:
    """Bytes of this machine's memory, all and available; less where a cgroup allows less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    total, available = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return total, available
    return min(total, limit), max(0, min(available, limit - used))


def folder_objection(folder: Path, wanted_bytes: float) -> str:
    """Why a folder of the SSD tier would not be used, with the remedy; empty if it would."""
    place = _nearest(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "cannot be written" if place.is_dir() else "is not a folder"
        return (
            f"{folder} would not be used: {place} {what}. Remedy: set ssd_cache_dir "
            "(FLEXKV_SSD_CACHE_DIR) to a folder of a local disk that this user can write"
        )
    ours = sum(file.stat().st_size for file in folder.glob("flexkv-ssd-*.data"))
    if wanted_bytes > free_bytes(folder) + ours:
        return (
            f"{folder} has not enough room and would not be used: make ssd_cache_gb smaller, or "
            "free some room."
        )
    return ""


def _nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    place = folder.absolute()
    while not os.path.exists(place):  # False, too, where we may not look
        place = place.parent
    return place


def free_bytes(folder: Path) -> int:
    """Free bytes where a folder is or would be."""
    place = _nearest(folder)
    return shutil.disk_usage(place).free if os.access(place, os.R_OK) else 0
