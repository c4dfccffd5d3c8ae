"""How the sidecar can reach a rank's KV memory: the handles of its allocations.

Made once, on the engine's thread, and kept as plain values: a re-attachment from the background
thread sends the same bytes and calls no CUDA function.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexkv.cuda_driver import CudaDriver
from flexkv.engine import VIRTUAL_MEMORY
from flexkv.errors import FlexKVError
from flexkv.layout import Storage

logger = logging.getLogger(__name__)

_PR_SET_PTRACER = 0x59616D61


class HandleError(FlexKVError):
    """The memory cannot be shared with another process; says what would help."""


def allocation_handles(storages: Sequence[Storage]) -> list[dict[str, Any]]:
    """One handle a storage, of the kind that its device needs."""
    kinds = {storage.tensor.device.type for storage in storages}
    if kinds == {"cpu"}:
        return process_handles(storages)
    if kinds == {"cuda"}:
        return cuda_handles(storages, CudaDriver())
    raise HandleError(f"KV memory on {', '.join(sorted(kinds))} is not served, only cpu and cuda")


def start_ticks() -> int:
    """When this process began, field 22 of ``/proc/self/stat``: with the pid it is unique."""
    stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def process_handles(storages: Sequence[Storage]) -> list[dict[str, Any]]:
    """Handles of ordinary memory of this process."""
    return [
        {
            "kind": "process",
            "pid": os.getpid(),
            "start_ticks": start_ticks(),
            "address": storage.address,
            "length": storage.length,
        }
        for storage in storages
    ]


def cuda_handles(storages: Sequence[Storage], driver: CudaDriver) -> list[dict[str, Any]]:
    """Handles of CUDA memory: of the base of each allocation, with the offset into it."""
    uuid = driver.gpu_uuid()
    handles: list[dict[str, Any]] = []
    for storage in storages:
        if not driver.legacy_ipc_capable(storage.address):
            raise HandleError(VIRTUAL_MEMORY)
        base, size = driver.allocation_of(storage.address)
        offset = storage.address - base
        if offset < 0 or offset + storage.length > size:
            raise HandleError(
                f"a KV buffer of {storage.length} bytes at offset {offset} leaves its CUDA "
                f"allocation of {size} bytes"
            )
        handles.append(
            {
                "kind": "cuda_ipc",
                "handle": driver.ipc_handle(base).hex(),
                "offset": offset,
                "length": storage.length,
                "gpu_uuid": uuid,
            }
        )
    return handles


def allow_tracing_by(pid: int) -> None:
    """Lets the sidecar read and write this process where Yama restricts it (ptrace_scope 1).

    Where the kernel has no Yama the call fails with EINVAL and nothing needed to be allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0) != 0:
        logger.debug("PR_SET_PTRACER(%d): errno %d", pid, ctypes.get_errno())
