"""Brings the sidecar up while vLLM loads its model, so that nobody waits for it later.

vLLM makes a worker's connector when the KV cache is allocated, seconds after the weights, and a
sidecar with a large pool needs some seconds itself.  The first that vLLM tells a connector's class
is its extra configuration, in the front end, before any process is forked: ``begin``.

The front end must not have a thread of ours when it forks its engine, so a process does it:
``python -m flexkv.early`` starts the sidecar or joins it, and keeps it company (it would end
without a client) until an engine is there, the front end is gone, or ten minutes have passed.
Whatever goes wrong is nobody's business here: the engine starts the sidecar then, as it does
without this module, and says what is wrong.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flexkv import protocol as p
from flexkv.config import Settings
from flexkv.errors import FlexKVError
from flexkv.launcher import start_or_join
from flexkv.session import Session, open_session

logger = logging.getLogger(__name__)

KEEP_S = 600.0
"""How long the sidecar is kept for an engine that does not come."""

_LOOK_S = 0.5
_STATUS_S = 2.0
_IN_BACKGROUND = 'exec 3<&0; "$@" <&3 >/dev/null 2>&1 &'
"""Its arguments run on below nobody, with our input: nothing is left for vLLM to wait for."""

_begun: set[str] = set()


def begin(extra: Mapping[str, Any] | None) -> None:
    """Starts the helper, once a process and address; returns after some milliseconds, never raises.

    ``extra`` is ``kv_connector_extra_config``.
    """
    try:
        settings = Settings.load(extra or {})
        address = settings.server_recv_port
        if not _wanted(settings) or address in _begun:
            return
        _begun.add(address)
        _spawn(extra or {})
    except Exception as error:  # the engine says what is wrong, and more of it
        logger.debug("The sidecar is not started early: %s", error)


def _wanted(settings: Settings) -> bool:
    """Whether this process knows all that the sidecar is started with.

    A pool in blocks is turned into bytes by who knows how many a block has.
    """
    in_blocks = any(settings.values.get(blocks) for blocks in ("num_cpu_blocks", "num_ssd_blocks"))
    return settings.enabled and settings.launch and settings.early_start and not in_blocks


def _spawn(extra: Mapping[str, Any]) -> None:
    order = json.dumps({"front_end": os.getpid(), "extra": dict(extra)})
    ours = str(Path(__file__).resolve().parents[1])
    paths = [ours, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    subprocess.run(
        ["/bin/sh", "-c", _IN_BACKGROUND, "sh", sys.executable, "-m", "flexkv.early"],
        input=order.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
        timeout=5.0,
        check=False,
    )


# ---------------------------------------------------------------------- the helper
def keep(settings: Settings, front_end_gone: Callable[[], bool]) -> None:
    """Starts or joins the sidecar, and stays until it is somebody else's to keep."""
    hello = p.Hello(role=p.ROLE_TOOL, pid=0)
    session = start_or_join(
        settings, lambda: open_session(settings.socket_path, hello, None), front_end_gone
    )
    if session is None:
        return
    until = time.monotonic() + KEEP_S
    while (
        session.alive()
        and time.monotonic() < until
        and not front_end_gone()
        and not _has_engine(session)
    ):
        time.sleep(_LOOK_S)
    session.close()


def _has_engine(session: Session) -> bool:
    try:
        return bool(session.control("status", {}, _STATUS_S).get("instances"))
    except FlexKVError:
        return False  # it is busy with its own start


def main() -> int:
    """Reads what ``begin`` wrote."""
    order = json.load(sys.stdin)
    try:
        pidfd = os.pidfd_open(order["front_end"])
    except OSError:
        return 0  # it is gone already
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        keep(Settings.load(order["extra"]), lambda: bool(poller.poll(0)))
    except FlexKVError as error:
        logger.debug("%s", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
