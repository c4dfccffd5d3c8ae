"""How a rank's KV memory becomes known to a sidecar, and to each later one.

The first time, inside vLLM's ``register_kv_caches`` and on its thread, the layout is proved while
no block is live.  After that a new sidecar gets the same cached description from the link's
background thread and trusts the fingerprint: no CUDA call, no write to live blocks.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from flexkv.errors import ControlError, FlexKVError, MemoryInUseError
from flexkv.fences import Fences
from flexkv.handles import allocation_handles, allow_tracing_by
from flexkv.layout import KvLayout
from flexkv.proof import CONTROL_TIMEOUT_S, LayoutProof
from flexkv.session_api import Session, WorkerLink

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 3

REFUSALS = ("refused", "malformed")
"""Codes of answers that say what the sidecar thinks of the request, not in what state it is."""

ENDING_S = 5.0
"""A sidecar that cannot serve anybody any more is gone so long after it has said no."""


class Registration:
    """One rank's registration, over all lives of the sidecar.

    ``keep``: the proof gives the blocks it uses their bytes back, instead of zeroes.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._description: dict[str, Any] | None = None
        self._fences: dict[str, Any] | None = None
        self._layout: KvLayout | None = None
        self._lock = threading.Lock()
        self._registered: Session | None = None
        self.proved = False

    def first(
        self,
        layout: KvLayout,
        fences: Fences,
        link: WorkerLink,
        timeout_s: float,
        *,
        same_on_all_ranks: bool = False,
    ) -> bool:
        """Describes the memory, waits for a sidecar and proves the layout.

        Engine thread, before any block is live.  Each of ``ATTEMPTS_MAX`` attempts waits at most
        about ``timeout_s`` seconds for a sidecar; the first that waits in vain is the last, and
        none begins after twice that time.  One whose request is not answered, or whose sidecar
        ends, is followed by another.  False (and one line in the log) means: this engine is served
        nothing.  Raises ``MemoryInUseError`` if a sidecar may go on writing into the memory.
        """
        self._layout = layout
        self._description = {
            "block_tokens": layout.block_tokens,
            "num_blocks": layout.num_blocks,
            "fingerprint": layout.fingerprint,
            "allocations": allocation_handles(layout.storages),
            "regions": [region.as_list() for region in layout.regions],
            "same_on_all_ranks": same_on_all_ranks,
        }
        self._fences = fences.handles()
        return self._attempts(layout, link, timeout_s)

    def _attempts(self, layout: KvLayout, link: WorkerLink, timeout_s: float) -> bool:
        end = time.monotonic() + 2 * timeout_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            began = time.monotonic()
            if began >= end:
                return self._unserved(f"no sidecar answered within {2 * timeout_s:.0f} s")
            session = link.wait(min(timeout_s, end - began))
            if session is None:
                waited = time.monotonic() - began
                given_up = waited < min(timeout_s, end - began)  # the link has said why
                return self._unserved(
                    "" if given_up else f"no sidecar could be reached within {waited:.0f} s"
                )
            try:
                self._register(session, layout)
            except MemoryInUseError:
                raise
            except FlexKVError as error:
                logger.warning(
                    "FlexKV could not register the KV cache (attempt %d of %d): %s",
                    attempt, ATTEMPTS_MAX, error,
                )  # fmt: skip
                if _is_final(error) and not (_may_end(error) and _ends(session)):
                    logger.info("FlexKV serves nothing to this rank")
                    return False
                session.close()
                _wait_until_replaced(link, session)
                continue
            logger.info(
                "FlexKV registered %d blocks of %d bytes (%d regions), layout %s",
                layout.num_blocks, layout.part_bytes, len(layout.regions), layout.fingerprint,
            )  # fmt: skip
            return True
        return self._unserved(f"{ATTEMPTS_MAX} attempts failed")

    def _unserved(self, why: str) -> bool:
        """No sidecar has this rank's memory.  Whether one may get it later: if it was proved."""
        if self.proved:
            logger.warning("FlexKV serves this rank only once a sidecar answers")
        elif why:
            logger.warning(
                "FlexKV serves nothing to this rank: %s, and the layout can be proved only before "
                "blocks are in use. Remedy: restart this engine once a sidecar answers", why,
            )  # fmt: skip
        else:
            logger.info("FlexKV serves nothing to this rank")
        return self.proved

    def again(self, session: Session) -> bool:
        """``on_attach`` of the link: tells a new sidecar what an earlier one has proved.

        Background thread.  True before the first registration too: that one is the engine
        thread's to do, over the session that is published now.
        """
        if not self.proved or self._layout is None:
            return True
        self._register(session, self._layout)
        return True

    def _register(self, session: Session, layout: KvLayout) -> None:
        with self._lock:
            if self._registered is not session:
                self._register_locked(session, layout)
                self._registered = session

    def _register_locked(self, session: Session, layout: KvLayout) -> None:
        allow_tracing_by(session.server_pid)
        identity = {"session_id": session.session_id}
        answer = session.control(
            "register",
            {
                **identity,
                "layout": self._description,
                "fences": self._fences,
                "proved": self.proved,
            },
            CONTROL_TIMEOUT_S,
        )
        if answer.get("part_bytes") != layout.part_bytes:
            raise FlexKVError(
                f"the sidecar counts {answer.get('part_bytes')} bytes a block, we "
                f"{layout.part_bytes}"
            )
        if not self.proved:
            LayoutProof(layout, keep=self._keep).run(session)
            self.proved = True
        session.control("confirm", identity, CONTROL_TIMEOUT_S)


def _is_final(error: FlexKVError) -> bool:
    """Whether another attempt with the same sidecar would end alike, as far as one can tell."""
    return not isinstance(error, ControlError) or (error.code in REFUSALS and not error.may_run)


def _may_end(error: FlexKVError) -> bool:
    """Whether a sidecar that cannot serve anybody any more would have answered so."""
    return isinstance(error, ControlError) and error.code == "refused"


def _ends(session: Session) -> bool:
    """Whether the sidecar ends behind its refusal: one does whose device is lost to it."""
    deadline = time.monotonic() + ENDING_S
    while session.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _wait_until_replaced(link: WorkerLink, session: Session) -> None:
    """Waits, at start-up only, until the link has noticed that a session is over."""
    deadline = time.monotonic() + ENDING_S
    while link.session() is session and time.monotonic() < deadline:
        time.sleep(0.02)
