"""Whether the folders of an SSD tier could be used, before anything is started; it only looks."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexkv.config import Settings
from flexkv.machine import GB

REMEDY = (
    "Remedy: set ssd_cache_dir (FLEXKV_SSD_CACHE_DIR) to a folder of a local disk that this user "
    "can write"
)
TYPICAL_BLOCK_BYTES = 2 << 20
"""For an order of magnitude where the size is a number of blocks: those of a model of 8 billion
parameters that shares heads have 2 MiB at 16 tokens; the engine's own are known once it runs."""

SENSIBLE_SHARE = 0.99
"""Of what is free, what a remedy names: a file system needs some for itself."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder: what it is to hold, what is free there, and why it would not be used, if so.

    ``crowded``: alone it could be used, but not with all of the others of its file system.
    """

    path: Path
    wanted_bytes: float
    free_bytes: int
    objection: str = ""
    crowded: bool = False


def wanted_bytes(settings: Settings) -> float:
    """Bytes of the tier that ``ssd_cache_gb`` asks for; 0 where none is."""
    return 0.0 if switched_off(settings) else float(str(settings.values["ssd_cache_gb"])) * GB


def wanted_blocks(settings: Settings) -> int:
    """Blocks of a tier whose size is given in blocks alone; 0 where it is not."""
    if switched_off(settings) or wanted_bytes(settings):
        return 0
    return int(str(settings.values["num_ssd_blocks"]))


def switched_off(settings: Settings) -> bool:
    """Whether ``enable_ssd`` says no."""
    return settings.values["enable_ssd"] in ("0", "false")


def examine(settings: Settings, wanted: float, size_option: str = "ssd_cache_gb") -> list[Folder]:
    """The folders of ``settings`` with an equal share of ``wanted`` bytes each, in their order.

    ``size_option`` is what the remedy names, with what would be small enough where that is known.

    What several need of one file system is added up: of those that are each small enough but
    not together, all have the objection, since which of them comes first is a matter of chance.
    """
    names: Any = settings.values["ssd_cache_dir"]
    paths = [Path(name) for name in names]
    smaller, most = f"make {size_option} smaller", _most_gb(paths)
    if size_option == "ssd_cache_gb" and most:
        smaller = f"set ssd_cache_gb to {most:.10g} or less"
    folders = [_examine(path, wanted / len(paths), smaller) for path in paths]
    return list(_together(folders, smaller))


def _most_gb(paths: Sequence[Path]) -> float:
    """What ``ssd_cache_gb`` can be at most where all folders that can be used have their share."""
    on_device: dict[int, list[Path]] = {}
    for path in paths:
        if not access_objection(path):
            on_device.setdefault(nearest(path).stat().st_dev, []).append(path)
    shares = [
        (free_bytes(some[0]) * SENSIBLE_SHARE + sum(map(_held, some))) / len(some)
        for some in on_device.values()
    ]
    return math.floor(min(shares, default=0) * len(paths) / GB * 1000) / 1000


def _examine(path: Path, share: float, smaller: str) -> Folder:
    free = free_bytes(path)
    why = access_objection(path)
    if not why and share > free + _held(path):
        why = (
            f"{path} has not enough room and would not be used: {free / GB:.1f} GB free for "
            f"{share / GB:.10g} GB. Remedy: {smaller}, or free some room"
        )
    return Folder(path, share, free, why)


def _together(folders: Sequence[Folder], smaller: str) -> Iterator[Folder]:
    """The folders, each with the objection if those of its file system need too much together."""
    need: dict[int, float] = {}
    names: dict[int, list[str]] = {}
    for one in folders:
        if not one.objection:
            device = nearest(one.path).stat().st_dev
            need[device] = need.get(device, 0) + max(0, one.wanted_bytes - _held(one.path))
            names.setdefault(device, []).append(str(one.path))
    for one in folders:
        device = nearest(one.path).stat().st_dev
        if not one.objection and need[device] > one.free_bytes:
            why = (
                f"{' and '.join(names[device])} lie on one file system with "
                f"{one.free_bytes / GB:.1f} GB free and need {need[device] / GB:.1f} GB there "
                "together: not all of them would be used. Remedy: give each a disk of its own, "
                f"{smaller}, or free some room"
            )
            yield dataclasses.replace(one, objection=why, crowded=True)
        else:
            yield one


def access_objection(path: Path) -> str:
    """Why nothing could be kept in a folder, with the remedy; empty if it could, given room."""
    place = nearest(path)
    which = "it" if place == path else str(place)
    if not place.is_dir():
        return f"{path} would not be used: {which} is not a folder. {REMEDY}"
    if not os.statvfs(place).f_blocks:  # /proc, /sys: root passes every check of permissions there
        what = "cannot hold files" if place == path else "is not there and cannot be made"
        return f"{path} {what}: {place} is no file system of a disk. {REMEDY}"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{path} would not be used: {which} cannot be written. {REMEDY}"
    return ""


def _held(path: Path) -> int:
    """Bytes that a tier in use has there already: the next start takes them over."""
    try:
        return sum(file.stat().st_size for file in path.glob("flexkv-ssd-*.data"))
    except OSError:  # one may go while we look
        return 0


def nearest(path: Path) -> Path:
    """The folder, or what there is of the way to it."""
    place = path.absolute()
    while not os.path.exists(place):  # False, too, where we may not look
        place = place.parent
    return place


def situation(path: Path) -> str:
    """On which disk a folder is, or will be made: a typo, or a disk that is not mounted, shows."""
    place = nearest(path)
    mount = place.resolve()
    while not mount.is_mount():
        mount = mount.parent
    disk = "the system's disk (/)" if mount == mount.parent else f"the disk mounted at {mount}"
    missing = "" if place == path.absolute() else "; the folder is not there and will be made"
    return f"on {disk}{missing}"


def free_bytes(path: Path) -> int:
    """Free bytes where a folder is or would be."""
    place = nearest(path)
    return shutil.disk_usage(place).free if os.access(place, os.R_OK) else 0
