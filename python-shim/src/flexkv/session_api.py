"""What scheduler and worker side need of a connection: the seam between them and the client.

``flexkv.client`` implements it over shared memory; the tests have an in-memory sidecar that loses,
delays and reorders on command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from flexkv.protocol import Lookup, Record


class Session(Protocol):
    """One life of one connection with one sidecar.  Nothing here blocks, except ``control``."""

    boot_epoch: int
    session_id: int
    server_pid: int

    def alive(self) -> bool:
        """False once the other side is gone; never true again."""

    def close(self) -> None:
        """Ends the session; what the other side still does for it ends with it."""

    def send(self, *records: Record) -> bool:
        """Publishes all of the records or none (ring full, or the session is dead)."""

    def ask(self, lookup: Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        """Publishes ``hashes`` from index ``first`` on as far as there is room, then the question.

        Returns how many of them the sidecar has then, and whether the question went.
        ``ValueError`` for hashes whose widths the protocol does not carry.
        """

    def poll(self) -> list[Record]:
        """What has arrived, in order."""

    def wait_for(self, query_id: int, spin_us: float) -> Record | None:
        """The answer to a query, or ``None`` after spinning for ``spin_us`` microseconds."""

    def set_revoke(self, index: int, job_id: int) -> None:
        """Stores a job id in a revoke word (0 clears it)."""

    def fence_seen(self, index: int) -> int:
        """The last sequence number of a fence event that the sidecar has seen complete."""

    def kill_server(self) -> bool:
        """Kills the sidecar of this session through its pidfd; true if the signal was sent."""

    def server_dead(self) -> bool:
        """Whether that process has ended (its pidfd is readable)."""

    def control(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """A control-plane request.  Waits; never called on an engine step."""


class Generations(Protocol):
    """The block-generation table: one counter a GPU block, shared with the sidecar."""

    @property
    def counters(self) -> memoryview | list[int]:
        """The counters by block id; one store each, in the order of the stores."""

    def raise_(self, block_id: int) -> int:
        """Counts a block as newly assigned; its counter from then on."""

    def __getitem__(self, block_id: int) -> int: ...


class SchedulerLink(Protocol):
    """The scheduler side's connection, across lives of the sidecar."""

    @property
    def generations(self) -> Generations:
        """The block-generation table; outlives every session."""

    def session(self) -> Session | None:
        """The session of the present sidecar, or ``None`` while there is none."""

    def close(self) -> None:
        """Ends the connection."""


class WorkerLink(Protocol):
    """A rank's connection, across lives of the sidecar."""

    def start(self) -> None:
        """Connects in the background."""

    def wait(self, timeout_s: float) -> Session | None:
        """The first session, waited for at most ``timeout_s`` seconds."""

    def session(self) -> Session | None:
        """The session of the present sidecar, or ``None`` while there is none."""

    def close(self) -> None:
        """Ends the connection."""
