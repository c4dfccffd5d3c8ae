"""Makes hooks total: whatever goes wrong inside FlexKV, vLLM gets a neutral answer and lives.

The first exception switches the side off, is logged with its traceback, and the side's own way of
switching off finishes what is open.  Later exceptions are counted, logged at most once a minute.
One is handed on: where memory that vLLM is about to serve from may be written by somebody else
(``MemoryInUseError``), an engine that lives is worse than none.

A setting that is refused is the user's to mend and nobody's to report: one line with its message,
once a process, although both sides meet it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flexkv.errors import ConfigError, MemoryInUseError

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOG_EVERY_S = 60.0

_refusals: set[str] = set()
"""What was said in this process of settings that are refused."""


class Guard:
    """Runs hooks of one side of one engine process.  One thread."""

    def __init__(self, side: str, on_trip: Callable[[], None]) -> None:
        self._side = side
        self._on_trip = on_trip
        self._logged_at = -LOG_EVERY_S
        self.tripped = False
        self.errors = 0

    def run(self, hook: str, neutral: T, body: Callable[..., T], *args: Any) -> T:
        """``body(*args)``, or ``neutral`` if it raises anything but ``MemoryInUseError``."""
        try:
            return body(*args)
        except MemoryInUseError:
            raise
        except Exception as error:
            self._failed(hook, error)
            return neutral

    def _failed(self, hook: str, error: Exception) -> None:
        """Notes what was raised, and switches the side off."""
        self.errors += 1
        now = time.monotonic()
        if isinstance(error, ConfigError):
            _log_refusal(str(error))
        elif now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            logger.error(
                "FlexKV is off for this engine's %s from now on: %s failed (error %d). vLLM goes "
                "on without it; please report this",
                self._side, hook, self.errors, exc_info=error,
            )  # fmt: skip
        if not self.tripped:
            self.tripped = True
            try:
                self._on_trip()
            except Exception:
                logger.exception("FlexKV could not switch its %s side off cleanly", self._side)


def _log_refusal(text: str) -> None:
    level = logging.DEBUG if text in _refusals else logging.ERROR
    _refusals.add(text)
    logger.log(level, "FlexKV is off: %s. vLLM serves on without it", text)
