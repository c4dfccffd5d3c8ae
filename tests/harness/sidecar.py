"""The sidecar seen from outside: what it says of itself, and how it is stopped or killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexkv.errors import FlexKVError
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.session import open_session
from harness import checkout, processes

_STATUS_TIMEOUT_S = 2.0
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes copied between engines and the sidecar, and the seconds with a copy on its way."""

    saved_bytes: int
    loaded_bytes: int
    save_s: float
    load_s: float

    def since(self, before: Moved) -> Moved:
        """What came after `before`."""
        return Moved(
            self.saved_bytes - before.saved_bytes,
            self.loaded_bytes - before.loaded_bytes,
            self.save_s - before.save_s,
            self.load_s - before.load_s,
        )


class Sidecar:
    """The sidecar at one rendezvous address, whoever started it.

    Args:
        folder: a short path of the test's own; socket and lock lie in it, logs in `checkout.LOGS`.
        settings: further environment of whoever starts it, e.g. `FLEXKV_CPU_CACHE_GB`.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        checkout.LOGS.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "flexkv.sock"
        self.environment = {
            "FLEXKV_SERVER_RECV_PORT": f"ipc://{self.socket}",
            "FLEXKV_RUNTIME_DIR": str(checkout.LOGS / folder.name),
            "FLEXKV_IDLE_EXIT_S": "2",
            **settings,
        }

    # ---- what it says

    def status(self) -> dict[str, Any]:
        """The answer to the control plane's `status`; raises `FlexKVError` where nobody listens."""
        with self.session() as session:
            result: dict[str, Any] = session.control("status", {}, _STATUS_TIMEOUT_S)
            return result

    @property
    def pid(self) -> int:
        """Process id of the sidecar that listens now."""
        with self.session() as session:
            pid: int = session.server_pid
            return pid

    def listens(self) -> bool:
        """Whether somebody answers at the address."""
        try:
            return self.pid > 0
        except FlexKVError:
            return False

    def counters(self) -> dict[str, Any]:
        """Figures of the cache core: what happened since its start and what is there now."""
        figures: dict[str, Any] = self.status()["cache"]
        return figures

    def moved(self) -> Moved:
        """What was copied for the ranks that are registered now."""
        total = Moved(0, 0, 0.0, 0.0)
        for instance in self.status()["instances"]:
            for rank in instance["ranks"]:
                save, load = rank["save"], rank["load"]
                total = Moved(
                    total.saved_bytes + save["bytes"],
                    total.loaded_bytes + load["bytes"],
                    total.save_s + save["busy_us"] / 1e6,
                    total.load_s + load["busy_us"] / 1e6,
                )
        return total

    def wait_serving(self, timeout_s: float) -> None:
        """Returns when every instance is ready: its scheduler and all ranks are registered."""

        def serving() -> bool:
            try:
                instances = self.status()["instances"]
            except FlexKVError:
                return False
            return bool(instances) and all(instance["ready"] for instance in instances)

        processes.wait_until(serving, timeout_s, f"{self.socket} serves an engine", 0.05)

    def wait_quiet(self, timeout_s: float) -> None:
        """Returns when no load and no save is open, and none was for a tenth of a second."""

        def quiet() -> bool:
            before = self._work()
            time.sleep(0.1)
            after = self._work()
            return not before[0] and before == after

        processes.wait_until(quiet, timeout_s, f"{self.socket}: loads and saves end", 0.0)

    def assert_nothing_held(self, clients: int) -> None:
        """No lease, no job, and exactly these sessions; a moment is given to what is under way."""

        def held() -> dict[str, int]:
            status = self.status()
            figures = status["cache"]
            return {
                "leases": figures["leases"],
                "load jobs": figures["load_jobs"],
                "save jobs": figures["save_jobs"],
                "parked gos": figures["parked_gos"],
                "chains": figures["chains"],
                "pending blocks": figures["pending_blocks"],
                "slots in quarantine": figures["quarantined_slots"],
                "open parts": status["open_parts"],
                "reads of the SSD": status["ssd"]["reads"],
                "sessions": sum(one["role"] != ROLE_TOOL for one in status["sessions"]) - clients,
            }

        try:
            processes.wait_until(lambda: not any(held().values()), _SETTLE_S, "nothing held", 0.1)
        except TimeoutError:
            left = {name: number for name, number in held().items() if number}
            assert not left, f"the sidecar holds after {_SETTLE_S:g} s: {left}"

    # ---- what is done to it

    def start(self, log: Path, timeout_s: float = 60.0) -> subprocess.Popen[bytes]:
        """`flexkv serve` as a child, returned when it answers."""
        command = [sys.executable, "-m", "flexkv.cli", "serve"]
        child = processes.start(command, log, {**os.environ, **self.environment})

        def ready() -> bool:
            if child.poll() is not None:
                raise RuntimeError(
                    f"flexkv serve ended with {child.returncode}:\n{processes.tail(log)}"
                )
            return self.listens()

        processes.wait_until(ready, timeout_s, "flexkv serve answers", every_s=0.05)
        return child

    def kill(self) -> int:
        """SIGKILL by its id; returns the id when the process is gone."""
        pid = self.pid
        processes.send_signal(pid, signal.SIGKILL)
        processes.wait_until(lambda: not processes.is_running(pid), 10, f"end of sidecar {pid}")
        return pid

    @contextlib.contextmanager
    def frozen(self) -> Iterator[int]:
        """SIGSTOP while the body runs: a sidecar that lives and answers nothing."""
        pid = self.pid
        processes.send_signal(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            processes.send_signal(pid, signal.SIGCONT)

    def wait_gone(self, timeout_s: float = 30.0) -> None:
        """Returns when the process that listens now, if any, has ended by itself.

        Asks it nothing meanwhile: who asks is a client, and it waits for the last one to go.
        """
        try:
            pid = self.pid
        except FlexKVError:
            return
        processes.wait_until(
            lambda: not processes.is_running(pid), timeout_s, f"end of idle sidecar {pid}", 0.1
        )

    def _work(self) -> tuple[int, int, int]:
        """Open jobs, and how much was planned and done so far."""
        figures = self.counters()
        return (
            figures["load_jobs"] + figures["save_jobs"] + figures["parked_gos"],
            figures["loads_planned"] + figures["saves_planned"],
            figures["saved_blocks"],
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """A tool's session; while it is open the sidecar has a client."""
        session = open_session(str(self.socket), Hello(role=ROLE_TOOL, pid=os.getpid()), None)
        try:
            yield session
        finally:
            session.close()
