"""The trace of requests: what is in it, how long it gets, and that nobody suffers from it."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_rig import Fleet, Shape, sidecar_environment
from real_sidecar import missing

from flexkv.common.config import CacheConfig
from flexkv.config import Settings
from flexkv.tracing import QUEUED_MAX, Tracer, described, effective


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tracer(path: Path, max_bytes: int = 1 << 20, max_files: int = 3) -> Tracer:
    return Tracer(path, max_bytes, max_files, 0.01, "test")


def test_lines_are_json_and_the_file_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    traced = tracer(path)
    before = time.time()
    traced.event("request", {"token_ids": np.arange(3), "namespace": ["a"]})
    traced.close()
    (line,) = lines(path)
    assert line["event_type"] == "request"
    assert line["component"] == "test"
    assert line["data"] == {"token_ids": [0, 1, 2], "namespace": ["a"]}
    assert before <= line["timestamp"] <= time.time()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_that_others_could_read_becomes_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    path.touch()
    path.chmod(0o644)
    traced = tracer(path)
    traced.event("wait", {})
    traced.close()
    assert len(lines(path)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["link", "fifo", "foreign"])
def test_file_that_is_not_ones_own_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, other = tmp_path / "t.log", tmp_path / "other"
    other.touch()
    if kind == "link":
        path.symlink_to(other)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
        uid = os.geteuid()
        monkeypatch.setattr("flexkv.tracing.os.geteuid", lambda: uid + 1)
    traced = tracer(path)
    traced.event("wait", {})
    traced._thread.join(5)
    assert not traced._thread.is_alive()
    assert f"The trace ends: {path} cannot be written" in caplog.text
    assert other.stat().st_size == 0
    assert path.stat().st_size == 0


def test_full_file_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    traced = tracer(path, max_bytes=2000)
    for number in range(200):
        traced.event("wait", {"number": number})
    traced.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["t.log", "t.log.1", "t.log.2"]
    assert all(file.stat().st_size < 2200 for file in files)
    kept = [line["data"]["number"] for file in reversed(files) for line in lines(file)]
    assert kept == list(range(kept[0], 200))


def test_file_that_cannot_be_written_ends_the_trace_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    traced = tracer(tmp_path / "none" / "t.log")
    traced.event("wait", {})
    traced._thread.join(5)
    assert not traced._thread.is_alive()
    traced.event("wait", {})
    traced.close()
    assert "The trace ends" in caplog.text


def test_more_than_can_be_written_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    traced = Tracer(path, 1 << 30, 2, 3600.0, "test")
    for _ in range(QUEUED_MAX + 7):
        traced.event("wait", {})
    traced.close()
    found = lines(path)
    assert len(found) == QUEUED_MAX + 1
    assert found[-1]["event_type"] == "dropped"
    assert found[-1]["data"] == {"lines": 7}


def test_more_bytes_than_may_wait_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexkv.tracing.QUEUED_BYTES_MAX", 8000)
    path = tmp_path / "t.log"
    traced = Tracer(path, 1 << 30, 2, 3600.0, "test")
    traced.event("request", {"token_ids": np.arange(500)})
    traced.event("request", {"token_ids": np.arange(501)})
    traced.event("wait", {})
    traced.close()
    assert [line["event_type"] for line in lines(path)] == ["request", "wait", "dropped"]
    assert traced._queued_bytes == 0


def test_many_bytes_are_written_without_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexkv.tracing.QUEUED_BYTES_MAX", 8000)
    path = tmp_path / "t.log"
    traced = Tracer(path, 1 << 30, 2, 3600.0, "test")
    deadline = time.monotonic() + 10
    for number in range(1, 4):  # not only the first time
        traced.event("request", {"token_ids": np.arange(600)})
        while not path.exists() or len(lines(path)) < number:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    traced.close()


def test_configurations_have_no_secrets() -> None:
    config = CacheConfig(
        redis_password="hunter2",
        remote_config_custom={"secret_access_key": "hunter2"},
        nixl_extra_config={"access_key": "hunter2"},
    )
    settings = Settings.load(env={"FLEXKV_REDIS_PASSWORD": "hunter2"})
    assert "hunter2" not in json.dumps([described(config), effective(settings)], default=str)
    assert "hunter2" not in repr(config)
    assert described(config)["tokens_per_block"] == 16


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_manager_traces_what_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "trace.log"
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(Path(folder), enable_trace=1, trace_file_path=path),
    ):
        fleet = Fleet.start(Shape("kv-first"), model="traced")
        tokens = list(range(35))
        put = fleet.manager.put_async(tokens, fleet.slots([4, 5]))
        assert fleet.manager.wait(put)[put].status.value == "success"
        fleet.close()
    found = lines(path)
    assert [line["event_type"] for line in found] == ["config", "request", "launch_tasks", "wait"]
    data = [line["data"] for line in found]
    assert data[0]["cache_config"]["tokens_per_block"] == 16
    assert data[0]["global_config"]["enable_trace"] is True
    assert data[1]["token_ids"] == tokens
    assert (data[1]["request_type"], data[1]["request_id"]) == ("put", put)
    assert (data[1]["first_block"], data[1]["blocks"]) == (0, 2)
    assert data[2] == {"task_ids": [put], "block_ids": [[4, 5]]}
    assert data[3]["status"] == {str(put): "success"}
    assert os.path.exists(path)
