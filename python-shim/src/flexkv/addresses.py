"""Where ``KVManager`` and ``KVTPClient`` meet: the sidecar's address under two names.

The original has a second socket, ``gpu_register_port``, for the ranks.  Here ranks connect to the
sidecar itself.  The usual name, the sidecar's address with ``_gpu_register`` behind it, is computed
back; for any other name the manager leaves a symbolic link to the sidecar's socket there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

from flexkv.errors import ConfigError

logger = logging.getLogger(__name__)

SUFFIX = "_gpu_register"
_IPC = "ipc://"


def _path(name: str, address: str) -> Path:
    path = address.removeprefix(_IPC)
    if path == address or not path.startswith("/") or len(path.encode()) > 107:
        raise ConfigError(
            f"{name} is {address!r}, must be ipc:// and an absolute path of at most 107 bytes"
        )
    return Path(path)


def instance_name(gpu_register_port: str, dp_client_id: int) -> str:
    """The name by which the sidecar knows a manager and its ranks."""
    digest = hashlib.sha256(gpu_register_port.encode()).hexdigest()[:12]
    return f"kvmanager-{digest}/{dp_client_id}"


def manager_ports(
    server_recv_port: str, gpu_register_port: str, dp_client_id: int
) -> tuple[str, str]:
    """The address that ranks use and the instance's name; raises ``ConfigError``."""
    register = gpu_register_port or server_recv_port + SUFFIX
    _path("gpu_register_port", register)
    return register, instance_name(register, dp_client_id)


def publish_register_port(gpu_register_port: str, server_recv_port: str) -> None:
    """Lets ranks that know only ``gpu_register_port`` find the sidecar; raises ``ConfigError``."""
    if gpu_register_port in (server_recv_port + SUFFIX, server_recv_port):
        return
    link = _path("gpu_register_port", gpu_register_port)
    target = server_recv_port.removeprefix(_IPC)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise ConfigError(
                f"gpu_register_port is {gpu_register_port}, where something else lies: remove it, "
                "or name another path"
            )
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    except OSError as error:
        raise ConfigError(f"gpu_register_port {gpu_register_port}: {error}") from None


def withdraw_register_port(gpu_register_port: str, server_recv_port: str) -> None:
    """Takes the link away, if it is ours."""
    if gpu_register_port in (server_recv_port + SUFFIX, server_recv_port):
        return
    link = _path("gpu_register_port", gpu_register_port)
    with contextlib.suppress(OSError):
        if os.readlink(link) == server_recv_port.removeprefix(_IPC):
            link.unlink()


def rank_address(gpu_register_port: str) -> str:
    """Where a rank connects; raises ``ConfigError``."""
    _path("gpu_register_port", gpu_register_port)
    return gpu_register_port.removesuffix(SUFFIX)
