"""The link of one engine process to the sidecar: keeps one session alive in the background.

The thread ``flexkv-attach`` connects (starting the sidecar where nobody listens), hands the new
session to ``on_attach``, publishes it, sleeps until it ends, and starts again with back-off, for as
long as the engine lives.  It logs one line a change of state, and a failure that repeats itself
once.  Where no sidecar can be started before somebody changes something, and none was ever there,
it gives up, so that nobody waits for it.  The engine's thread only ever reads ``Link.session()``.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from flexkv import protocol as p
from flexkv.config import Settings
from flexkv.errors import FlexKVError, UnusableError
from flexkv.launcher import start_or_join
from flexkv.rendezvous import NobodyThereError
from flexkv.ring import GenerationTable
from flexkv.session import FENCE_WORDS, REVOKE_WORDS, Session, open_session
from flexkv.version import __version__

__all__ = [
    "FENCE_WORDS",
    "REVOKE_WORDS",
    "GenerationTable",
    "Link",
    "Session",
    "open_session",
    "rings_usable",
]

logger = logging.getLogger(__name__)

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
_WATCH_S = 3600.0

_given_up: set[str] = set()
"""Why links of this process gave up: scheduler and worker of one process say it once."""


def rings_usable(settings: Settings) -> bool:
    """Whether records may travel through shared memory here; else they are messages."""
    return settings.rings and platform.machine() in p.RING_MACHINES


class Link:
    """See the module.

    ``hello`` is called in the attach thread for every attempt.  ``on_attach`` runs there too,
    before the session is published; ``False`` or an exception closes it and the attempt counts as
    failed.  ``generation_entries`` > 0 (a scheduler) makes the block-generation table, which
    outlives every session.  ``held_up`` names who waits up to ``start_timeout_s`` for the first
    session, for the message that none is there.
    """

    def __init__(
        self,
        settings: Settings,
        hello: Callable[[], p.Hello],
        *,
        generation_entries: int = 0,
        on_attach: Callable[[Session], bool] | None = None,
        launch: bool = True,
        held_up: str = "",
    ) -> None:
        self.settings = settings
        self.generations = GenerationTable(generation_entries)
        self._hello = hello
        self._on_attach = on_attach
        self._launch = launch and settings.launch
        self._held_up = held_up
        self._session: Session | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._state = ""
        self._failing = False
        self._attached = False
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the attach thread; returns at once.  Does nothing if it runs or was closed."""
        with self._changed:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="flexkv-attach", daemon=True)
                self._thread.start()

    def session(self) -> Session | None:
        """The session that is open now, or ``None``: one attribute read, no lock."""
        return self._session

    def wait(self, timeout_s: float) -> Session | None:
        """Waits for a session (start of an engine, tools, tests); ``None`` when none came.

        Comes back at once where none can come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._session or self._stopping or self._over, timeout_s)
            return self._session

    def close(self) -> None:
        """Ends the session and the thread; bounded by two seconds, safe to call twice."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        session = self._session
        if session is not None:
            session.close()  # wakes the thread
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)

    # ------------------------------------------------------------------ the attach thread
    def _run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while not self._stopping:
            session = self._attempt()
            if self._over:
                return
            if session is None:
                self._pause(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                continue
            began = time.monotonic()
            self._attached, self._failing = True, False
            self._publish(session)
            self._note(
                logging.INFO,
                f"FlexKV attached: sidecar pid {session.server_pid}, session "
                f"{session.session_id}, log {session.welcome.log_file or 'unknown'}",
            )
            while not self._stopping and not session.wait_until_over(_WATCH_S):
                pass
            self._publish(None)
            session.close()
            if not self._stopping:
                self._note(
                    logging.WARNING,
                    f"FlexKV detached: session {session.session_id} with sidecar pid "
                    f"{session.server_pid} is over; the engine computes meanwhile",
                )
                if time.monotonic() - began > BACKOFF_MAX_S:
                    backoff_s = BACKOFF_MIN_S
                self._pause(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _attempt(self) -> Session | None:
        """One attempt, the sidecar started if need be; every failure becomes a note."""
        try:
            session = self._open()
            if session is None:
                return None
            try:
                accepted = self._on_attach is None or self._on_attach(session)
            except BaseException:
                session.close()
                raise
            if not accepted:
                session.close()
                self._note(logging.WARNING, "FlexKV is not used: registration was refused")
                session = None
        except NobodyThereError as error:
            if self.settings.launch and not self._launch:  # as usual at a start: others bring it up
                self._note(logging.INFO, f"FlexKV waits for the manager's sidecar: {error}")
            else:
                self._fail(logging.WARNING, f"FlexKV is not attached: {error}{self._remedy()}")
        except UnusableError as error:
            if self._attached:  # what worked may work again
                self._fail(logging.WARNING, f"FlexKV is not attached: {error}")
            else:
                self._give_up(str(error))
        except FlexKVError as error:
            self._fail(logging.WARNING, f"FlexKV is not attached: {error}")
        except Exception as error:  # the engine must live, whatever this was
            if self._fail(
                logging.ERROR, f"FlexKV is not attached: {type(error).__name__}: {error}"
            ):
                logger.debug("Details of the failed attach", exc_info=True)
        else:
            return session
        return None

    def _open(self) -> Session | None:
        hello = replace(self._hello(), rings=rings_usable(self.settings), build=__version__)
        path = self.settings.socket_path
        try:
            return open_session(path, hello, self.generations)
        except NobodyThereError as error:
            if not self._launch:
                raise
            if not self._failing:  # else two lines would alternate
                self._note(logging.INFO, f"FlexKV starts a sidecar: {error}")
        return start_or_join(
            self.settings,
            lambda: open_session(path, hello, self.generations),
            lambda: self._stopping,
        )

    def _remedy(self) -> str:
        """What to do where nobody listens and this link starts nobody; empty where it does."""
        if self._launch:
            return ""
        waits = ""
        if self._held_up and not self._attached:
            waits = f"; {self._held_up} waits up to {self.settings.start_timeout_s:g} s for it"
        return f". Remedy: flexkv serve{waits}"

    def _publish(self, session: Session | None) -> None:
        with self._changed:
            self._session = None if self._stopping else session
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _give_up(self, text: str) -> None:
        """Ends the thread, and whoever waits for a session waits no longer."""
        level = logging.DEBUG if text in _given_up else logging.WARNING
        _given_up.add(text)
        logger.log(
            level,
            "FlexKV is not attached: %s. This engine runs without cache until it is restarted",
            text,
        )
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _fail(self, level: int, text: str) -> bool:
        """Logs a failure; until a session is there, its repetitions and further starts are not."""
        self._failing = True
        return self._note(level, text)

    def _note(self, level: int, text: str) -> bool:
        """Logs ``text`` unless it is what was logged last: one line a change of state."""
        if text == self._state:
            return False
        self._state = text
        logger.log(level, text)
        return True
