"""How vLLM is told of each connector that is compared, and what runs beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import processes
from harness.checkout import readme_flag
from harness.sidecar import Sidecar

from gpu.engine import has_gpu

#: What is compared: no connector, ours, ours without its wait for loads (`load_wait_ms`), vLLM's
#: own offloading to the CPU, PegaFlow.
MODES = ("none", "flexkv", "unwaited", "native", "pegaflow")
#: Those that share our sidecar.
OURS = ("flexkv", "unwaited")

#: Where the pack leaves a libpython for PegaFlow's server, if the machine has none.
_CARRIED_LIBRARIES = "/opt/flexkv/lib"


def missing(mode: str) -> str:
    """Why this mode cannot run here, '' if it can."""
    if mode == "pegaflow" and importlib.util.find_spec("pegaflow") is None:
        return "PegaFlow is not installed (package pegaflow-llm-cu13)"
    return ""


def kv_transfer(mode: str, cpu_gb: float, *, traced: bool = False) -> Mapping[str, Any] | None:
    """The value of `--kv-transfer-config`."""
    if mode == "none":
        return None
    if mode == "flexkv":
        if traced:
            return {
                "kv_connector": "TracedFlexKV",
                "kv_role": "kv_both",
                "kv_connector_module_path": "gpu.traced",
            }
        return readme_flag()
    if mode == "unwaited":
        return {**readme_flag(), "kv_connector_extra_config": {"flexkv_load_wait_ms": 0}}
    if mode == "native":
        return {
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"cpu_bytes_to_use": int(cpu_gb * 1e9)},
        }
    return {
        "kv_connector": "PegaKVConnector",
        "kv_role": "kv_both",
        "kv_connector_module_path": "pegaflow.connector",
    }


def sidecar(cpu_gb: float) -> Sidecar:
    """A sidecar of this run's own, started by the first engine that wants it."""
    folder = Path(tempfile.mkdtemp(prefix="fkv-"))
    threads = min(8, os.cpu_count() or 1)
    return Sidecar(folder, FLEXKV_CPU_CACHE_GB=f"{cpu_gb:g}", FLEXKV_PREFAULT_THREADS=str(threads))


def pinned(sidecar: Sidecar) -> bool:
    """Whether the whole pool has its pages and, where there is a GPU, is registered with it."""
    pool = sidecar.status()["pool"]
    return bool(pool["finished"]) and (not has_gpu() or pool["pinned"] >= 0.99 * pool["of"])


def wait_pinned(sidecar: Sidecar, timeout_s: float) -> bool:
    """Waits for it; false if it did not come in time."""
    try:
        processes.wait_until(lambda: pinned(sidecar), timeout_s, "the pool is pinned", 0.2)
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def companion(mode: str, cpu_gb: float, log: Path) -> Iterator[dict[str, str]]:
    """Starts what an engine of this mode needs beside it; its environment is the value.

    Only PegaFlow needs something: its server. Our sidecar is started by the engine.
    """
    if mode != "pegaflow":
        yield {}
        return
    port = processes.free_port()
    spec = importlib.util.find_spec("pegaflow")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(next(iter(spec.submodule_search_locations)))
    library = sysconfig.get_config_var("LIBDIR") or ""
    with log.open("wb") as output:
        server = subprocess.Popen(
            [package / "pegaflow-server-py", "--addr", f"127.0.0.1:{port}", "--pool-size",
             f"{cpu_gb:g}gb", "--http-addr", f"127.0.0.1:{processes.free_port()}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": _joined(
                    library, _CARRIED_LIBRARIES, os.environ.get("LD_LIBRARY_PATH", "")
                ),
                "PYTHONHOME": sys.base_prefix,
                "PYTHONPATH": _joined(
                    str(package.parent), *site.getsitepackages(), os.environ.get("PYTHONPATH", "")
                ),
            },
            preexec_fn=processes.die_with_parent,  # noqa: PLW1509 (one system call)
        )  # fmt: skip
    try:
        processes.wait_until(
            lambda: _answers(port) or server.poll() is not None, 90, "PegaFlow's server", 0.1
        )
        if server.poll() is not None:
            raise RuntimeError(f"PegaFlow's server ended:\n{processes.tail(log)}")
        yield {"PEGAFLOW_HOST": "http://127.0.0.1", "PEGAFLOW_PORT": str(port)}
    finally:
        processes.stop(server, 10.0)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _joined(*folders: str) -> str:
    return os.pathsep.join(folder for folder in folders if folder)
