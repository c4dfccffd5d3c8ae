"""The sidecar that runs already at an address, as ``flexkv doctor`` tells of it.

It may have been started from elsewhere and with other settings than those at hand, which then count
for its successor only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flexkv import capacity, joining
from flexkv.asking import ask
from flexkv.config import Settings
from flexkv.errors import FlexKVError
from flexkv.status_text import uptime, used

ASK_TIMEOUT_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """What it says of itself; ``settings`` is empty where it does not tell them."""

    status: Mapping[str, Any]
    settings: dict[str, Any]


class Line(NamedTuple):
    """One line on it: ``well`` if there is nothing to do, ``about`` a folder if it is of one."""

    well: bool
    name: str
    text: str
    about: str = ""


def look(settings: Settings) -> Running | None:
    """The sidecar at the address; ``None`` where nobody is, or nobody answers."""
    try:
        status = ask(settings, "status", {}, ASK_TIMEOUT_S)
    except (FlexKVError, OSError):
        return None
    try:
        return Running(status, ask(settings, "settings", {}, ASK_TIMEOUT_S))
    except (FlexKVError, OSError):
        return Running(status, {})


def report(settings: Settings, running: Running) -> Iterator[Line]:
    """Who it is, its tiers, and where those are not as the settings at hand would have them."""
    status = running.status
    yield Line(
        True,
        "sidecar",
        f"pid {status['pid']}, build {status.get('build', '?')}{uptime(status)}, log "
        f"{status['log_file']}; engines join it, and its tiers count",
    )
    yield Line(True, "host tier", f"of the running sidecar: {used(status.get('cache', {}))} used")
    found = joining.conflicts(capacity.known_without_engine(settings), running.settings)
    if found:
        remedy = joining.remedy(settings, running.settings, int(status["pid"]))
        yield Line(
            False,
            "tiers",
            "the running sidecar has other tiers than these settings ask for: "
            f"{'; '.join(found)}. Remedy: {remedy}",
        )
    yield from _folders(status.get("ssd", {}))


def _folders(ssd: Mapping[str, Any]) -> Iterator[Line]:
    for one in ssd.get("directories", []):
        why = {
            "serving": "",
            "recovering": "",
            "stalled": f": {one['cause']}. It serves again by itself: look at the disk's load",
        }.get(
            one["state"],
            f": {one['cause']}. Remedy: flexkv ssd reattach {one['path']}, once it is mended",
        )
        yield _folder(not why, one["path"], f"{one['state']}, {used(one)} used{why}")
    for one in ssd.get("unusable", []):
        yield _folder(False, one["path"], f"not used: {one['cause']}")


def _folder(well: bool, path: str, text: str) -> Line:
    return Line(well, "ssd", f"{path}, of the running sidecar: {text}", path)
