"""Starting and ending processes by their own id, with bounds on every wait."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Called in a child between fork and exec: no server outlives a test run that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def vllm_environment() -> dict[str, str]:
    """This process' environment, with vLLM kept from the network and from asking for usage data.

    PYTHONDONTWRITEBYTECODE goes, because vLLM without bytecode files takes a minute to start.
    PYTHONHASHSEED goes, because setting it where the user did not is the plugin's work, and a test
    must not do it for the product.
    """
    environment = {
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"):
        environment.pop(name, None)
    return environment


def free_port() -> int:
    """A TCP port that nobody uses at this moment.

    Below the kernel's range for "any port" (32768 on), from which sidecar and engine take theirs:
    one of those could be gone again before the server that is told of it binds it.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError("no free TCP port from 20000 to 32000 in 100 tries")


def wait_until(condition: Callable[[], T], timeout_s: float, what: str, every_s: float = 0.02) -> T:
    """Asks until the answer is truthy and returns it; `TimeoutError` naming `what` at the bound."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{what}: not within {timeout_s:g} s, the last answer was {answer!r}"
            )
        time.sleep(every_s)


def is_running(pid: int) -> bool:
    """Whether any thread of this process still runs.

    The first thread alone may be a zombie while others are still on their way out, with the files
    and sockets of the process open.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False
    return threads > 1 or stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signals one process; that it is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Closing:
    """A context manager whose end is its `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> object:
        """Ends what was started."""
        raise NotImplementedError


def start(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    append: bool = False,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """A child whose output goes to `log`, and that is killed if this process ends before it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab" if append else "wb") as output:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            preexec_fn=die_with_parent,  # noqa: PLW1509 (one system call)
        )


def stop(process: subprocess.Popen[bytes], timeout_s: float = 20.0) -> int:
    """Asks a child to end, kills it at the bound, returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(5)


def end_orphan(pid: int, timeout_s: float = 10.0) -> None:
    """Waits for a process that is not our child, and kills it at the bound."""
    deadline = time.monotonic() + timeout_s
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    if is_running(pid):
        send_signal(pid, signal.SIGKILL)


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log file, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"


def children(pid: int) -> list[int]:
    """Process ids of this process' children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]
