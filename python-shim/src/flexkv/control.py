"""The control plane: one JSON request at a time over a ZeroMQ DEALER, each with its own bound.

Never on an engine's step: registration, tools, tests.  ``pyzmq`` comes with vLLM and is imported on
the first request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from flexkv.errors import ControlError

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_SLICE_MS = 50
"""A request notices within this time that the sidecar has gone."""


class ControlClient:
    """Requests of one session; threads take turns."""

    def __init__(self, endpoint: str, token: str, alive: Callable[[], bool]) -> None:
        self._endpoint = endpoint
        self._token = token
        self._alive = alive
        self._lock = threading.Lock()
        self._next_id = 0
        self._socket: Any = None
        self._closed = False

    def request(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The result of ``op``; ``ControlError`` on refusal, time-out, death or a broken answer."""
        deadline = time.monotonic() + timeout_s
        if not self._lock.acquire(timeout=max(timeout_s, 0.0)):
            raise ControlError("timeout", f"{op}: another request took all of {timeout_s} s")
        try:
            return self._exchange(op, args, deadline, timeout_s)
        finally:
            self._lock.release()

    def _exchange(
        self, op: str, args: dict[str, Any], deadline: float, timeout_s: float
    ) -> dict[str, Any]:
        import zmq

        self._next_id += 1
        request_id = self._next_id
        message = {"id": request_id, "token": self._token, "op": op, "args": args}
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ControlError(
                "limit", f"{op}: request of {len(data)} bytes, at most {MAX_MESSAGE_BYTES}"
            )
        sent = False
        try:
            if self._closed:
                raise ControlError("gone", f"{op}: the session is closed")
            if self._socket is None:
                self._socket = zmq.Context.instance().socket(zmq.DEALER)
                self._socket.setsockopt(zmq.LINGER, 0)
                self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
                self._socket.connect(self._endpoint)
            self._socket.send(data, zmq.NOBLOCK)
            sent = True
            while True:
                left_ms = (deadline - time.monotonic()) * 1000
                if left_ms <= 0:
                    raise ControlError(
                        "timeout", f"{op}: no answer within {timeout_s} s", may_run=True
                    )
                if self._socket.poll(min(left_ms, _SLICE_MS)):
                    answer = _decode(op, self._socket.recv_multipart(zmq.NOBLOCK))
                    if answer.get("id") == request_id:
                        return _result(op, answer)
                elif not self._alive():
                    raise ControlError("gone", f"{op}: the sidecar has gone", may_run=True)
        except zmq.ZMQError as error:
            raise ControlError("gone", f"{op}: {error}", may_run=sent) from None

    def close(self) -> None:
        """Ends this client; a request in flight in another thread keeps its own bound."""
        self._closed = True
        if self._lock.acquire(timeout=0):
            try:
                if self._socket is not None:
                    self._socket.close(0)
                    self._socket = None
            finally:
                self._lock.release()

    def __del__(self) -> None:
        socket = getattr(self, "_socket", None)
        if socket is not None:
            socket.close(0)


def _decode(op: str, parts: list[bytes]) -> dict[str, Any]:
    try:
        (part,) = parts
        answer = json.loads(part)
    except ValueError:
        raise ControlError(
            "malformed", f"{op}: the answer is not one JSON message", may_run=True
        ) from None
    if not isinstance(answer, dict):
        raise ControlError(
            "malformed", f"{op}: the answer is a {type(answer).__name__}", may_run=True
        )
    return answer


def _result(op: str, answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("ok") is True:
        result = answer.get("result")
        if isinstance(result, dict):
            return result
        raise ControlError("malformed", f"{op}: the result is a {type(result).__name__}")
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    said = f"{op.replace('_', ' ')}: {error.get('message', answer)}"
    raise ControlError(str(error.get("code", "unknown")), said)
