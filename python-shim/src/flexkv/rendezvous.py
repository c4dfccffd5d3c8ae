"""The rendezvous plane: connect, hello with descriptors, welcome; nothing after that.

Everything is checked before it is used: the server's user (somebody else may have put a socket
where ours should be), its process id, every field of the welcome, the descriptor that came with it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from dataclasses import dataclass

from flexkv import protocol as p
from flexkv import silence
from flexkv.errors import AttachError, RefusedError

CONNECT_TIMEOUT_S = 2.0
WELCOME_TIMEOUT_S = 5.0

_UCRED = struct.Struct("3i")
_EPOCH = re.compile(r"[0-9a-f]{16}\Z")
_ENDPOINT = re.compile(r"tcp://127\.0\.0\.1:\d{1,5}\Z")


class NobodyThereError(AttachError):
    """No process listens at the address: time to start one."""


@dataclass(slots=True)
class Greeting:
    """What a completed rendezvous leaves in the client's hands; the caller closes ``eventfd``."""

    welcome: p.Welcome
    eventfd: int
    rest: bytes


class _Connection(socket.socket):
    """Closes with its last reference, as a session does: in a cycle, too, whoever goes first."""

    def __del__(self) -> None:
        self.close()


def connect(path: str) -> socket.socket:
    """A connected socket whose other end runs as our user; ``NobodyThereError`` if none listens."""
    sock = _Connection(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NobodyThereError(f"no sidecar listens at {path} ({error.strerror})") from None
        except OSError as error:
            if error.errno == errno.EAGAIN:  # a full backlog: somebody is there, and busy
                raise AttachError(f"the sidecar at {path} does not accept connections") from None
            raise AttachError(f"cannot connect to {path}: {error}") from None
        _check_user(path, peer_credentials(sock)[1], os.geteuid())
    except BaseException:
        sock.close()
        raise
    return sock


def _check_user(path: str, theirs: int, ours: int) -> None:
    """Somebody else's process in our place would be shown our memory."""
    if theirs != ours:
        raise AttachError(
            f"the process at {path} runs as uid {theirs}, this one as uid {ours}: set "
            "FLEXKV_SERVER_RECV_PORT to a path of your own"
        )


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process that listens at the other end."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return pid, uid, gid


def greet(sock: socket.socket, hello: p.Hello, fds: list[int]) -> Greeting:
    """Sends the hello with ``fds`` and reads the answer, all within ``WELCOME_TIMEOUT_S``."""
    deadline = time.monotonic() + WELCOME_TIMEOUT_S
    received: list[int] = []
    try:
        sock.settimeout(WELCOME_TIMEOUT_S)
        _send_hello(sock, hello, fds)
        frame_type, payload, rest = _read_frame(sock, received, deadline)
        if frame_type == p.FRAME_REFUSED:
            refused = p.Refused.decode(payload)
            raise RefusedError(str(refused.code), str(refused.message))
        if frame_type != p.FRAME_WELCOME:
            raise AttachError(f"frame type {frame_type} in answer to the hello")
        welcome = p.Welcome.decode(payload)
        _check_welcome(welcome, peer_credentials(sock)[0])
        if len(received) != 1:
            raise AttachError(f"{len(received)} descriptors came with WELCOME, must be 1")
        if rest and hello.rings:
            raise AttachError(f"{len(rest)} bytes behind WELCOME")
        greeting = Greeting(welcome, received.pop(), rest)
    except (p.ProtocolError, TypeError) as error:
        raise AttachError(f"the answer to the hello is malformed: {error}") from None
    except TimeoutError:
        raise AttachError(_silent(peer_credentials(sock)[0])) from None
    except OSError as error:
        raise AttachError(f"the connection broke during the hello: {error}") from None
    finally:
        for fd in received:
            os.close(fd)
    return greeting


def _silent(pid: int) -> str:
    if not silence.may_be_a_sidecar(pid):
        return (
            f"the process {pid} that listens there has not answered for {WELCOME_TIMEOUT_S:g} s, "
            "and runs no FlexKV. Remedy: give FlexKV an address of its own (server_recv_port), or "
            "end that program if nobody needs it"
        )
    who = f" (pid {pid})" if pid else ""
    return (
        f"the sidecar{who} is there and has not answered for {WELCOME_TIMEOUT_S:g} s: "
        f"{silence.cause(pid)}"
    )


def _send_hello(sock: socket.socket, hello: p.Hello, fds: list[int]) -> None:
    frame = hello.encode()
    try:
        sent = socket.send_fds(sock, [frame], fds)
        if sent < len(frame):
            sock.sendall(frame[sent:])
    except (BrokenPipeError, ConnectionResetError):
        return  # refused before it was read to the end: the answer says why


def _read_frame(
    sock: socket.socket, received: list[int], deadline: float
) -> tuple[int, bytes, bytes]:
    """Type, payload and what came behind it; descriptors go into ``received``."""
    data = b""
    needed = p.FRAME_HEADER_BYTES
    frame_type = length = 0
    while len(data) < needed:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        piece, fds, flags, _ = socket.recv_fds(sock, 65536, 8, socket.MSG_CMSG_CLOEXEC)
        received.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise AttachError("more descriptors came with the answer than the protocol has")
        if not piece:
            raise AttachError("the sidecar closed the connection during the hello")
        data += piece
        if needed == p.FRAME_HEADER_BYTES and len(data) >= needed:
            version, frame_type, length = p.decode_frame_header(data)
            if version != p.PROTOCOL_VERSION and frame_type != p.FRAME_REFUSED:
                raise RefusedError(
                    p.REFUSED_VERSION,
                    f"the sidecar speaks protocol {version}, this package "
                    f"{p.PROTOCOL_VERSION}: stop it, and the installed one takes its place",
                )
            needed += length
    return frame_type, data[p.FRAME_HEADER_BYTES : needed], data[needed:]


def _check_welcome(welcome: p.Welcome, peer_pid: int) -> None:
    def check(condition: bool, text: str) -> None:
        if not condition:
            raise AttachError(f"WELCOME has {text}")

    w = welcome
    check(isinstance(w.boot_epoch, str) and bool(_EPOCH.match(w.boot_epoch)),
          f"boot epoch {w.boot_epoch!r}, must be 16 hex digits")  # fmt: skip
    check(int(w.boot_epoch, 16) != 0, "boot epoch 0")
    check(type(w.session_id) is int and 0 < w.session_id < 1 << 23,
          f"session id {w.session_id!r}, must be from 1 to {(1 << 23) - 1}")  # fmt: skip
    check(isinstance(w.control_token, str), "a token that is not text")
    check(isinstance(w.control_endpoint, str) and bool(_ENDPOINT.match(w.control_endpoint)),
          f"control endpoint {w.control_endpoint!r}, must be tcp://127.0.0.1:port")  # fmt: skip
    check(type(w.server_pid) is int and w.server_pid > 0, f"server pid {w.server_pid!r}")
    if w.server_pid != peer_pid:
        raise AttachError(
            f"the sidecar calls itself pid {w.server_pid}, the kernel shows pid {peer_pid}: both "
            "must live in one PID namespace (run them in one container, or with --pid=host)"
        )
