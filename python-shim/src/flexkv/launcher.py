"""Starts the sidecar, once, for everybody who finds nobody at the rendezvous address.

Who starts it is decided by a lock file beside the socket (``<socket>.launch``, 0600, ``flock``):
the winner holds it until the sidecar answers, the others wait for it, bounded, and then join.  The
lock goes with its process, so a killed winner blocks nobody.

The sidecar runs in a session of its own (no terminal signal of the engine reaches it), its output
goes to a file, never to a pipe that somebody must drain.  It outlives the engine that started it:
it ends when its last client has been gone for ``FLEXKV_IDLE_EXIT_S``.  So it must not stay the
engine's child: vLLM ends by killing all processes below its own.  A shell stands between the two
until the sidecar is ready, and tells its exit status if it never gets so far; then the shell is
ended, and the sidecar belongs to the first process of the machine or container.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flexkv.config import OVERRIDES_ENV, Settings
from flexkv.config_file import CONFIG_PATH_ENV
from flexkv.errors import AttachError, FlexKVError, LaunchError, UnusableError
from flexkv.java import JVM_ARGS_NAME, find_jar, find_java
from flexkv.rendezvous import NobodyThereError

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOCK_EXTRA_S = 10.0
"""A waiting process gives up this long after the winner must have."""

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 60.0
OUTPUT_LIMIT_BYTES = 1024 * 1024
TAIL_LINES = 12
EXIT_SETTINGS = 2
"""The sidecar's: a setting cannot be used on this machine; ``FlexKv.EXIT_SETTINGS`` in Java."""

IN_USE = "is in use by process"
"""In its last line: another sidecar has its SSD folder, perhaps one that is just ending."""

IN_USE_WAIT_S = 8.0
"""How long one that is ending may take: 1.3 s with a pool of 48 GB, where the machine has time."""

IN_USE_PAUSE_S = 1.0
"""Between the starts meanwhile."""

_SLICE_S = 0.05
_KILL_WAIT_S = 5.0

DEFAULT_JVM_ARGS = (
    "--enable-native-access=ALL-UNNAMED",
    "-XX:+UseSerialGC",
    "-Xms128m",
    "-Xmx512m",
    "-Xmn96m",
    "-XX:MaxDirectMemorySize=1t",
    "-XX:+ExitOnOutOfMemoryError",
)
"""Used where no ``flexkv-jvm.args`` lies beside the jar."""


ENGINE_ONLY_ENV = frozenset(
    (
        "LD_PRELOAD", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_NUM_THREADS", "OMP_PLACES",
        "OMP_PROC_BIND",
    )
)  # fmt: skip
"""What vLLM sets for a worker and the sidecar must not inherit: on a CPU it preloads an OpenMP
library whose constructor binds the main thread of every process that loads it to the worker's first
core, which the worker keeps busy."""

GPU_CHOICE_ENV = frozenset(("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"))
"""Which GPUs an engine may use, and how it numbers them: not for a sidecar that others join."""


@dataclass(slots=True)
class _Failures:
    """Failed starts at one address, in this process."""

    count: int = 0
    next_start: float = 0.0
    last: str = ""
    kind: type[LaunchError] = LaunchError


_failures: dict[str, _Failures] = {}


def start_or_join(
    settings: Settings, attempt: Callable[[], T], stopping: Callable[[], bool]
) -> T | None:
    """Makes sure that a sidecar runs and returns what ``attempt`` then returns.

    ``attempt`` opens a session and raises ``NobodyThereError`` while nobody listens.  ``None`` when
    ``stopping`` became true.  ``LaunchError`` after a failed start, ``UnusableError`` where another
    start would fail likewise; further calls repeat the same text without starting anything until
    the back-off (1 s … 60 s) is over.
    """
    address = settings.server_recv_port
    failures = _failures.setdefault(address, _Failures())
    if time.monotonic() < failures.next_start:
        raise failures.kind(failures.last)
    with _start_lock(settings, stopping) as locked:
        if not locked:
            return None
        try:
            result = attempt()
        except NobodyThereError:
            pass
        else:
            return result
        try:
            result_or_none = _start_and_wait(settings, attempt, stopping)
        except FlexKVError as error:
            failures.count += 1
            failures.last = str(error)
            failures.kind = UnusableError if isinstance(error, UnusableError) else LaunchError
            delay = min(BACKOFF_MIN_S * 2 ** (failures.count - 1), BACKOFF_MAX_S)
            failures.next_start = time.monotonic() + delay
            raise
        if result_or_none is not None:
            failures.count = 0
        return result_or_none


@contextmanager
def _start_lock(settings: Settings, stopping: Callable[[], bool]) -> Iterator[bool]:
    """Holds the lock file; yields ``False`` when ``stopping`` became true first."""
    path = settings.socket_path + ".launch"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        folder = Path(path).absolute().parent
        raise UnusableError(
            f"{folder}, the folder of the socket, does not exist. Remedy: mkdir -p {folder}, or "
            "set FLEXKV_SERVER_RECV_PORT to a path in one that does"
        ) from None
    except OSError as error:
        raise LaunchError(
            f"cannot open the lock file {path}: {error.strerror}. Remedy: set "
            "FLEXKV_SERVER_RECV_PORT to a path in a folder of your own"
        ) from None
    try:
        info = os.fstat(fd)
        if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
            raise LaunchError(
                f"the lock file {path} belongs to uid {info.st_uid}. Remedy: set "
                "FLEXKV_SERVER_RECV_PORT to a path in a folder of your own"
            )
        give_up = time.monotonic() + settings.start_timeout_s + LOCK_EXTRA_S
        while True:
            if stopping():
                yield False
                return
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if time.monotonic() > give_up:
                raise LaunchError(
                    f"another process holds {path} and no sidecar came up. Remedy: end it (fuser "
                    f"{path} names it), or set FLEXKV_SERVER_RECV_PORT to another path"
                )
            time.sleep(_SLICE_S)
        yield True
    finally:
        os.close(fd)


def default_runtime_dir() -> str:
    """Where a user's sidecars keep their logs unless told otherwise."""
    return f"/tmp/flexkv-{os.geteuid()}"


def runtime_dir(settings: Settings) -> Path:
    """A folder that only we can write: ``FLEXKV_RUNTIME_DIR`` or ``/tmp/flexkv-<uid>``.

    ``UnusableError`` where that cannot be, ``LaunchError`` where it may be later.
    """
    folder = Path(settings.runtime_dir or default_runtime_dir())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(folder)
    except OSError as error:
        later = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        raise (LaunchError if later else UnusableError)(
            f"cannot make the folder {folder}: {error}. Remedy: set FLEXKV_RUNTIME_DIR to a folder "
            "of your own"
        ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise UnusableError(
            f"{folder} is not a folder that only uid {os.geteuid()} can write. Remedy: set "
            "FLEXKV_RUNTIME_DIR to one"
        )
    return folder


def output_file(settings: Settings) -> Path:
    """Where stdout and stderr of a sidecar that we start go (one file an address)."""
    digest = hashlib.sha256(settings.server_recv_port.encode()).hexdigest()[:8]
    return runtime_dir(settings) / f"sidecar-{digest}.out"


def command(settings: Settings, mode: str = "start") -> list[str]:
    """The command line of the sidecar; raises ``LaunchError`` where Java or jar is missing.

    ``start``: in the background, until its last engine has been gone for ``idle_exit_s``;
    ``serve``: in the foreground, until it is stopped.
    """
    java = find_java(settings)
    jar = find_jar(settings)
    args_file = jar.with_name(JVM_ARGS_NAME)
    jvm_args = [f"@{args_file}"] if args_file.is_file() else list(DEFAULT_JVM_ARGS)
    return [java.path, *jvm_args, "-jar", str(jar), mode]


def environment(settings: Settings, base: Mapping[str, str]) -> dict[str, str]:
    """The sidecar's environment: ours, and what the settings decided above file and environment."""
    env = {name: value for name, value in base.items() if name not in ENGINE_ONLY_ENV}
    decided = {
        "server_recv_port": settings.server_recv_port,
        "idle_exit_s": settings.idle_exit_s,
        "log_level": settings.log_level,
        "runtime_dir": str(runtime_dir(settings)),
        "strict": settings.strict,
        **settings.sidecar,
    }
    sources = {
        name: source
        for name, source in settings.sources.items()
        # What has been decided is no default, which the sidecar may fit to the machine.
        if name in decided and not (name in settings.sidecar and source == "default")
    }
    env[OVERRIDES_ENV] = json.dumps({**decided, "sources": sources})
    env["FLEXKV_SERVER_RECV_PORT"] = settings.server_recv_port  # for whoever looks at the process
    if settings.config_path:
        env[CONFIG_PATH_ENV] = str(Path(settings.config_path).absolute())
    return env


def _with_every_gpu(base: Mapping[str, str]) -> dict[str, str]:
    """Without one engine's choice of GPUs: engines with others join the sidecar that it starts.

    A process sees one MIG instance at most, the first one unless it is named: such a name stays.
    """
    visible = base.get("CUDA_VISIBLE_DEVICES", "").upper().split(",")
    if any(device.strip().startswith("MIG-") for device in visible):
        return dict(base)
    return {name: value for name, value in base.items() if name not in GPU_CHOICE_ENV}


def _start_and_wait(
    settings: Settings, attempt: Callable[[], T], stopping: Callable[[], bool]
) -> T | None:
    until = time.monotonic() + IN_USE_WAIT_S
    while True:
        try:
            return _start_once(settings, attempt, stopping)
        except UnusableError as error:
            if IN_USE not in str(error) or time.monotonic() >= until:
                raise
        again = time.monotonic() + IN_USE_PAUSE_S
        while time.monotonic() < again:
            if stopping():
                return None
            time.sleep(_SLICE_S)


def _start_once(
    settings: Settings, attempt: Callable[[], T], stopping: Callable[[], bool]
) -> T | None:
    argv = command(settings)
    output = output_file(settings)
    process = _spawn(argv, environment(settings, _with_every_gpu(os.environ)), output)
    logger.info("FlexKV sidecar started: pid %d, output %s", process.pid, output)
    logger.debug("FlexKV sidecar command: %s", argv)
    try:
        return _wait_ready(process, settings, attempt, stopping)
    finally:
        process.let_go()


def _wait_ready(
    process: _Starting,
    settings: Settings,
    attempt: Callable[[], T],
    stopping: Callable[[], bool],
) -> T | None:
    began = time.monotonic()
    while not stopping():
        try:
            result = attempt()
        except NobodyThereError:
            pass
        except AttachError:
            if process.poll() is None:
                raise  # it is up and said no: the text says why
        else:
            logger.info("FlexKV sidecar ready after %.2f s", time.monotonic() - began)
            return result
        code = process.poll()
        if code == EXIT_SETTINGS:
            raise UnusableError(
                f"the sidecar ended with code {code}: {_cause(process.said())} (all that it said: "
                f"{process.output})"
            )
        if code is not None:
            raise LaunchError(
                f"the sidecar ended with code {code} before it was ready. "
                f"Last lines of {process.output}:\n{process.said()}"
            )
        if time.monotonic() - began > settings.start_timeout_s:
            process.kill()
            raise LaunchError(
                f"the sidecar was not ready within {settings.start_timeout_s:g} s "
                f"(FLEXKV_START_TIMEOUT_S). Last lines of {process.output}:\n{process.said()}"
            )
        time.sleep(_SLICE_S)
    return None


def _cause(said: str) -> str:
    """The line that names what cannot be used, and the remedy: the last that the sidecar wrote."""
    lines = said.splitlines()
    ours = [line for line in lines if line.startswith("flexkv: ")]
    return (ours or lines)[-1].removeprefix("flexkv: ").rstrip(".")


_SHELL = '"$@" >&2 & echo $!; wait $!'
"""Starts its arguments, tells their process id on stdout, ends with their exit status."""


@dataclass(frozen=True, slots=True)
class _Starting:
    """A sidecar on its way, and the shell that is its parent meanwhile.

    What it writes goes to ``output``, which was ``output_start`` bytes long before.
    """

    shell: subprocess.Popen[bytes]
    pid: int
    output: Path
    output_start: int

    def poll(self) -> int | None:
        """The sidecar's exit status, ``None`` while it runs."""
        return self.shell.poll()

    def said(self) -> str:
        """The last lines that it wrote."""
        return tail(self.output, self.output_start)

    def kill(self) -> None:
        """Ends the sidecar; the shell, which has not waited for it yet, follows."""
        if self.shell.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.shell.wait(_KILL_WAIT_S)

    def let_go(self) -> None:
        """Ends the shell: from here on the sidecar, if it runs, is not below this process."""
        if self.shell.poll() is None:
            self.shell.kill()
            self.shell.wait()


def _spawn(argv: list[str], env: dict[str, str], output: Path) -> _Starting:
    try:
        if output.exists() and output.stat().st_size > OUTPUT_LIMIT_BYTES:
            output.replace(output.with_suffix(".out.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(output, flags, 0o600)
    except OSError as error:
        raise LaunchError(f"cannot write {output}: {error}") from None
    try:
        start = os.fstat(fd).st_size
        with _on_every_cpu():
            shell = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "sh", *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=fd,
                env=env,
                start_new_session=True,
            )
    except OSError as error:
        raise LaunchError(f"cannot run /bin/sh for {argv[0]}: {error}") from None
    finally:
        os.close(fd)
    assert shell.stdout is not None
    with shell.stdout:
        line = shell.stdout.readline()
    if not line.strip().isdigit():
        shell.kill()
        shell.wait()
        raise LaunchError(f"/bin/sh did not start {argv[0]}: it said {line!r}; see {output}")
    pid = int(line)
    return _Starting(shell, pid, output, start)


@contextmanager
def _on_every_cpu() -> Iterator[None]:
    """A child that begins in here may run on every CPU that this process' cpuset allows.

    It would inherit the calling thread's mask, and vLLM binds a worker's threads, often to a single
    core that they keep busy: the sidecar then waits seconds for its turn.
    """
    mask = os.sched_getaffinity(0)  # of the calling thread
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError as error:
        logger.debug("The sidecar stays on CPUs %s: %s", sorted(mask), error)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mask)


def tail(path: Path, start: int = 0) -> str:
    """The last lines of ``path`` that were written behind byte ``start``."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"(cannot be read: {error})"
    return "\n".join(lines[-TAIL_LINES:]) or "(nothing was written)"
