"""The commands ``doctor`` and ``config check`` as tests run them, and a sidecar's status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexkv import cli, doctor
from flexkv.config import Settings

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
"""What a sidecar tells that has an engine of two ranks and three SSD folders."""


def findings(settings: Settings) -> dict[str, doctor.Finding]:
    """What the doctor says, by the name of the check; the last of those that have several lines."""
    return {f.name: f for f in doctor.examine(settings)}


def check(capsys: Any, path: Path) -> tuple[int, str, str]:
    """``config check`` of a file: its exit status, and what it wrote on stdout and stderr."""
    code = cli.main(["config", "check", str(path)])
    said = capsys.readouterr()
    return code, said.out, said.err
