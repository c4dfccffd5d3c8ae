"""A sidecar that is there and does not answer, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

OURS = b"flexkv"
"""What the command line of every sidecar has in it, at least in the path of its jar."""

SAY_EVERY_S = 60.0
LOOK_GAP_S = 1.0
"""An engine that has not looked for longer cannot tell when the silence ended, only within what."""


def may_be_a_sidecar(pid: int) -> bool:
    """Whether the command line of ``pid`` names one, or cannot be seen from here."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return not command or OURS in command.lower()


def cause(pid: int) -> str:
    """Why, and the remedy; ``pid`` is 0 where the sidecar's process cannot be seen from here."""
    thaw, kill = (f"kill -CONT {pid}", f"kill -9 {pid}") if pid else ("thaw it", "kill it")
    return (
        f"it is stopped, frozen or overloaded. Remedy: {thaw} (or thaw its container); if it must "
        f"go, {kill}, and engines start another"
    )


class Silence:
    """Whether the sidecar is silent, as found by whoever asks it; one pair of log lines each time.

    ``on`` is all that a step reads.  Said is one that has lasted ``say_after_s``, and no sooner
    than ``SAY_EVERY_S`` after the last that was said: a sidecar that answers now and then does not
    fill the log.  Scheduler thread only; times are seconds of ``clock``.
    """

    def __init__(self, clock: Callable[[], float], say_after_s: float) -> None:
        self._clock = clock
        self._say_after_s = say_after_s
        self.on = False
        self._pid = 0
        self._since = self._looked_at = 0.0
        self._said = False
        self._said_at = float("-inf")

    def begin(self, pid: int, since: float) -> None:
        """Nothing has come from process ``pid`` since then."""
        self.on, self._said = True, False
        self._pid, self._since = pid, since
        self._looked_at = self._clock()

    def goes_on(self) -> None:
        """Another step has ended, and still nothing has come."""
        now = self._looked_at = self._clock()
        if self._said or now - self._since < self._say_after_s or now - self._said_at < SAY_EVERY_S:
            return
        self._said, self._said_at = True, now
        logger.warning(
            "The FlexKV sidecar (pid %d) has answered nothing for %.1f s: %s. Until it answers, "
            "requests are computed without hits, and none waits for it",
            self._pid, now - self._since, cause(self._pid),
        )  # fmt: skip

    def end(self) -> None:
        """The sidecar has said something, at some time since the last look."""
        self.on = False
        if self._said:
            self._said = False
            logger.warning(
                "The FlexKV sidecar (pid %d) answers again, %s", self._pid, self._lasted()
            )

    def _lasted(self) -> str:
        """How long it was silent, as far as this engine can know."""
        now = self._clock()
        most_s = now - self._since
        if now - self._looked_at <= LOOK_GAP_S:
            return f"after {most_s:.1f} s"
        least_s = self._looked_at - self._since
        return (
            f"after {least_s:.1f} s at least and {most_s:.1f} s at most: this engine looks only in "
            "its steps, and made none between"
        )

    def forget(self) -> None:
        """Its session is over, which others say."""
        self.on = self._said = False
