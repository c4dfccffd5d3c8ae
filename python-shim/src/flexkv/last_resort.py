"""What a rank does about a sidecar that may write into its memory and does not say that it ended.

Memory goes back to vLLM only when nothing writes into it: drained or dead.  A load is waited for
from step to step (``loads.py``); here, at a start, the engine's thread itself waits, with a bound.
"""

from __future__ import annotations

import logging
import time

from flexkv.errors import MemoryInUseError
from flexkv.session_api import Session

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""A sidecar whose connection has ended was told to end, as a rule, and does so within this time."""

DEATH_S = 60.0
"""A killed sidecar ends when the kernel has taken its pool back: seconds for a large one."""

_LOOK_S = 0.02


def end_writer(session: Session, why: str) -> None:
    """Comes back once no copy of the session's sidecar touches memory of ours: its process is gone.

    Engine's thread, at a start only; at most about ``PATIENCE_S + DEATH_S`` seconds.  Raises
    ``MemoryInUseError`` if the process is there even then.
    """
    if not session.alive() and _dies_within(session, PATIENCE_S):
        return
    logger.error(
        "FlexKV kills the sidecar (pid %d): %s, and it may still write into this engine's KV "
        "blocks, which are served only when nothing else writes them",
        session.server_pid, why,
    )  # fmt: skip
    killed = session.kill_server()
    if not _dies_within(session, DEATH_S):
        raise MemoryInUseError(
            f"the sidecar (pid {session.server_pid}) may still write into this engine's KV blocks "
            f"and {'was killed' if killed else 'could not be killed'} {DEATH_S:.0f} s ago without "
            "ending, so nothing may be served from them. Remedy: find out what holds that process "
            "(a GPU that hangs: dmesg says Xid; a frozen container: thaw it), then start the "
            "engine again"
        )


def _dies_within(session: Session, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not session.server_dead():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_S)
    return True
