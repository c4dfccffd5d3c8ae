"""One life of one connection to the sidecar: what an engine's thread holds while it works.

A session never comes back: when the sidecar dies or breaks the protocol the session is over for
good, every call on it answers at once ("full or dead", nothing arrived), and the link makes another
one with another epoch or id.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from flexkv import protocol as p
from flexkv import rendezvous
from flexkv.control import ControlClient
from flexkv.errors import AttachError
from flexkv.frames import FrameChannel
from flexkv.ring import Channel, GenerationTable, RingChannel, SessionFile, encode

logger = logging.getLogger(__name__)

REVOKE_WORDS = 1024
"""Revoke words of a worker's session file: loads that can be open at once."""

FENCE_WORDS = 1024
"""Fence-seen words of a worker's session file: interprocess events a worker can hand over."""

RING_BYTES = 1024 * 1024
"""Capacity of each ring; at least four of the largest records."""

_ALIVE_CHECK_NS = 1_000_000
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | select.POLLRDHUP


class Session:
    """See the module; made by ``open_session``.

    It belongs to the process that opened it: in a child that was forked off later it is over.

    ``send``, ``poll``, ``wait_for``, ``alive``, ``set_revoke``, ``fence_seen`` and ``server_dead``
    belong to one thread (the attach thread in ``on_attach``, then the engine's); they never block,
    never raise for anything that the sidecar does, and log at most once a session.  ``control`` and
    ``close`` may be called from any thread.
    """

    def __init__(
        self,
        sock: socket.socket,
        file: SessionFile,
        channel: Channel,
        greeting: rendezvous.Greeting,
        pidfd: int,
        hello: p.Hello,
    ) -> None:
        welcome = greeting.welcome
        self.boot_epoch = int(welcome.boot_epoch, 16)
        self.session_id = welcome.session_id
        self.server_pid = welcome.server_pid
        self.hello = hello
        self.welcome = welcome
        self._socket = sock
        _open_here.add(self)
        self._file = file
        self._channel = channel
        self._eventfd = greeting.eventfd
        self._pidfd = pidfd
        self._queue: deque[p.Record] = deque()
        self._over = False
        self._unreadable = False
        self._next_check_ns = 0
        self._poller = select.poll()
        self._poller.register(sock.fileno(), select.POLLRDHUP)
        self._poller.register(pidfd, select.POLLIN)
        # Asks the kernel itself: a poll object serves only one thread.  It must not refer to the
        # session, whose descriptors go with its last reference, not with a later collection.
        self._control = ControlClient(
            welcome.control_endpoint,
            welcome.control_token,
            lambda: not _readable(pidfd, select.POLLIN) and not _readable(sock, _GONE),
        )

    def __repr__(self) -> str:
        return f"Session({self.session_id}, epoch {self.boot_epoch:016x}, pid {self.server_pid})"

    # ------------------------------------------------------------------ liveness
    def alive(self) -> bool:
        """Whether neither the end of the connection nor of the process was seen.

        Costs one clock read; the kernel is asked at most once a millisecond.
        """
        if self._over:
            return False
        now = time.monotonic_ns()
        if now >= self._next_check_ns:
            self._next_check_ns = now + _ALIVE_CHECK_NS
            if self._poller.poll(0):
                self._over = True
                return False
        return True

    def server_dead(self) -> bool:
        """Whether the sidecar's process is gone: from here on no copy of it touches memory."""
        return _readable(self._pidfd, select.POLLIN)

    def kill_server(self) -> bool:
        """SIGKILL to the very process that answered our hello; ``False`` if that was not possible.

        The pidfd was opened while that process held its end of the connection, so it can be no
        other process that got the same id later; its user was compared with ours.
        """
        self._over = True
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return True  # dead already
        except OSError as error:
            logger.warning("Cannot kill the sidecar, pid %d: %s", self.server_pid, error)
            return False
        return True

    # ------------------------------------------------------------------ hot plane
    def send(self, *records: p.Record) -> bool:
        """Hands over all records, in order, or none; ``False`` = no room for all, or dead."""
        if self._over:
            return False
        try:
            if not self._channel.write([encode(record) for record in records]):
                return False
        except (p.ProtocolError, OSError) as error:
            self._broken("cannot send", error)
            return False
        return True

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        """Hands over ``hashes`` from index ``first`` on, and the question about them behind.

        Returns how many of them the sidecar has then and whether the question went: no room, or
        dead, where not.  ``ValueError`` for hashes that the protocol does not carry.
        """
        if self._over:
            return first, False
        try:
            return self._channel.ask(lookup, hashes, first)
        except (p.ProtocolError, OSError) as error:
            self._broken("cannot send", error)
            return first, False

    def poll(self) -> list[p.Record]:
        """Everything that has arrived and that no ``wait_for`` took, in order.

        What the sidecar had said before the session ended is handed out after its end too.
        """
        self._receive()
        if not self._queue:
            return []
        records = list(self._queue)
        self._queue.clear()
        return records

    def wait_for(self, wanted: int | Callable[[p.Record], bool], spin_us: float) -> p.Record | None:
        """Spins at most ``spin_us`` for the record with this query id (or that fits a predicate).

        Other records stay queued, in order, for ``poll``.  With 0 it looks once.
        """
        for index, record in enumerate(self._queue):
            if _fits(record, wanted):
                del self._queue[index]
                return record
        deadline = time.monotonic_ns() + int(spin_us * 1000)
        pending = self._channel.pending
        try:
            while not self._over:
                if pending():
                    arrived = self._channel.drain()
                    for index, record in enumerate(arrived):
                        if _fits(record, wanted):
                            del arrived[index]
                            if arrived:
                                self._queue.extend(arrived)
                            return record
                    self._queue.extend(arrived)
                if time.monotonic_ns() >= deadline:
                    return None
        except (p.ProtocolError, OSError) as error:
            self._unreadable = True
            self._broken("cannot receive", error)
        return None

    def _receive(self) -> bool:
        """Moves what has arrived to the queue; whether there was anything."""
        if self._unreadable:
            return False
        try:
            if not self._channel.pending():
                return False
            self._queue.extend(self._channel.drain())
        except (p.ProtocolError, OSError) as error:
            self._unreadable = True
            self._broken("cannot receive", error)
            return False
        return True

    def _broken(self, what: str, error: Exception) -> None:
        if not self._over:
            self._over = True
            self._shut_down()  # wakes the attach thread, which replaces the session
            logger.warning("FlexKV session %d is over: %s: %s", self.session_id, what, error)

    # ------------------------------------------------------------------ words
    def set_revoke(self, index: int, job_id: int) -> None:
        """Stores ``job_id`` in revoke word ``index`` (below ``REVOKE_WORDS``); 0 clears it."""
        self._file.set_revoke(index, job_id)

    def fence_seen(self, index: int) -> int:
        """The highest sequence number of fence ``index`` that the sidecar has seen complete."""
        return self._file.fence_seen(index)

    # ------------------------------------------------------------------ control plane
    def control(self, op: str, args: dict[str, object], timeout_s: float) -> dict[str, object]:
        """One control-plane request (``docs/protocol.md``); raises ``ControlError``.

        Blocks up to ``timeout_s``: never on an engine's step.
        """
        return self._control.request(op, args, timeout_s)

    def close(self) -> None:
        """Ends the session: the sidecar sees the end of the connection at once.

        Descriptors are closed with the last reference, so that a thread which still holds the
        session can never meet one that was closed and given out again.
        """
        self._over = True
        self._control.close()
        self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # the other side was first
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_until_over(self, timeout_s: float) -> bool:
        """For the attach thread: sleeps until the session ends, by whatever side."""
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLRDHUP)
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000)) or self._over

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # ``close`` is bound early: at the interpreter's exit modules are empty already.
        for name in ("_eventfd", "_pidfd"):
            fd = getattr(self, name, -1)
            if fd >= 0:
                close(fd)
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()


_open_here: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_in_child() -> None:
    """After a fork: the child's copy of a socket would hide the parent's death from the sidecar."""
    for session in list(_open_here):
        session._over = True
        session._socket.close()


os.register_at_fork(after_in_child=_forget_in_child)


def _fits(record: p.Record, wanted: int | Callable[[p.Record], bool]) -> bool:
    if isinstance(wanted, int):
        return getattr(record, "query_id", None) == wanted
    return wanted(record)


def _readable(fd: int | socket.socket, events: int) -> bool:
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(0))


def open_session(path: str, hello: p.Hello, generations: GenerationTable | None) -> Session:
    """One rendezvous at socket ``path``; raises ``AttachError`` (``NobodyThereError`` to launch).

    ``hello.pid`` is filled in here.  Bounded by the time-outs of ``rendezvous``.
    """
    hello = replace(hello, pid=os.getpid())
    worker = hello.role == p.ROLE_WORKER
    layout = p.SessionLayout(
        role=hello.role,
        client_pid=hello.pid,
        to_server_capacity=RING_BYTES,
        to_client_capacity=RING_BYTES,
        revoke_count=REVOKE_WORDS if worker else 0,
        fence_count=FENCE_WORDS if worker else 0,
    )
    sock = rendezvous.connect(path)
    eventfd = pidfd = -1
    try:
        try:
            file = SessionFile(layout)
        except OSError as error:
            raise AttachError(f"cannot make the session file: {error}") from None
        fds = [file.fd]
        if hello.role == p.ROLE_SCHEDULER and generations is not None and generations.fd >= 0:
            fds.append(generations.fd)
        greeting = rendezvous.greet(sock, hello, fds)
        eventfd = greeting.eventfd
        file.release_fd()
        welcome = greeting.welcome
        file.check_written_by_sidecar(int(welcome.boot_epoch, 16), welcome.session_id)
        pidfd = _pidfd_of_peer(sock, welcome.server_pid)
        channel: Channel = (
            RingChannel(file, eventfd) if hello.rings else FrameChannel(sock, greeting.rest)
        )
        sock.setblocking(False)
        return Session(sock, file, channel, greeting, pidfd, hello)
    except BaseException:
        sock.close()
        for fd in (eventfd, pidfd):
            if fd >= 0:
                os.close(fd)
        raise


def _pidfd_of_peer(sock: socket.socket, pid: int) -> int:
    """A pidfd of the process at the other end.

    ``pid`` is the kernel's word (``SO_PEERCRED``).  That process still holds its end after the
    pidfd was opened, so it was alive then and the pidfd is its own.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise AttachError(f"cannot watch the sidecar, pid {pid}: {error}") from None
    if _readable(sock, select.POLLRDHUP) or _readable(pidfd, select.POLLIN):
        os.close(pidfd)
        raise AttachError(f"the sidecar, pid {pid}, ended during the hello")
    return pidfd
