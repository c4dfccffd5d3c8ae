"""A sidecar in a thread or process: the server's half of ``docs/protocol.md``, for tests.

Speaks rings and frames, answers ``Echo`` and ``Lookup``, and can be told to lie: a garbage
welcome, silence, a refusal, a corrupt ring, sudden death.  Run as a program it is a whole process
that can be killed (``python fake_sidecar.py <socket>``).
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexkv import protocol as p
from flexkv.frames import split_records

LIFE_S = 120

Answer = Callable[[p.Record], list[p.Record]]


def default_answers(record: p.Record) -> list[p.Record]:
    """Echo is echoed; a lookup is served to its whole depth."""
    if isinstance(record, p.Echo):
        return [p.EchoAnswer(record.query_id, record.payload)]
    if isinstance(record, p.Lookup):
        n = record.chain_blocks
        return [p.LookupAnswer(record.query_id, record.request_id, 7, 1, n, n, n, n, n)]
    return []


@dataclass
class Client:
    """One connection as the server sees it."""

    sock: socket.socket
    hello: p.Hello
    session_id: int
    map: mmap.mmap | None = None
    generations: mmap.mmap | None = None
    eventfd: int = -1
    in_head: int = 0
    out_tail: int = 0
    wakes: int = 0
    records: list[p.Record] = field(default_factory=list)

    @property
    def words(self) -> memoryview:
        assert self.map is not None
        return memoryview(self.map).cast("Q")

    def offsets(self) -> tuple[int, int, int, int]:
        w = self.words
        return w[5], w[6], w[7], w[8]

    def set_sleeping(self, value: int) -> None:
        assert self.map is not None
        self.map[p.OFF_SLEEPING : p.OFF_SLEEPING + 4] = value.to_bytes(4, "little")

    def read(self) -> list[p.Record]:
        if not self.hello.rings:
            return []
        assert self.map is not None
        base, capacity, _, _ = self.offsets()
        words = self.words
        tail = words[p.OFF_TO_SERVER_TAIL // 8]
        found: list[p.Record] = []
        while self.in_head != tail:
            at = base + self.in_head % capacity
            length, kind = p.record_header(memoryview(self.map), at)
            if kind != p.TYPE_PADDING:
                found.append(p.decode_record(self.map[at : at + length]))
            self.in_head += p.align8(length)
        words[p.OFF_TO_SERVER_HEAD // 8] = self.in_head
        return found

    def write(self, records: list[p.Record]) -> None:
        if not self.hello.rings:
            payload = b"".join(e + b"\0" * (-len(e) % 8) for e in (r.encode() for r in records))
            self.sock.sendall(p.encode_frame(p.FRAME_RECORDS, payload))
            return
        for record in records:
            self.write_raw(record.encode())

    def write_raw(self, data: bytes) -> None:
        assert self.map is not None
        _, _, base, capacity = self.offsets()
        words = self.words
        need = p.align8(len(data))
        room = capacity - self.out_tail % capacity
        skip = room if need > room else 0
        while self.out_tail + skip + need - words[p.OFF_TO_CLIENT_HEAD // 8] > capacity:
            time.sleep(0.0005)
        if skip:
            at = base + self.out_tail % capacity
            self.map[at : at + 8] = p.padding(skip)
            self.out_tail += skip
        at = base + self.out_tail % capacity
        self.map[at : at + len(data)] = data
        self.out_tail += need
        words[p.OFF_TO_CLIENT_TAIL // 8] = self.out_tail


class FakeSidecar:
    """Listens at ``path`` until ``stop``; hooks change what it says."""

    def __init__(
        self,
        path: str,
        *,
        answers: Answer = default_answers,
        welcome: Callable[[p.Welcome], bytes] = p.Welcome.encode,
        refuse: p.Refused | None = None,
        silent: bool = False,
        write_identity: bool = True,
        reading: bool = True,
        control_endpoint: str = "tcp://127.0.0.1:1",
    ) -> None:
        self.path = path
        self.epoch = secrets.randbits(63) | 1
        self.clients: list[Client] = []
        self.hellos = 0
        self._answers = answers
        self._welcome = welcome
        self._refuse = refuse
        self._silent = silent
        self._write_identity = write_identity
        self.reading = reading
        self._endpoint = control_endpoint
        self._stop = threading.Event()
        Path(path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(16)
        self._listener.settimeout(0.05)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> FakeSidecar:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3)
        self._listener.close()
        Path(self.path).unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
            if not data:
                return
            self.hellos += 1
            hello = p.Hello.decode(data[p.FRAME_HEADER_BYTES :])
            client = Client(sock, hello, len(self.clients) + 1)
            client.map = mmap.mmap(fds[0], 0)
            if len(fds) > 1:
                client.generations = mmap.mmap(fds[1], 0)
            for fd in fds:
                os.close(fd)
            if self._silent:
                self._stop.wait(10)
                return
            if self._refuse is not None:
                sock.sendall(self._refuse.encode())
                return
            client.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if self._write_identity:
                client.words[p.OFF_BOOT_EPOCH // 8] = self.epoch
                client.words[p.OFF_SESSION_ID // 8] = client.session_id
            welcome = p.Welcome(
                f"{self.epoch:016x}", client.session_id, os.getpid(), self._endpoint, "secret"
            )
            socket.send_fds(sock, [self._welcome(welcome)], [client.eventfd])
            self.clients.append(client)
            try:
                self._loop(client)
            finally:
                os.close(client.eventfd)

    def _loop(self, client: Client) -> None:
        sock = client.sock
        sock.setblocking(False)
        received = b""
        poller = select.poll()
        poller.register(sock, select.POLLRDHUP | (0 if client.hello.rings else select.POLLIN))
        poller.register(client.eventfd, select.POLLIN)
        while not self._stop.is_set():
            events = dict(poller.poll(1))
            if events.get(sock.fileno(), 0) & (select.POLLRDHUP | select.POLLHUP):
                return
            if client.eventfd in events:
                client.wakes += os.eventfd_read(client.eventfd)
            records: list[p.Record] = []
            if not self.reading:
                continue
            if client.hello.rings:
                records = client.read()
            else:
                try:
                    received += sock.recv(1 << 20)
                except BlockingIOError:
                    continue
                while len(received) >= p.FRAME_HEADER_BYTES:
                    _, _, length = p.decode_frame_header(received)
                    end = p.FRAME_HEADER_BYTES + length
                    if len(received) < end:
                        break
                    records += split_records(received[p.FRAME_HEADER_BYTES : end])
                    received = received[end:]
            client.records += records
            sock.setblocking(True)
            for record in records:
                answers = self._answers(record)
                if answers:
                    client.write(answers)
            sock.setblocking(False)

    def wait_client(self, count: int = 1, timeout_s: float = 5.0) -> Client:
        """The ``count``-th client once it is there."""
        end = time.monotonic() + timeout_s
        while len(self.clients) < count:
            if time.monotonic() > end:
                raise AssertionError(f"{len(self.clients)} clients after {timeout_s} s")
            time.sleep(0.002)
        return self.clients[count - 1]


def fake_java(folder: Path, version: str = "25.0.1", name: str = "java") -> Path:
    """A ``java`` that reports ``version`` and otherwise runs the fake sidecar."""
    script = folder / "bin" / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "{version}" 2026-01-01' >&2; exit 0; fi
echo "$@" > "{folder}/argv"
exec {sys.executable} {Path(__file__).resolve()}
"""
    )
    script.chmod(0o755)
    return script


def main(argv: list[str]) -> None:
    """A process of its own: counts its starts in ``<socket>.starts``, serves until killed.

    It does not outlive ``LIFE_S``: a test run that was killed kills nobody.
    """
    path = argv[0] if argv else os.environ["FLEXKV_SERVER_RECV_PORT"].removeprefix("ipc://")
    with Path(path + ".starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    ours = {k: v for k, v in os.environ.items() if k.startswith(("FLEXKV", "CUDA"))}
    Path(path + ".env").write_text(json.dumps(ours))
    behaviour: dict[str, Any] = json.loads(os.environ.get("FAKE_SIDECAR", "{}"))
    time.sleep(behaviour.get("delay_s", 0))
    if "fail" in behaviour:
        sys.stderr.write(behaviour["fail"])
        sys.exit(behaviour.get("code", 3))
    with FakeSidecar(path):
        time.sleep(LIFE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
