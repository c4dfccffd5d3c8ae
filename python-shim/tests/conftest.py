"""Fixtures shared by the shim's tests."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests, in importlib mode too


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A socket path in a folder of its own, short enough for ``AF_UNIX`` whatever TMPDIR is."""
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        yield str(Path(folder) / "s")


@pytest.fixture
def address(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address that nobody serves, and no settings from the environment."""
    from flexkv.java import java_version

    for name in [n for n in os.environ if n.startswith("FLEXKV")]:
        monkeypatch.delenv(name)
    java_version.cache_clear()
    return f"ipc://{socket_path}"


@pytest.fixture
def fake_runtime(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``FLEXKV_JAVA`` and ``FLEXKV_JAR`` name a Java that runs the fake sidecar, and some jar."""
    from fake_sidecar import fake_java

    jar = tmp_path / "flexkv-sidecar.jar"
    jar.touch()
    monkeypatch.setenv("FLEXKV_JAVA", str(fake_java(tmp_path)))
    monkeypatch.setenv("FLEXKV_JAR", str(jar))


@pytest.fixture
def control() -> Iterator[Any]:
    """A control endpoint that answers what ``answer`` says for the request."""
    zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")

    class Control:
        def __init__(self) -> None:
            self.socket = zmq.Context.instance().socket(zmq.ROUTER)
            port = self.socket.bind_to_random_port("tcp://127.0.0.1")
            self.endpoint = f"tcp://127.0.0.1:{port}"
            self.answer: Any = lambda request: {"ok": True, "result": {"sessions": 1}}
            self.requests: list[dict[str, Any]] = []
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self.run)
            self.thread.start()

        def run(self) -> None:
            while not self.stop.is_set():
                if not self.socket.poll(20):
                    continue
                peer, data = self.socket.recv_multipart()
                request = json.loads(data)
                self.requests.append(request)
                answer = self.answer(request)
                if isinstance(answer, dict):
                    answer = json.dumps({"id": request["id"], **answer}).encode()
                if answer is not None:
                    self.socket.send_multipart([peer, answer])
            self.socket.close(0)

    found = Control()
    yield found
    found.stop.set()
    found.thread.join()
