"""Sessions against a fake sidecar: the wire both ways, and what the other side can do wrong."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from fake_sidecar import FakeSidecar

from flexkv import protocol as p
from flexkv.errors import AttachError, RefusedError
from flexkv.rendezvous import NobodyThereError, greet
from flexkv.ring import GenerationTable
from flexkv.session import REVOKE_WORDS, RING_BYTES, Session, _pidfd_of_peer, open_session

SCHEDULER = p.Hello(role=p.ROLE_SCHEDULER, pid=0, instance="i")
WORKER = p.Hello(role=p.ROLE_WORKER, pid=0, instance="i")
FRAMES = dataclasses.replace(SCHEDULER, rings=False)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def collect(session: Session, count: int, timeout_s: float = 5.0) -> list[p.Record]:
    found: list[p.Record] = []
    end = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < end:
        found += session.poll()
        time.sleep(0.0005)
    return found


@pytest.mark.parametrize("hello", [SCHEDULER, FRAMES], ids=["rings", "frames"])
def test_echo_random_sizes_through_many_wraps(socket_path: str, hello: p.Hello) -> None:
    rng = random.Random(1)
    with FakeSidecar(socket_path):
        session = open_session(socket_path, hello, None)
        sent = 0
        for query in range(200):
            payload = rng.randbytes(rng.choice([0, 1, 7, 8, 100, 4097, 60_000, 200_000]))
            sent += len(payload)
            assert session.send(p.Echo(query, payload))
            answer = session.wait_for(query, 5_000_000)
            assert isinstance(answer, p.EchoAnswer)
            assert answer.payload == payload
        assert sent > 4 * RING_BYTES
        assert session.alive()


@pytest.mark.parametrize("hello", [SCHEDULER, FRAMES], ids=["rings", "frames"])
def test_wait_for_leaves_others_in_order(socket_path: str, hello: p.Hello) -> None:
    with FakeSidecar(socket_path):
        session = open_session(socket_path, hello, None)
        assert session.send(*(p.Echo(i) for i in range(5)))
        answer = session.wait_for(3, 2_000_000)
        assert answer is not None
        rest = collect(session, 4)
        assert [r.query_id for r in rest] == [0, 1, 2, 4]  # type: ignore[union-attr]
        assert session.send(p.Echo(9, b"x" * 8))
        by_predicate = session.wait_for(lambda r: isinstance(r, p.EchoAnswer), 2_000_000)
        assert by_predicate == p.EchoAnswer(9, b"x" * 8)


def test_wait_for_gives_up_in_time(socket_path: str) -> None:
    with FakeSidecar(socket_path, answers=lambda _: []):
        session = open_session(socket_path, SCHEDULER, None)
        session.send(p.Echo(1))
        began = time.perf_counter()
        assert session.wait_for(1, 2000) is None
        assert 0.002 <= time.perf_counter() - began < 0.2


@pytest.mark.parametrize("hello", [SCHEDULER, FRAMES], ids=["rings", "frames"])
def test_full_refuses_all_or_nothing(socket_path: str, hello: p.Hello) -> None:
    with FakeSidecar(socket_path, reading=False, answers=lambda _: []) as server:
        session = open_session(socket_path, hello, None)
        accepted = 0
        while session.send(p.Echo(accepted, b"x" * 100_000)):
            accepted += 1
            assert accepted < 100
        assert accepted >= 9
        both = session.send(p.Echo(500), p.Echo(501, b"x" * 200_000))
        assert not both, "the small record must not go without the large one"
        server.reading = True
        deadline = time.monotonic() + 5
        while not session.send(p.Echo(502)) and time.monotonic() < deadline:
            time.sleep(0.001)
        client = server.wait_client()
        while len(client.records) <= accepted and time.monotonic() < deadline:
            session.poll()
            time.sleep(0.001)
        ids = [r.query_id for r in client.records]  # type: ignore[union-attr]
        assert ids == [*range(accepted), 502]


def test_sleeping_server_is_woken_and_awake_one_is_not(socket_path: str) -> None:
    with FakeSidecar(socket_path) as server:
        session = open_session(socket_path, SCHEDULER, None)
        client = server.wait_client()
        session.send(p.Echo(1))
        assert session.wait_for(1, 2_000_000)
        assert client.wakes == 0
        client.set_sleeping(1)
        session.send(p.Echo(2), p.Echo(3))
        assert session.wait_for(3, 2_000_000)
        time.sleep(0.02)
        assert client.wakes == 1


def test_poll_after_the_end_hands_out_what_was_said_before(socket_path: str) -> None:
    """A load that has ended must not get its sidecar killed because its session broke after."""
    done = p.JobDone(7, 1, 2, 3, 4, p.KIND_LOAD, p.STATUS_OK)
    with FakeSidecar(socket_path, answers=lambda _: []) as server:
        session = open_session(socket_path, WORKER, None)
        client = server.wait_client()
        client.write([done])
        client.sock.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while session.alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not session.alive()
        assert session.poll() == [done]
        assert session.poll() == []
        assert not session.send(p.Echo(1))


def test_poll_after_garbage_hands_out_nothing_that_comes_later(socket_path: str) -> None:
    with FakeSidecar(socket_path, answers=lambda _: []) as server:
        session = open_session(socket_path, WORKER, None)
        client = server.wait_client()
        client.write_raw(b"\xff" * 64)
        assert session.poll() == []
        assert not session.alive()
        assert client.map is not None
        healed = p.JobDone(7, 1, 2, 3, 4, p.KIND_LOAD, p.STATUS_OK).encode()
        base = client.offsets()[2]
        client.map[base : base + 64] = healed + p.padding(16) + bytes(8)
        assert session.poll() == []


def test_words_reach_the_other_side(socket_path: str) -> None:
    with FakeSidecar(socket_path) as server:
        session = open_session(socket_path, WORKER, None)
        client = server.wait_client()
        session.set_revoke(0, 5)
        session.set_revoke(REVOKE_WORDS - 1, (3 << 40) | 9)
        base = client.words[p.OFF_REVOKE_OFFSET // 8] // 8
        assert client.words[base] == 5
        assert client.words[base + REVOKE_WORDS - 1] == (3 << 40) | 9
        fence = client.words[p.OFF_FENCE_OFFSET // 8] // 8
        client.words[fence + 7] = 99
        assert session.fence_seen(7) == 99
        assert session.fence_seen(6) == 0
        with pytest.raises(IndexError):
            session.set_revoke(REVOKE_WORDS, 1)
        with pytest.raises(IndexError):
            session.fence_seen(-1)


def test_generation_table_is_shared_and_survives_the_session(socket_path: str) -> None:
    table = GenerationTable(10)
    assert table.raise_(3) == 1
    for life in range(2):
        with FakeSidecar(socket_path) as server:
            session = open_session(socket_path, SCHEDULER, table)
            seen = server.wait_client().generations
            assert seen is not None
            words = memoryview(seen)[p.GENERATION_HEADER_BYTES :].cast("Q")
            assert words[3] == table[3] == 1 + life
            table.raise_(3)
            assert words[3] == table[3] == 2 + life
            assert bytes(seen[:16]) == p.generation_header(10)
            session.close()
    with pytest.raises(IndexError):
        table.raise_(10)


def test_files_are_sealed(socket_path: str) -> None:
    table = GenerationTable(8)
    for size in (1, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(table.fd, size)


def test_nobody_there(socket_path: str) -> None:
    with pytest.raises(NobodyThereError, match="no sidecar listens"):
        open_session(socket_path, SCHEDULER, None)
    Path(socket_path).touch()
    with pytest.raises(AttachError):
        open_session(socket_path, SCHEDULER, None)


def garbage(_: p.Welcome) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"boot_epoch": "xyz"}, "boot epoch 'xyz'"),
        ({"boot_epoch": "0" * 16}, "boot epoch 0"),
        ({"session_id": 0}, "session id 0"),
        ({"session_id": 1 << 23}, "session id 8388608"),
        ({"session_id": "1"}, "session id '1'"),
        ({"server_pid": 1}, "PID namespace"),
        ({"control_endpoint": "tcp://example.org:5"}, "control endpoint"),
        ({"session_id": 77}, "the sidecar maps another file"),
    ],
)
def test_wrong_welcome_is_named(socket_path: str, change: dict[str, object], text: str) -> None:
    def lie(welcome: p.Welcome) -> bytes:
        return dataclasses.replace(welcome, **change).encode()  # type: ignore[arg-type]

    before = open_descriptors()
    with FakeSidecar(socket_path, welcome=lie), pytest.raises(AttachError, match=text):
        open_session(socket_path, SCHEDULER, None)
    assert open_descriptors() <= before, "a failed attempt leaks no descriptor"


def test_garbage_welcome(socket_path: str) -> None:
    with FakeSidecar(socket_path, welcome=garbage), pytest.raises(AttachError, match="magic"):
        open_session(socket_path, SCHEDULER, None)


def test_welcome_of_another_version(socket_path: str) -> None:
    def newer(welcome: p.Welcome) -> bytes:
        data = bytearray(welcome.encode())
        data[4] = 9
        return bytes(data)

    with FakeSidecar(socket_path, welcome=newer), pytest.raises(RefusedError, match="protocol 9"):
        open_session(socket_path, SCHEDULER, None)


def test_refusal_carries_code_and_text(socket_path: str) -> None:
    refusal = p.Refused(p.REFUSED_DUPLICATE, "the first one lives")
    with (
        FakeSidecar(socket_path, refuse=refusal),
        pytest.raises(RefusedError, match="the first one lives") as caught,
    ):
        open_session(socket_path, SCHEDULER, None)
    assert caught.value.code == p.REFUSED_DUPLICATE


def test_silent_server_is_bounded(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexkv.rendezvous.WELCOME_TIMEOUT_S", 0.3)
    monkeypatch.setattr("flexkv.silence.OURS", b"")
    with FakeSidecar(socket_path, silent=True) as server:
        began = time.monotonic()
        with pytest.raises(AttachError, match=f"pid {os.getpid()}. is there and has not answered"):
            open_session(socket_path, SCHEDULER, None)
        assert 0.3 <= time.monotonic() - began < 2
        server._stop.set()


def test_another_program_that_listens_is_not_to_be_killed(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexkv.rendezvous.WELCOME_TIMEOUT_S", 0.3)
    monkeypatch.setattr("flexkv.silence.OURS", b"not in the line of this process")
    with FakeSidecar(socket_path, silent=True) as server:
        with pytest.raises(AttachError, match=f"process {os.getpid()} .* runs no FlexKV") as caught:
            open_session(socket_path, SCHEDULER, None)
        assert "kill" not in str(caught.value)
        server._stop.set()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x04\0\0\0\x44\0\0\0",
        b"\xff\xff\xff\x7f\x44\0\0\0",
        b"\x10\0\0\0\x99\0\0\0" + b"\0" * 8,
        b"\x10\0\0\0\x40\0\0\0" + b"\0" * 8,
    ],
    ids=["short", "long", "unknown", "truncated-answer"],
)
def test_corrupt_ring_ends_the_session_and_raises_nothing(
    socket_path: str, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeSidecar(socket_path, answers=lambda _: []) as server:
        session = open_session(socket_path, SCHEDULER, None)
        server.wait_client().write_raw(raw)
        for _ in range(5):
            assert session.poll() == []
            assert session.wait_for(1, 10) is None
            assert not session.send(p.Echo(1))
        assert not session.alive()
        assert len([r for r in caplog.records if "is over" in r.message]) == 1


@pytest.mark.parametrize("word", [p.OFF_TO_CLIENT_TAIL, p.OFF_TO_SERVER_HEAD])
@pytest.mark.parametrize("value", [1 << 40, (1 << 64) - 8])
def test_impossible_position_ends_the_session(socket_path: str, word: int, value: int) -> None:
    with FakeSidecar(socket_path, reading=False) as server:
        session = open_session(socket_path, SCHEDULER, None)
        server.wait_client().words[word // 8] = value
        assert not session.send(p.Echo(1)) or session.poll() == []
        assert not session.alive()


def spawn(path: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("fake_sidecar.py")
    process = subprocess.Popen([sys.executable, str(script), path])
    deadline = time.monotonic() + 10
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("hello", [SCHEDULER, FRAMES], ids=["rings", "frames"])
@pytest.mark.parametrize("way", ["kill_server", "outside"])
def test_death_of_the_server_is_seen(socket_path: str, hello: p.Hello, way: str) -> None:
    process = spawn(socket_path)
    try:
        session = open_session(socket_path, hello, None)
        assert session.alive()
        assert not session.server_dead()
        assert session.server_pid == process.pid
        if way == "kill_server":
            assert session.kill_server()
        else:
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not session.server_dead() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert session.server_dead()
        time.sleep(0.002)
        assert not session.alive()
        assert not session.send(p.Echo(1))
        assert session.poll() == []
        assert session.kill_server(), "killing the dead is done"
    finally:
        process.kill()
        process.wait()


def test_close_is_seen_by_the_server_and_frees_descriptors(socket_path: str) -> None:
    with FakeSidecar(socket_path) as server:
        before = open_descriptors()
        session = open_session(socket_path, SCHEDULER, None)
        server.wait_client()
        session.close()
        session.close()
        assert not session.alive()
        assert session.poll() == []
        assert not session.send(p.Echo(1))
        del session
        server.clients.clear()  # the fake's own mapping
        deadline = time.monotonic() + 5
        while open_descriptors() > before and time.monotonic() < deadline:
            time.sleep(0.005)
        assert open_descriptors() <= before


def test_session_lost_in_a_cycle_is_closed_without_a_warning(socket_path: str) -> None:
    """As one whose error somebody keeps: the traceback has the session, and a frame the error."""
    gc.collect()  # what others have left
    with FakeSidecar(socket_path) as server:
        session = open_session(socket_path, SCHEDULER, None)
        client = server.wait_client()
        session.__dict__["itself"] = session
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del session
            gc.collect()
        assert not warned
        deadline = time.monotonic() + 5
        while client.sock.fileno() >= 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert client.sock.fileno() < 0, "the other side saw the end"


def test_foreign_users_socket_is_not_trusted(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's process in our place would be shown our memory."""
    ours = os.geteuid()
    with FakeSidecar(socket_path) as server:
        monkeypatch.setattr("os.geteuid", lambda: ours + 1)
        with pytest.raises(AttachError, match=f"runs as uid {ours}, this one as uid {ours + 1}"):
            open_session(socket_path, SCHEDULER, None)
        assert server.hellos == 0


def test_refusal_before_the_hello_was_read() -> None:
    """The other side may answer and go before it has our first byte."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        theirs.sendall(p.Refused(p.REFUSED_LIMIT, "256 sessions").encode())
        theirs.close()
        with pytest.raises(RefusedError, match="256 sessions"):
            greet(ours, SCHEDULER, [])


def test_pidfd_of_a_server_that_ended_is_not_kept() -> None:
    """Its process id may belong to another process by then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        theirs.close()
        before = open_descriptors()
        with pytest.raises(AttachError, match="ended during the hello"):
            _pidfd_of_peer(ours, os.getpid())
        assert open_descriptors() == before
