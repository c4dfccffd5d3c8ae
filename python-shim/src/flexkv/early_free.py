"""For vLLM before 0.16, which frees an aborted request's blocks while its load is still open.

Later versions keep them until every worker has named the request in ``finished_recving``.  Before,
only the connector can keep them: ``request_finished`` answers that they are still in use, and vLLM
frees them when every worker has named the request in ``finished_sending`` instead.

A rank may have reported the load as received before it hears of the abort, another not: so the
scheduler's side tells the workers which requests it kept, and each names them as sent, at once if
its part of the load has ended, else when it does.  What a rank reported as received before does no
harm: those versions only remember the name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class KeptRequests:
    """The scheduler's half: requests whose blocks vLLM keeps until they are "sent"."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._new: list[str] = []

    def keep(self, request_id: str) -> None:
        """``request_finished`` answered true; the next step's metadata says so to the workers."""
        self._new.append(request_id)

    def take(self) -> list[str]:
        """What the step that is being built has to tell."""
        new, self._new = self._new, []
        self._told.update(new)
        return new

    def sent(self, request_ids: Iterable[str] | None) -> list[str]:
        """Those of ours that every worker has named by now."""
        if not self._told or not request_ids:
            return []
        ended = self._told.intersection(request_ids)
        self._told -= ended
        return list(ended)


class SentInstead:
    """A worker's half.  Engine thread of one rank only."""

    def __init__(self) -> None:
        self._waited_for: set[str] = set()
        self._sent: set[str] = set()

    def hear(self, request_ids: Iterable[str], is_open: Callable[[str], bool]) -> None:
        """These requests were aborted and kept; ``is_open``: this rank has yet to end the load."""
        for request_id in request_ids:
            (self._waited_for if is_open(request_id) else self._sent).add(request_id)

    def split(self, received: set[str]) -> set[str]:
        """Those of the loads that have ended now which are not to be named as received."""
        mine = received & self._waited_for
        self._waited_for -= mine
        self._sent |= mine
        return received - mine

    def take(self) -> set[str]:
        """Requests to name as sent, each once."""
        sent, self._sent = self._sent, set()
        return sent
