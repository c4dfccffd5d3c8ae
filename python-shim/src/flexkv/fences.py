"""When the engine has finished with the memory that a job is about to touch.

The sidecar polls a fence and submits the copy once it is reached: nothing on the device waits, so
a dead engine never blocks a copy stream.  On a GPU a fence is an interprocess event recorded on the
stream that is current at that very call (vLLM swaps it lazily); on the CPU the bytes are in place
when the hook returns, and there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flexkv.protocol import FENCE_EVENT, FENCE_NONE
from flexkv.session_api import Session

FENCE_EVENTS = 64
"""Events in the ring: steps whose fences may be outstanding at once."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What a ``Go`` record carries of a fence."""

    kind: int = FENCE_NONE
    index: int = 0
    sequence: int = 0


class Fences(Protocol):
    """Makes fences.  Engine thread of one rank only."""

    def record(self, session: Session) -> Fence | None:
        """A fence for everything submitted so far; ``None`` if all are still outstanding."""

    def handles(self) -> dict[str, Any] | None:
        """What registration tells the sidecar of them."""


class NoFences:
    """A CPU engine: every hook runs after the bytes were written."""

    def record(self, session: Session) -> Fence | None:  # noqa: ARG002
        return Fence()

    def handles(self) -> dict[str, Any] | None:
        return None


class Event(Protocol):
    """The part of ``torch.cuda.Event`` that is used here."""

    def record(self) -> None:
        """Records on the current stream."""

    def ipc_handle(self) -> bytes:
        """64 bytes with which another process opens the event."""

    def query(self) -> bool:
        """Whether the last recording is complete; does not wait."""


class EventFences:
    """A ring of interprocess events, each with the sequence number of its last recording.

    An event is recorded again only after its last recording is known to be complete: the sidecar
    says so, or, where no job polled it (its plan was refused, its ``Go`` found no room), the event
    itself does.  A sidecar that has not looked by then waits for the later recording: right too,
    only later.  A new session starts with a clean ring: the old sidecar polls nothing any
    more, and numbers never repeat.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._handles = [bytes(event.ipc_handle()).hex() for event in events]
        self._last = [0] * len(events)
        self._next = 0
        self._sequence = 0
        self._session: Session | None = None
        self.exhausted = 0

    def handles(self) -> dict[str, Any] | None:
        """Cached bytes: no CUDA call, so that a background thread may ask."""
        return {"kind": "cuda_ipc_event", "handles": list(self._handles)}

    def record(self, session: Session) -> Fence | None:
        if session is not self._session:
            self._session = session
            self._last = [0] * len(self._events)
        index = self._next
        event = self._events[index]
        if session.fence_seen(index) < self._last[index] and not event.query():
            self.exhausted += 1
            return None
        event.record()
        self._sequence += 1
        self._last[index] = self._sequence
        self._next = (index + 1) % len(self._events)
        return Fence(FENCE_EVENT, index, self._sequence)


def cuda_fences() -> EventFences:
    """Fences of the current CUDA device; the engine's thread calls this once."""
    import torch

    return EventFences(
        [torch.cuda.Event(enable_timing=False, interprocess=True) for _ in range(FENCE_EVENTS)]
    )
