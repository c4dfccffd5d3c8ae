"""``flexkv status --short``: the lines that a person reads."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_rig import STATUS
from fake_sidecar import FakeSidecar

from flexkv import cli, status_text

pytest.importorskip("zmq", reason="pyzmq is not installed")


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
