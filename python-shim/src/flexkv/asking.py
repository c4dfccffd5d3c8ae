"""Questions of a command to the sidecar that runs at an address."""

from __future__ import annotations

from typing import Any

from flexkv import protocol as p
from flexkv.config import Settings
from flexkv.errors import FlexKVError
from flexkv.rendezvous import NobodyThereError
from flexkv.session import open_session
from flexkv.version import __version__

CONTROL_TIMEOUT_S = 4.0


def ask(
    settings: Settings, op: str, args: dict[str, Any], timeout_s: float = CONTROL_TIMEOUT_S
) -> dict[str, Any]:
    """The running sidecar's answer over the control plane; never starts one."""
    hello = p.Hello(role=p.ROLE_TOOL, pid=0, build=__version__)
    try:
        session = open_session(settings.socket_path, hello, None)
    except NobodyThereError as error:
        raise FlexKVError(
            f"{error}. Remedy: start one (`flexkv serve`, or an engine), or name the address of "
            "one that runs (--address, FLEXKV_SERVER_RECV_PORT)"
        ) from None
    try:
        answer = session.control(op, args, timeout_s)
    finally:
        session.close()
    return {"pid": session.server_pid, "log_file": session.welcome.log_file, **answer}
