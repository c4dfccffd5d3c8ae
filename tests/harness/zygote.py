"""Engines in processes of their own, without importing vLLM anew for each.

Importing vLLM takes ten seconds, starting a small engine two. So one process imports it once and
forks for every engine that is asked for. A test talks to the fork over a Unix socket: it sends a
function and its arguments, the fork calls it with its `Engine` and sends back what it returned or
raised. A call that passes its bound writes the stack of every thread into the engine's log, and the
fork is killed.

`python -m harness.zygote` is the process that forks; `Zygote` starts it and `EngineProcess` is one
fork, seen from outside.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, TypeVar

from harness import calls, checkout, processes
from harness.engine import Engine, EngineSettings

R = TypeVar("R")

_START_TIMEOUT_S = 180.0
_LOOK_S = 1.0

#: Everything that the first engine would import, so that forks have it already.
_PRELOADED = (
    "vllm",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama",
    "torch._inductor.config",
    "torch._inductor.compile_fx",
)


class EngineError(Exception):
    """A function failed inside an engine's process; the text is the traceback there."""


class Zygote(processes.Closing):
    """The process that has vLLM imported and forks engines; a context manager."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self._folder = folder
        self._count = 0
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        folder.mkdir(parents=True, exist_ok=True)
        self.log = checkout.LOGS / "zygote.log"
        environment = {
            "VLLM_LOGGING_LEVEL": "INFO",
            **processes.vllm_environment(),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # Threads that wait for each other crawl on a busy machine; the model is tiny.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            # Each fork would compile a few small functions anew, for as long as all else takes.
            "TORCHDYNAMO_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(path),
        }
        self._process = processes.start(
            [python, "-m", "harness.zygote"], self.log, environment, stdin=subprocess.PIPE
        )

    def close(self) -> None:
        """Ends the process; its forks end with it."""
        processes.stop(self._process)

    def engine(self, settings: EngineSettings, name: str = "engine") -> EngineProcess:
        """Forks, starts an engine with these settings and returns when it can serve."""
        self._count += 1
        address = self._folder / f"{name}-{self._count}.sock"
        log = checkout.LOGS / f"{name}-{self._count}.log"
        with Listener(str(address), family="AF_UNIX") as listener:
            listener._listener._socket.settimeout(_LOOK_S)  # type: ignore[attr-defined]
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(f"{address}\t{log}\n".encode())
                self._process.stdin.flush()
                connection = self._accept(listener)
            except (OSError, TimeoutError) as error:
                raise EngineError(
                    f"no fork ({error}); {self.log} ends with\n{processes.tail(self.log)}"
                ) from error
        engine = EngineProcess(connection, log)
        engine.start(settings)
        return engine

    def _accept(self, listener: Listener) -> Connection:
        """The fork's connection; `TimeoutError` also where nobody is left who could fork."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return listener.accept()
            except TimeoutError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise


class EngineProcess(processes.Closing):
    """One engine in a forked process; a context manager that ends it."""

    def __init__(self, connection: Connection, log: Path) -> None:
        self._connection = connection
        self.log = log
        self.pid: int = connection.recv()

    def start(self, settings: EngineSettings) -> None:
        """Starts the engine in the fork."""
        self._ask(("start", settings), _START_TIMEOUT_S)

    def call(
        self, function: Callable[..., R], *args: Any, timeout_s: float = 150.0, **kwargs: Any
    ) -> R:
        """Calls `function(engine, *args, **kwargs)` in the engine's process.

        Raises:
            EngineError: with the traceback of the other side.
            TimeoutError: the call did not return in time; the engine has been killed.
        """
        answer: R = self._ask(("call", function, args, kwargs), timeout_s)
        return answer

    def close(self) -> None:
        """Ends the engine as vLLM does, by force if that takes more than ten seconds."""
        with contextlib.suppress(OSError, EOFError, TimeoutError, EngineError):
            self._ask(("close",), 10.0)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash of the engine would be."""
        processes.send_signal(self.pid, signal.SIGKILL)
        processes.wait_until(
            lambda: not processes.is_running(self.pid), 10, f"end of engine {self.pid}"
        )
        self._connection.close()

    def _ask(self, message: tuple[Any, ...], timeout_s: float) -> Any:
        try:
            self._connection.send_bytes(pickle.dumps(message))
            if not self._connection.poll(timeout_s):
                processes.send_signal(self.pid, signal.SIGUSR1)  # faulthandler writes all stacks
                time.sleep(0.5)
                processes.send_signal(self.pid, signal.SIGKILL)
                raise TimeoutError(
                    f"{message[:2]!r} did not return in {timeout_s:g} s; {self.log} ends with\n"
                    + processes.tail(self.log, 60)
                )
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise EngineError(
                f"the engine died; {self.log} ends with\n{processes.tail(self.log, 60)}"
            ) from error
        if kind == "raised":
            raise EngineError(value)
        return value


def _serve(address: str, log: str) -> None:
    """The fork's life."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    connection = Client(address, family="AF_UNIX")
    connection.send(os.getpid())
    calls.serve(connection, lambda settings: (Engine(settings), None))


def main() -> None:
    """Imports vLLM, then forks once for every line `ADDRESS<TAB>LOG` on standard input."""
    processes.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for module in _PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        address, log = line.rstrip("\n").split("\t")
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            processes.die_with_parent()
            _serve(address, log)
            os._exit(0)


if __name__ == "__main__":
    main()
