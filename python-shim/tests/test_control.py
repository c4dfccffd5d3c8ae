"""Requests of the control plane: answers that are wrong, late or never come."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_sidecar import FakeSidecar

from flexkv.errors import ControlError
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.session import open_session

pytest.importorskip("zmq", reason="pyzmq is not installed")


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ({"ok": False, "error": {"code": "token", "message": "wrong token"}}, "token", "wrong"),
        ({"ok": True}, "malformed", "the result is a NoneType"),
        (b"\xff", "malformed*", "not one JSON message"),
        (b"[]", "malformed*", "the answer is a list"),
        (None, "timeout*", "no answer within 0.3 s"),
    ],
)
def test_control_errors(
    address: str, socket_path: str, control: Any, answer: Any, code: str, text: str
) -> None:
    """``*``: the sidecar may be at the request still."""
    control.answer = lambda request: answer
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        session = open_session(socket_path, Hello(role=ROLE_TOOL, pid=0), None)
        with pytest.raises(ControlError, match=text) as caught:
            session.control("ping", {}, 0.3)
        assert caught.value.code + "*" * caught.value.may_run == code


def test_stale_answers_are_skipped(address: str, socket_path: str, control: Any) -> None:
    control.answer = lambda request: None
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        session = open_session(socket_path, Hello(role=ROLE_TOOL, pid=0), None)
        with pytest.raises(ControlError):
            session.control("first", {}, 0.1)

        def late(request: dict[str, Any]) -> dict[str, Any]:
            return {"id": request["id"] - 1, "ok": True, "result": {"of": "first"}}

        control.answer = late
        with pytest.raises(ControlError, match="no answer"):
            session.control("second", {}, 0.2)
        control.answer = lambda request: {"ok": True, "result": {"of": request["op"]}}
        assert session.control("third", {}, 2) == {"of": "third"}


def test_control_ends_with_the_sidecar(address: str, socket_path: str, control: Any) -> None:
    control.answer = lambda request: None
    with FakeSidecar(socket_path, control_endpoint=control.endpoint) as server:
        session = open_session(socket_path, Hello(role=ROLE_TOOL, pid=0), None)
        threading.Timer(0.2, server.stop).start()
        with pytest.raises(ControlError, match="has gone") as caught:
            session.control("ping", {}, 20)
        assert (caught.value.code, caught.value.may_run) == ("gone", True)
    session.close()
    with pytest.raises(ControlError, match="closed") as caught:
        session.control("ping", {}, 1)
    assert not caught.value.may_run


def test_too_large_request(address: str, socket_path: str, control: Any) -> None:
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        session = open_session(socket_path, Hello(role=ROLE_TOOL, pid=0), None)
        with pytest.raises(ControlError, match="at most 8388608") as caught:
            session.control("register", {"x": "y" * (8 << 20)}, 1)
        assert not caught.value.may_run
