"""An engine that joins a running sidecar has no say in its tiers: says where that matters."""

from __future__ import annotations

import logging
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
                    "its own count: %s. Remedy: the same options for all engines of an address, or "
                    "another FLEXKV_SERVER_RECV_PORT",
                    self._settings.server_recv_port, session.server_pid, "; ".join(found),
                )  # fmt: skip
        return True


def conflicts(settings: Settings, theirs: dict[str, Any]) -> list[str]:
    """A phrase on each tier option that this engine was given and the sidecar has otherwise."""
    found = []
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
            seen = option.shown(theirs[option.name])
            found.append(f"{option.name} is {seen}, wanted {option.shown(ours)}")
    return found


def _same(option: Option, ours: Any, theirs: Any) -> bool:
    return option.parse(ours) == option.parse(theirs)
