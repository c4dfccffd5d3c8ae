"""Engines in processes of their own, driven from one, so that several can be measured in turns.

`RemoteEngine` starts `python -m gpu.remote`, which imports vLLM at once and makes its engine when
told. `call(function, …)` runs `function(engine, …)` over there and brings back what it returned.
Several engines fit one GPU where their memory does; one that has no request computes nothing.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from harness import calls, processes

from gpu.engine import Engine, EngineSettings

P = ParamSpec("P")
R = TypeVar("R")

_CONNECT_S = 120.0


class RemoteError(Exception):
    """A function failed over there; the text is its traceback, or what the log ends with."""


class RemoteEngine(processes.Closing):
    """One engine seen from outside; a context manager that ends it."""

    def __init__(self, name: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        folder = tempfile.mkdtemp(prefix="fkv-")
        address = os.path.join(folder, "e.sock")
        path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        with Listener(address, family="AF_UNIX") as listener:
            self._process = processes.start(
                [sys.executable, "-m", "gpu.remote", address],
                log,
                {
                    **processes.vllm_environment(),
                    "PYTHONHASHSEED": "0",  # the peers need one, and all shall have the same
                    "PYTHONPATH": os.pathsep.join(filter(None, path)),
                    **(environment or {}),
                },
            )
            listener._listener._socket.settimeout(_CONNECT_S)  # type: ignore[attr-defined]
            try:
                self._connection: Connection = listener.accept()
            except (OSError, TimeoutError) as error:
                raise RemoteError(f"{name}: no connection ({error}):\n{self._tail()}") from error

    def start(self, settings: EngineSettings, timeout_s: float) -> float:
        """Makes the engine; returns the seconds that vLLM took."""
        self.start_soon(settings)
        return self.started(timeout_s)

    def start_soon(self, settings: EngineSettings) -> None:
        """Begins to make the engine; `started` waits for it. Several may start at once."""
        self._send(("start", settings))

    def started(self, timeout_s: float) -> float:
        """The seconds that vLLM took."""
        seconds: float = self._receive(timeout_s)
        return seconds

    def call(
        self, timeout_s: float, function: Callable[Concatenate[Engine, P], R],
        *args: P.args, **kwargs: P.kwargs,
    ) -> R:  # fmt: skip
        """Runs `function(engine, *args, **kwargs)` over there.

        Raises:
            RemoteError: with the traceback of the other side, or because it died.
            TimeoutError: it did not return in time.
        """
        self.call_soon(function, *args, **kwargs)
        answer: R = self._receive(timeout_s)
        return answer

    def call_soon(
        self, function: Callable[Concatenate[Engine, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Begins such a call; `answer` waits for it."""
        self._send(("call", function, args, kwargs))

    def answer(self, timeout_s: float) -> Any:
        """What the call that was begun returned."""
        return self._receive(timeout_s)

    def pin(self, front_end: int, core: int, others: set[int]) -> None:
        """Gives its two busy threads a processor each, and all its other threads these.

        Engines that are measured in turns share both: what slows one of them slows all.
        """
        front = self._process.pid
        hot = {front: {front_end}, **{pid: {core} for pid in processes.children(front)}}
        for pid, wanted in hot.items():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    thread = int(task.name)
                    os.sched_setaffinity(thread, wanted if thread == pid else others)

    def close(self) -> None:
        """Ends the process, by force after a while: the memory it holds is needed."""
        with contextlib.suppress(OSError, EOFError, RemoteError, TimeoutError):
            self._send(("close",))
            self._receive(15.0)
        with contextlib.suppress(OSError):
            self._connection.close()
        core = processes.children(self._process.pid)
        processes.stop(self._process, 10.0)
        for pid in core:
            with contextlib.suppress(TimeoutError):
                processes.wait_until(
                    lambda pid=pid: not processes.is_running(pid),  # type: ignore[misc]
                    15.0,
                    f"end of the core of {self.name}",
                )

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(message))
        except OSError as error:
            raise RemoteError(f"{self.name} is gone ({error}):\n{self._tail()}") from error

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError(f"{self.name}: no answer in {timeout_s:g} s:\n{self._tail()}")
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RemoteError(f"{self.name} died ({error}):\n{self._tail()}") from error
        if kind == "raised":
            raise RemoteError(f"{self.name}: {value}")
        return value

    def _tail(self) -> str:
        return processes.tail(self.log, 40)


def _serve(address: str) -> None:
    """The child's life."""
    connection = Client(address, family="AF_UNIX")
    import vllm  # noqa: F401 (ten seconds that may pass before the engine is wanted)

    def start(settings: EngineSettings) -> tuple[Engine, float]:
        engine = Engine(settings)
        return engine, engine.start_s

    calls.serve(connection, start)
    time.sleep(0.1)  # the answer to "close" is on its way


if __name__ == "__main__":
    processes.die_with_parent()
    _serve(sys.argv[1])
