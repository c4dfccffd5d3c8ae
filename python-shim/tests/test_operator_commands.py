"""What the command line tells an operator: the short status, settings in use, the doctor's look."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_sidecar import FakeSidecar

from flexkv import cli, doctor, status_text
from flexkv.config import Settings
from flexkv.machine import MachineMemory
from flexkv.options import LIVE

pytest.importorskip("zmq", reason="pyzmq is not installed")


def test_set_without_arguments_prints_what_can_be_changed_and_is_now(
    address: str, socket_path: str, control: Any, capsys: Any
) -> None:
    now = {"cpu_cache_gb": "3.16", "eviction_policy": "slru", "spin_us": "50"}
    control.answer = lambda request: {"ok": True, "result": now}
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["set", "--address", address]) == 0
    assert [request["op"] for request in control.requests] == ["settings"], "nothing is changed"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0] for line in lines] == list(LIVE)
    assert "cpu_cache_gb=3.16" in lines[0] and "a number of GB" in lines[0]


def test_config_shows_what_a_default_comes_to_here(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MachineMemory(24_000_000_000, "this machine has")
    monkeypatch.setattr(MachineMemory, "read", lambda: memory)
    assert cli.main(["config"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["cpu_cache_gb"][0] == "3"
    assert "16, but at most an eighth of the memory" in " ".join(rows["cpu_cache_gb"])
    assert rows["runtime_dir"][0] == f"/tmp/flexkv-{os.geteuid()}"


STATUS: dict[str, Any] = {
    "address": "ipc:///tmp/there", "build": "0.1.0", "uptime_s": 185, "sessions": [],
    "cache": {"lookups": 9, "hits": 4, "hit_blocks": 31, "load_parts_ok": 5, "load_parts_failed": 1,
              "saved_blocks": 70, "host_blocks": 60, "used_bytes": 1_500_000_000,
              "capacity_bytes": 3_000_000_000},
    "instances": [{"name": "e/0", "ready": True, "missing": "", "world_size": 2, "ranks": [
        {"rank": 0, "save": {"jobs_ok": 3, "jobs_failed": 1}},
        {"rank": 1, "save": {"jobs_ok": 4, "jobs_failed": 0}}]}],
    "ssd": {"present": True, "directories": [
        {"path": "/d0", "state": "serving", "used_bytes": 10**9, "capacity_bytes": 4 * 10**9,
         "cause": ""},
        {"path": "/d1", "state": "lost", "used_bytes": 0, "capacity_bytes": 4 * 10**9,
         "cause": "EIO"},
        {"path": "/d3", "state": "stalled", "used_bytes": 0, "capacity_bytes": 4 * 10**9,
         "cause": "slow"}], "unusable": [{"path": "/d2", "cause": "is not a folder"}]},
}  # fmt: skip


def test_status_short_says_what_a_person_needs(
    address: str, socket_path: str, control: Any, capsys: Any, tmp_path: Path
) -> None:
    log = tmp_path / "s.log"
    log.write_text("t0 ERROR X [a] first\nt1 WARN  X [a] ERROR the last\nt2 INFO  X [a] WARN no\n")
    control.answer = lambda request: {"ok": True, "result": {**STATUS, "log_file": str(log)}}
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["status", "--short", "--address", address]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "address   ipc:///tmp/there",
        f"sidecar   pid {os.getpid()}, build 0.1.0, up 3 min 5 s",
        "engine    e/0: ready, 2 rank(s)",
        "host      1.50 of 3.00 GB, 60 blocks",
        "ssd       /d0 serving, 1.00 of 4.00 GB",
        "ssd       /d1 lost, 0.00 of 4.00 GB: EIO",
        "ssd       /d3 stalled, 0.00 of 4.00 GB: slow",
        "ssd       /d2 not used: is not a folder",
        "lookups   9, 4 found something (31 blocks)",
        "loads     5 ok, 1 failed",
        "saves     70 blocks; of the engines here 7 ok, 1 failed",
        "problem   t1 WARN  X [a] ERROR the last",
        f"log       {log}",
    ]


def test_status_short_of_an_older_sidecar_without_engine_or_ssd(tmp_path: Path) -> None:
    status = {"pid": os.getpid(), "log_file": str(tmp_path / "no")}
    lines = list(status_text.short(status, "ipc:///a"))
    assert "engines   none" in lines and "ssd       none" in lines
    assert f"sidecar   pid {os.getpid()}, build ?" in lines, "who has that pid here says nothing"
    assert "problem   the log cannot be read" in lines


def test_status_short_problem_of_an_earlier_life_is_not_this_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    now = datetime.now(UTC)
    earlier, later = (
        (now + timedelta(seconds=s)).strftime("%Y-%m-%dT%H:%M:%S.000Z") for s in (-120, -30)
    )
    log.write_text(f"{earlier} ERROR X [a] of before\n")
    status = {"pid": 1, "uptime_s": 60, "log_file": str(log)}
    assert "problem   none in the log" in list(status_text.short(status, "ipc:///a"))
    log.write_text(f"{earlier} ERROR X [a] of before\n{later} WARN  X [a] of now\n")
    assert f"problem   {later} WARN  X [a] of now" in list(status_text.short(status, "ipc:///a"))


def test_status_short_counts_hours_without_seconds() -> None:
    lines = list(status_text.short({"pid": 1, "uptime_s": 3600 * 49 + 61}, "ipc:///a"))
    assert lines[1] == "sidecar   pid 1, build ?, up 49 h 1 min"


def test_doctor_looks_at_the_folders_of_the_sidecar_that_runs(
    address: str, socket_path: str, control: Any
) -> None:
    control.answer = lambda request: {"ok": True, "result": STATUS}
    settings = Settings.load(
        {"server_recv_port": address, "ssd_cache_gb": 1, "ssd_cache_dir": "/d0"}, {}
    )
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        lines = [f for f in doctor.examine(settings) if f.name == "ssd"]
    assert [line.state for line in lines] == [doctor.OK, *3 * [doctor.WARN]]
    assert lines[0].text == "/d0, of the running sidecar: serving, 1.00 of 4.00 GB used"
    assert "lost" in lines[1].text and "EIO. Remedy: flexkv ssd reattach /d1" in lines[1].text
    assert "slow. It serves again by itself" in lines[2].text, "that one cannot be reattached"
    assert lines[3].text == "/d2, of the running sidecar: not used: is not a folder"


@pytest.mark.parametrize(("mask", "may"), [("000001ffffffffff", True), ("00000000a80425fb", False)])
def test_doctor_who_may_lock_memory_needs_no_limit(tmp_path: Path, mask: str, may: bool) -> None:
    """The second mask is what docker gives root."""
    status = tmp_path / "status"
    status.write_text(f"CapPrm:\t0000000000000000\nCapEff:\t{mask}\nCapBnd:\t{mask}\n")
    assert doctor.may_lock_memory(status) is may
