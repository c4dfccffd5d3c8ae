"""The link: attaches, publishes, re-attaches, stops; one log line a change of state."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fake_sidecar import FakeSidecar

from flexkv import protocol as p
from flexkv.client import Link, Session
from flexkv.config import Settings

logging.getLogger("flexkv").setLevel(logging.DEBUG)


def scheduler_hello() -> p.Hello:
    return p.Hello(role=p.ROLE_SCHEDULER, pid=0, instance="engine")


def until(condition: Callable[[], object], timeout_s: float = 8.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.005)


def stack_of(name: str) -> list[str]:
    """Names of the functions that the thread is in."""
    found: list[str] = []
    for thread in threading.enumerate():
        if thread.name == name and thread.ident is not None:
            frame = sys._current_frames().get(thread.ident)
            while frame is not None:
                found.append(frame.f_code.co_name)
                frame = frame.f_back
    return found


@pytest.fixture
def settings(socket_path: str) -> Settings:
    return Settings(server_recv_port=f"ipc://{socket_path}", server_launch_mode="external")


@pytest.fixture
def make_link(settings: Settings) -> Iterator[Callable[..., Link]]:
    links: list[Link] = []

    def make(**arguments: object) -> Link:
        arguments.setdefault("hello", scheduler_hello)
        link = Link(arguments.pop("settings", settings), **arguments)  # type: ignore[arg-type]
        links.append(link)
        return link

    yield make
    for link in links:
        link.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name.startswith("flexkv")]


def test_attach_publish_and_use(socket_path: str, make_link: Callable[..., Link]) -> None:
    with FakeSidecar(socket_path) as server:
        link = make_link(generation_entries=4)
        assert link.session() is None
        link.start()
        link.start()
        session = link.wait(5)
        assert session is not None
        assert session is link.session()
        assert session.boot_epoch == server.epoch
        assert server.hellos == 1
        assert session.send(p.Echo(1))
        assert session.wait_for(1, 2_000_000) == p.EchoAnswer(1)
        assert server.wait_client().generations is not None


def test_frames_are_forced_by_a_setting(socket_path: str, make_link: Callable[..., Link]) -> None:
    forced = Settings(
        server_recv_port=f"ipc://{socket_path}", server_launch_mode="external", rings=False
    )
    with FakeSidecar(socket_path) as server:
        link = make_link(settings=forced)
        link.start()
        session = link.wait(5)
        assert session is not None
        assert session.send(p.Echo(1, b"abc"))
        assert session.wait_for(1, 2_000_000) == p.EchoAnswer(1, b"abc")
        assert server.wait_client().hello.rings is False


def test_other_machines_use_frames(
    socket_path: str, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with FakeSidecar(socket_path) as server:
        link = make_link()
        link.start()
        assert link.wait(5) is not None
        assert server.wait_client().hello.rings is False


def test_back_within_seconds_after_a_restart(
    socket_path: str, make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flexkv")
    link = make_link(generation_entries=4)
    link.start()
    epochs = set()
    for life in range(2):
        with FakeSidecar(socket_path) as server:
            session = link.wait(5)
            assert session is not None
            epochs.add(session.boot_epoch)
            assert link.generations.raise_(1) == life + 1
            client = server.wait_client()
            assert client.generations is not None
        until(lambda s=session: link.session() is None and not s.alive())  # type: ignore[misc]
        time.sleep(0.6)  # several attempts in vain
    assert len(epochs) == 2
    said = lines(caplog)
    assert len([x for x in said if "attached: sidecar" in x]) == 2
    assert len([x for x in said if "detached" in x]) == 2
    assert len(said) <= 8, f"a storm: {said}"


def test_absent_sidecar_is_one_line_and_little_work(
    make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    hellos: list[int] = []

    def hello() -> p.Hello:
        hellos.append(1)
        return scheduler_hello()

    link = make_link(hello=hello)
    link.start()
    began = time.process_time()
    assert link.wait(1.4) is None
    assert 3 <= len(hellos) <= 5, "0.1 s, then twice as long each time"
    assert time.process_time() - began < 0.3
    (said,) = [x for x in lines(caplog) if "no sidecar listens" in x]
    assert said.endswith(". Remedy: flexkv serve"), "nobody waits for this link"


def test_absent_sidecar_says_who_waits_for_it_until_one_was_there(
    socket_path: str, make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link(held_up="vLLM's start")
    link.start()
    until(lambda: any("no sidecar listens" in x for x in lines(caplog)))
    with FakeSidecar(socket_path):
        assert link.wait(5) is not None
    until(lambda: len([x for x in lines(caplog) if "no sidecar listens" in x]) == 2)
    before, after = [x for x in lines(caplog) if "no sidecar listens" in x]
    assert before.endswith(". Remedy: flexkv serve; vLLM's start waits up to 60 s for it")
    assert after.endswith(". Remedy: flexkv serve")


def test_absent_sidecar_that_others_start_is_no_warning(
    settings: Settings, make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    embedded = replace(settings, server_launch_mode="embedded")
    link = make_link(settings=embedded, launch=False)
    with caplog.at_level(logging.INFO, "flexkv"):
        link.start()
        assert link.wait(0.4) is None
    found = [r for r in caplog.records if "waits for the manager's sidecar" in r.message]
    assert [r.levelname for r in found] == ["INFO"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_on_attach_runs_in_the_attach_thread_before_publication(
    socket_path: str, make_link: Callable[..., Link]
) -> None:
    seen: list[tuple[str, object]] = []
    link: Link

    def on_attach(session: Session) -> bool:
        seen.append((threading.current_thread().name, link.session()))
        return session.alive()

    with FakeSidecar(socket_path):
        link = make_link(on_attach=on_attach)
        link.start()
        assert link.wait(5) is not None
    assert seen == [("flexkv-attach", None)]


@pytest.mark.parametrize("way", ["false", "raises"])
def test_refusing_on_attach_is_tried_again(
    socket_path: str,
    make_link: Callable[..., Link],
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    sessions: list[Session] = []

    def on_attach(session: Session) -> bool:
        sessions.append(session)
        if len(sessions) < 3 and way == "raises":
            raise RuntimeError("registration broke")
        return len(sessions) >= 3

    with FakeSidecar(socket_path) as server:
        link = make_link(on_attach=on_attach)
        link.start()
        assert link.wait(5) is not None
        assert server.hellos == 3
        assert not sessions[0].alive()
    wanted = "registration broke" if way == "raises" else "registration was refused"
    assert len([x for x in lines(caplog) if wanted in x]) == 1


def test_broken_hello_does_not_end_the_thread(
    socket_path: str, make_link: Callable[..., Link]
) -> None:
    calls = [0]

    def hello() -> p.Hello:
        calls[0] += 1
        if calls[0] == 1:
            raise ValueError("no identity yet")
        return scheduler_hello()

    with FakeSidecar(socket_path):
        link = make_link(hello=hello)
        link.start()
        assert link.wait(5) is not None


def test_broken_session_is_replaced(socket_path: str, make_link: Callable[..., Link]) -> None:
    """A session that broke the protocol is over although its connection is open."""
    with FakeSidecar(socket_path, answers=lambda _: []) as server:
        link = make_link()
        link.start()
        first = link.wait(5)
        assert first is not None
        server.wait_client().write_raw(b"\x04\0\0\0\x44\0\0\0")
        assert first.poll() == []
        assert not first.alive()
        until(lambda: link.session() not in (None, first))


def test_close_ends_thread_and_session_at_once(
    socket_path: str, make_link: Callable[..., Link]
) -> None:
    with FakeSidecar(socket_path):
        link = make_link()
        link.start()
        session = link.wait(5)
        assert session is not None
        until(lambda: "wait_until_over" in stack_of("flexkv-attach"))
        began = time.monotonic()
        link.close()
        link.close()
        assert time.monotonic() - began < 0.5
        assert link.session() is None
        assert not session.alive()
        assert link.wait(5) is None
    link.start()
    assert "flexkv-attach" not in [t.name for t in threading.enumerate()]


def test_close_before_start_and_while_nobody_is_there(make_link: Callable[..., Link]) -> None:
    make_link().close()
    link = make_link()
    link.start()
    time.sleep(0.05)
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 0.5
