"""The sidecar that is started before any connector: once, for nobody's loss, and not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sidecar import fake_java
from test_launcher import starts

from flexkv import early
from flexkv.config import Settings
from flexkv.errors import ControlError

SHIM = Path(early.__file__).parents[1]


@pytest.fixture
def address(socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address whose sidecar would be the stand-in for Java; nobody listens there yet."""
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.write_bytes(b"")
    for name, value in {
        "FLEXKV_SERVER_RECV_PORT": f"ipc://{socket_path}",
        "FLEXKV_JAVA": str(fake_java(tmp_path)),
        "FLEXKV_JAR": str(jar),
        "FLEXKV_RUNTIME_DIR": str(tmp_path / "run"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(early, "_begun", set())
    yield socket_path
    for pid in (*helpers(socket_path), *starts(socket_path)):
        os.kill(pid, 9)


def helpers(socket_path: str) -> list[int]:
    """Processes that keep a sidecar at this address."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            ours = socket_path.encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"flexkv.early" in words and ours:
            found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def test_begin_starts_one_sidecar_and_one_helper(address: str) -> None:
    early.begin({})
    early.begin({})
    wait_until(lambda: len(starts(address)) == 1, "no sidecar was started")
    assert len(helpers(address)) == 1
    time.sleep(0.3)
    assert len(starts(address)) == 1


def test_helper_ends_when_the_front_end_is_gone(address: str) -> None:
    code = "from flexkv.early import begin; begin({}); import time; time.sleep(60)"
    front_end = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SHIM)}
    )
    try:
        wait_until(lambda: bool(starts(address)), "no sidecar was started")
        wait_until(lambda: bool(helpers(address)), "no helper keeps it")
    finally:
        front_end.kill()
        front_end.wait()
    wait_until(lambda: not helpers(address), "the helper outlives its front end")


def test_begin_leaves_nothing_to_wait_for(address: str) -> None:
    early.begin({})
    wait_until(lambda: bool(helpers(address)), "no helper")
    (helper,) = helpers(address)
    parent = int(Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != os.getpid()


@pytest.mark.parametrize(
    "extra",
    [
        {"flexkv_early_start": False},
        {"flexkv_enabled": 0},
        {"flexkv_server_launch_mode": "external"},
        {"flexkv_num_cpu_blocks": 100},
        {"flexkv_num_ssd_blocks": 100},
        {"flexkv_load_wait_ms": "never"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_begin_does_nothing_where_it_should_not(
    address: str, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    spawned: list[Any] = []
    monkeypatch.setattr(early, "_spawn", spawned.append)
    early.begin(extra)
    assert not spawned
    early.begin(None)
    assert spawned == [{}]


def test_begin_that_fails_is_silent(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(extra: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(early, "_spawn", fails)
    early.begin({})


class Company:
    """A session of a sidecar whose status is told in turns."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.closed = False

    def alive(self) -> bool:
        return True

    def control(self, op: str, args: dict[str, object], timeout_s: float) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


def keep(monkeypatch: pytest.MonkeyPatch, company: Company, gone: Callable[[], bool]) -> None:
    monkeypatch.setattr(early, "start_or_join", lambda *_: company)
    monkeypatch.setattr(early, "_LOOK_S", 0.01)
    early.keep(Settings(), gone)


def test_keep_leaves_when_an_engine_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    company = Company({"instances": []}, ControlError("busy", "later"), {"instances": [{}]})
    keep(monkeypatch, company, lambda: False)
    assert company.closed
    assert not company.answers


def test_keep_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "KEEP_S", 0.05)
    company = Company(*[{"instances": []}] * 1000)
    keep(monkeypatch, company, lambda: False)
    assert company.closed
    assert company.answers
