"""Kills the sidecar while loads are open, and sees how long its end and its successor take."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from dataclasses import dataclass

from harness.sidecar import Sidecar

from flexkv.errors import FlexKVError

_LOADS_WITHIN_S = 20.0
_DEAD_WITHIN_S = 60.0


@dataclass(slots=True)
class Seen:
    """What came of a kill; negative = it did not come."""

    open_loads: int = 0
    died_s: float = -1.0
    replaced_s: float = -1.0


class Killer:
    """A thread that asks the sidecar until a load is open, waits `delay_s` more, and kills it."""

    def __init__(self, sidecar: Sidecar, delay_s: float) -> None:
        self._sidecar = sidecar
        self._delay_s = delay_s
        self._seen = Seen()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self._thread.start()

    def wait(self) -> Seen:
        """Until both have come, or their bounds have passed."""
        self._thread.join(_LOADS_WITHIN_S + 2 * _DEAD_WITHIN_S)
        return self._seen

    def _run(self) -> None:
        with self._sidecar.session() as session:
            pid: int = session.server_pid
            pidfd = os.pidfd_open(pid)
            limit = time.monotonic() + _LOADS_WITHIN_S
            while self._seen.open_loads == 0 and time.monotonic() < limit:
                status = session.control("status", {}, 2.0)
                self._seen.open_loads = int(status["cache"]["load_jobs"])
            time.sleep(self._delay_s)
            begun = time.monotonic()
            os.kill(pid, signal.SIGKILL)
        if select.select([pidfd], [], [], _DEAD_WITHIN_S)[0]:
            self._seen.died_s = time.monotonic() - begun
        os.close(pidfd)
        while time.monotonic() - begun < _DEAD_WITHIN_S:
            try:
                if self._sidecar.pid != pid:
                    self._seen.replaced_s = time.monotonic() - begun
                    return
            except FlexKVError:
                pass
            time.sleep(0.05)
