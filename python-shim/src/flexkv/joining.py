"""An engine that joins a running sidecar has no say in its tiers: says where that matters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from flexkv.config import Settings
from flexkv.errors import ControlError
from flexkv.options import OPTIONS, Option
from flexkv.session import Session

logger = logging.getLogger(__name__)

TIERS = ("Host tier", "SSD tier")
TIMEOUT_S = 2.0


class Joining:
    """What a scheduler does with each new session, in the attach thread; always accepts it.

    Compares the tiers that this engine was configured for with those of the sidecar, and logs what
    differs, once a sidecar.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._told = 0

    def __call__(self, session: Session) -> bool:
        if session.boot_epoch != self._told:
            self._told = session.boot_epoch
            try:
                theirs = session.control("settings", {}, TIMEOUT_S)
            except ControlError as error:
                logger.debug("The sidecar does not tell its settings: %s", error)
                return True
            found = conflicts(self._settings, theirs)
            if found:
                logger.error(
                    "The sidecar at %s (pid %d) serves other tiers than this engine asks for, and "
                    "its own count: %s. Remedy: %s",
                    self._settings.server_recv_port, session.server_pid, "; ".join(found),
                    remedy(self._settings, theirs, session.server_pid),
                )  # fmt: skip
        return True


def conflicts(settings: Settings, theirs: dict[str, Any]) -> list[str]:
    """A phrase on each tier option that this engine was given and the sidecar has otherwise."""
    return [
        f"{option.name} is {option.shown(seen)}, wanted {option.shown(ours)}"
        for option, seen, ours in _differences(settings, theirs)
    ]


def remedy(settings: Settings, theirs: dict[str, Any], pid: int) -> str:
    """What to do about conflicts: with other engines, or with a sidecar that outlived its own."""
    differences = list(_differences(settings, theirs))
    change = ""
    if differences and all(_changes_live(*one) for one in differences):
        wanted = " ".join(f"{option.name}={option.shown(ours)}" for option, _, ours in differences)
        change = f"flexkv set --address {settings.server_recv_port} {wanted}, or "
    who = "an engine" if settings.launch else "flexkv serve"
    return (
        f"{change}stop that sidecar (kill {pid}), and {who} starts one as asked; engines that "
        "share an address need the same options, others another FLEXKV_SERVER_RECV_PORT"
    )


def _changes_live(option: Option, seen: Any, ours: Any) -> bool:
    """Whether ``flexkv set`` can do it: a tier that is off stays off, and one that is on, on."""
    if not option.live:
        return False
    return option.name != "ssd_cache_gb" or all(float(str(size)) > 0 for size in (seen, ours))


def _differences(settings: Settings, theirs: dict[str, Any]) -> Iterator[tuple[Option, Any, Any]]:
    """Options that this engine was given and the sidecar has otherwise, with both values."""
    for option in OPTIONS:
        if option.section not in TIERS or option.status != "works" or option.side != "sidecar":
            continue
        if option.name not in theirs:
            continue
        given = option.name in settings.sidecar
        if not given and settings.sources.get(option.name, "default") == "default":
            continue
        ours = settings.sidecar[option.name] if given else settings.values[option.name]
        # What was changed by hand since (`flexkv set`) contradicts nobody's configuration.
        began = theirs.get("at_start", {}).get(option.name, theirs[option.name])
        if not (_same(option, ours, theirs[option.name]) or _same(option, ours, began)):
            yield option, theirs[option.name], ours


def _same(option: Option, ours: Any, theirs: Any) -> bool:
    return option.parse(ours) == option.parse(theirs)
