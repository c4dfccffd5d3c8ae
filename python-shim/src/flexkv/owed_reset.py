"""A reset of the cache that no sidecar has confirmed yet."""

from __future__ import annotations

from collections.abc import Callable

from flexkv.protocol import STATUS_OK, Record, Reset, ResetAnswer
from flexkv.session_api import Session


class OwedReset:
    """Owed from ``owe`` on, whatever becomes of sessions and sidecars, until one has confirmed it.

    A session is asked once; where it has ended unanswered, or said that its reset would not last,
    the next one is asked.  One thread.
    """

    def __init__(self, next_query: Callable[[], int]) -> None:
        self._next_query = next_query
        self._asked: tuple[int, int] | None = None
        self._query = 0
        self.owed = False
        """Whether what was saved before could be served still: nothing is to be asked for."""

    def owe(self) -> None:
        """Nothing saved before now is to be served: every session is to be asked anew."""
        self.owed = True
        self._query = 0

    def ask(self, session: Session) -> bool:
        """Sends the reset if it is owed and this session was not asked; false = no room for it."""
        identity = (session.boot_epoch, session.session_id)
        if identity != self._asked:
            self._asked, self._query = identity, 0
        if self.owed and not self._query:
            query = self._next_query()
            if not session.send(Reset(query)):
                return False
            self._query = query
        return True

    def wait_for(self, session: Session, spin_us: float) -> Record | None:
        """The answer of the session that was asked, if it comes within ``spin_us``."""
        return session.wait_for(self._query, spin_us)

    def heard(self, answer: ResetAnswer) -> bool:
        """Takes an answer; false if the sidecar cannot make the reset last: it stays owed."""
        if answer.query_id == self._query:
            self.owed = answer.status != STATUS_OK
            return not self.owed
        return True
