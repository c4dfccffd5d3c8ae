"""``flexkv config check FILE``: what would happen with a file, before anything is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flexkv import ssd_folders
from flexkv.config import Settings
from flexkv.config_file import CONFIG_PATH_ENV
from flexkv.machine import GB, MachineMemory
from flexkv.options import OPTIONS
from flexkv.ssd_folders import Folder

_WARNING = "warning: "
"""How a line begins that says what will not be as it was asked for."""


def load(path: str, env: Mapping[str, str]) -> Settings:
    """The settings of a start with this file; raises ``ConfigError`` if it cannot be used."""
    return Settings.load(env={**env, CONFIG_PATH_ENV: path}, file_named_by="FILE")


def objection(settings: Settings) -> str:
    """Why no sidecar would start on this machine, with the remedy; empty if one would."""
    if not settings.enabled:
        return ""
    machine = MachineMemory.read()
    where = socket_objection(settings) or address_objection(settings)
    return where or machine.objection(machine.host_gb(settings))


def socket_objection(settings: Settings) -> str:
    """Why there can be no socket where the settings want it; empty if there can."""
    parent = Path(settings.socket_path).absolute().parent
    if not parent.is_dir():
        return (
            f"{parent}, the folder of the socket, does not exist. Remedy: mkdir -p {parent}, or "
            "set FLEXKV_SERVER_RECV_PORT to a path in one that does"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        return (
            f"{parent} cannot be written. Remedy: set FLEXKV_SERVER_RECV_PORT to a path in a "
            "folder of your own"
        )
    return ""


def address_objection(settings: Settings) -> str:
    """What lies where the socket is to be, with the remedy; empty if nothing, or a socket."""
    path = Path(settings.socket_path)
    if not path.exists() or path.is_socket():
        return ""
    what = "a folder" if path.is_dir() else "a regular file" if path.is_file() else "a device"
    return (
        f"{path} is {what} and no socket. Remedy: move it away, or set FLEXKV_SERVER_RECV_PORT to "
        "another path"
    )


def host_guess_gb(settings: Settings) -> float:
    """GB of the host tier with blocks of 2 MiB; 0 where its size is not in blocks alone."""
    if settings.sources.get("cpu_cache_gb", "default") != "default":
        return 0.0
    blocks = _number(settings.values.get("num_cpu_blocks", 0))
    return blocks * ssd_folders.TYPICAL_BLOCK_BYTES / GB


def unusable_folders(settings: Settings) -> list[Folder]:
    """Folders of the SSD tier that would be left out, each with its objection."""
    if not settings.enabled:
        return []
    wanted = ssd_folders.wanted_bytes(settings)
    if not wanted and not ssd_folders.wanted_blocks(settings):
        return []
    return [one for one in ssd_folders.examine(settings, wanted) if one.objection]


def explain(path: str, settings: Settings) -> Iterator[str]:
    """Lines for people; the first is the verdict."""
    lines = [
        *_meeting(settings), *_host_tier(settings), *_ssd_tier(settings), *_given(settings),
        *(f"{_WARNING if warning else 'note: '}{text}" for warning, text in settings.notes),
    ]  # fmt: skip
    warnings = [line.removeprefix(_WARNING) for line in lines if line.startswith(_WARNING)]
    yield _headline(path, settings, warnings)
    yield from lines


def _given(settings: Settings) -> Iterator[str]:
    for option in OPTIONS:
        source = settings.sources.get(option.name, "default")
        if source != "default" and option.status == "works":
            yield f"{option.name} = {option.shown(settings.values[option.name])}  ({source})"


def _headline(path: str, settings: Settings, warnings: Sequence[str]) -> str:
    why = objection(settings)
    if why:
        return f"{path} cannot be used on this machine: {why}"
    out = unusable_folders(settings)
    names: Any = settings.values["ssd_cache_dir"]
    if not out and not warnings:
        return f"{path} can be used."
    if not out:
        many = f"are {len(warnings)} warnings, the first"
        number = "is a warning" if len(warnings) == 1 else many
        return f"{path} can be used, but there {number}: {warnings[0]}"
    if len(out) == len(names) and not any(one.crowded for one in out):
        return f"{path} can be used without its SSD tier only: {out[0].objection}"
    return f"{path} can be used, but not all of its SSD folders: {out[0].objection}"


def _meeting(settings: Settings) -> Iterator[str]:
    if not settings.enabled:
        yield "FlexKV is off: enable_flexkv is false."
    elif settings.launch:
        yield f"The first engine starts a sidecar at {settings.server_recv_port}, others join it."
    else:
        yield f"Engines wait for `flexkv serve` at {settings.server_recv_port}."


def _host_tier(settings: Settings) -> Iterator[str]:
    blocks = _number(settings.values["num_cpu_blocks"])
    machine = MachineMemory.read()
    total, available = memory()
    guess = host_guess_gb(settings)
    if guess:
        yield (
            f"Host memory: what {blocks:.0f} of the engine's blocks take (with blocks of 2 MiB "
            f"that is {guess:,.1f} GB; the engine's log says it); of {total / GB:.1f} GB here "
            f"{available / GB:.1f} GB are available. `flexkv serve`, which knows no engine, takes "
            f"{machine.host_gb(settings):g} GB."
        )
        # Of a guess nothing more can be said than that it is worth a look.
        why = machine.objection(guess, "num_cpu_blocks")
        if not why and guess * GB > available:
            why = f"that is {guess - available / GB:.1f} GB too much for this machine now"
        if why:
            yield f"{_WARNING}with blocks of 2 MiB {why}"
        return
    wanted = machine.host_gb(settings) * GB
    cap = f", at most {blocks:.0f} blocks" if blocks else ""
    yield (
        f"Host memory: {wanted / GB:g} GB{cap}, taken at the start; of {total / GB:.1f} GB here "
        f"{available / GB:.1f} GB are available."
    )
    if wanted > available and not objection(settings):
        yield (
            f"{_WARNING}that is {(wanted - available) / GB:.1f} GB too much for this machine now."
        )


def _ssd_tier(settings: Settings) -> Iterator[str]:
    wanted, blocks = ssd_folders.wanted_bytes(settings), ssd_folders.wanted_blocks(settings)
    if not (wanted or blocks):
        yield "SSD: none."
        return
    guess = blocks * ssd_folders.TYPICAL_BLOCK_BYTES
    size = (
        f"{wanted / GB:g} GB"
        if wanted
        else f"what {blocks} of the engine's blocks take (with blocks of 2 MiB that is "
        f"{guess / GB:,.0f} GB; the engine's log says it)"
    )
    found = ssd_folders.examine(settings, wanted)
    yield f"SSD: {size} over {len(found)} folder(s)."
    if not wanted:
        yield (
            "  That is where an engine starts the sidecar; `flexkv serve`, which knows none, needs "
            "ssd_cache_gb for a tier."
        )
    for one in found:
        share = f" for {one.wanted_bytes / GB:g} GB" if wanted else ""
        room = f"{one.free_bytes / GB:.1f} GB free" if one.free_bytes else "nothing free"
        where = "" if one.objection else f" {ssd_folders.situation(one.path)}"
        yield f"  {one.path}: {room}{share}{where}"
    yield from (f"{_WARNING}{why}" for why in _distinct(found))
    if blocks and not any(one.objection for one in found):
        # Of a guess nothing more can be said than that it is worth a look.
        for why in _distinct(ssd_folders.examine(settings, guess, "num_ssd_blocks")):
            yield f"{_WARNING}with blocks of 2 MiB {why}"


def _distinct(folders: list[Folder]) -> list[str]:
    """Objections to folders, those to several at once said once."""
    return list(dict.fromkeys(one.objection for one in folders if one.objection))


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
