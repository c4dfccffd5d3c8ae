"""How much memory this process can ever have, as the sidecar reads it (``MachineMemory``)."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexkv.config import Settings

GB = 1e9
SENSIBLE_SHARE = 0.75
"""What a pool may take at most of the limit, for the remedy: the engine lives here, too."""

DEFAULT_SHARE = 1 / 8
"""What a pool whose size nobody named takes of the limit at most."""

_LIMIT = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """A limit in bytes, and whose it is, for a message."""

    limit: int
    source: str

    @classmethod
    def read(cls, root: Path = Path("/")) -> MachineMemory:
        """The machine's, or what its control groups leave this process, of either version."""
        found = re.search(r"MemTotal:\s+(\d+) kB", Path(root, "proc/meminfo").read_text())
        least = cls(int(found.group(1)) * 1024 if found else 1 << 62, "this machine has")
        for line in _text(Path(root, "proc/self/cgroup")).splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                least = least._within(Path(root, "sys/fs/cgroup"), group, "memory.max")
            elif "memory" in controllers.split(","):
                base = Path(root, "sys/fs/cgroup/memory")
                least = least._within(base, group, "memory.limit_in_bytes")
        return least

    def _within(self, hierarchy: Path, group: str, file: str) -> MachineMemory:
        """The least of this and the limits of a group and all above it that can be seen."""
        least = self
        # In a container the path is often that of the host, while only the root is mounted.
        names = [] if ".." in group.split("/") else [name for name in group.split("/") if name]
        for depth in range(len(names), -1, -1):
            place = Path(hierarchy, *names[:depth], file)
            text = _text(place).strip()
            if _LIMIT.fullmatch(text) and int(text) < least.limit:
                least = replace(least, limit=int(text), source=f"{place} allows")
        return least

    def host_gb(self, settings: Settings) -> float:
        """GB of the host tier of a sidecar that is started here with these settings."""
        wanted = float(str(settings.values["cpu_cache_gb"]))
        if settings.sources.get("cpu_cache_gb", "default") != "default":
            return wanted
        return min(wanted, round(max(0.01, self.limit * DEFAULT_SHARE / GB), 2))

    def objection(self, pool_gb: float, option: str = "cpu_cache_gb") -> str:
        """Why a host pool of this size cannot be, with the remedy; empty if it can.

        ``option`` is the one that has given the size: it, or ``num_cpu_blocks``.
        """
        if pool_gb * GB <= self.limit:
            return ""
        most = int(self.limit * SENSIBLE_SHARE / GB * 10) / 10
        remedy = f"set cpu_cache_gb (FLEXKV_CPU_CACHE_GB) to {most} or less"
        if option != "cpu_cache_gb":
            remedy = f"make {option} (FLEXKV_{option.upper()}) smaller: {most} GB at most"
        return (
            f"the host pool is to have {pool_gb:.1f} GB ({option}), {self.source} "
            f"{self.limit / GB:.1f} GB. Remedy: {remedy}, or give the container more memory"
        )


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):  # no such hierarchy here, or not ours to read
        return path.read_text()
    return ""
