"""The ready configurations for four workers of a machine, and the script that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from flexkv.config import Settings

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "four-workers"

FAKE_VLLM = """#!/bin/sh
env | grep -E '^(WORKER|FLEXKV_|CUDA_VISIBLE)' >"$OUT/$WORKER.env"
printf '%s\\n' "$@" >"$OUT/$WORKER.args"
mv "$OUT/$WORKER.args" "$OUT/$WORKER.started"
[ "$WORKER" != "$DIES" ] || { echo "no GPU left"; exit 3; }
[ "$WORKER" != "$DEAF" ] || trap '' TERM
exec sleep 60
"""


def start(tmp_path: Path, mode: str, **env: str) -> subprocess.Popen[str]:
    fake = tmp_path / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text(FAKE_VLLM)
    fake.chmod(0o755)
    (tmp_path / "out").mkdir()
    base = {k: v for k, v in os.environ.items() if not k.startswith("FLEXKV")}
    path = f"{fake.parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [FOLDER / "start.sh", mode, "some/model", "--block-size", "64"],
        env={**base, "PATH": path, "OUT": str(tmp_path / "out"), "LOG_DIR": str(tmp_path / "logs"),
             "DIES": "none", "DEAF": "none", **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        start_new_session=True,
    )  # fmt: skip


def wait_started(tmp_path: Path, workers: int) -> list[tuple[dict[str, str], list[str]]]:
    out = tmp_path / "out"
    deadline = time.monotonic() + 20
    while len(list(out.glob("*.started"))) < workers:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found = []
    for i in range(workers):
        lines = (out / f"{i}.env").read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        found.append((env, (out / f"{i}.started").read_text().splitlines()))
    return found


def living(group: int) -> list[str]:
    """Processes of that group; those that have ended and wait for their parent do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            state, _, pgrp = rest.split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(name)
    return found


def wait_gone(group: int) -> None:
    """Nobody of the script's session may be left; who was just killed needs a moment."""
    deadline = time.monotonic() + 10
    while left := living(group):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    wait_gone(process.pid)


def settings(found: list[tuple[dict[str, str], list[str]]]) -> list[Settings]:
    return [Settings.load(env=env) for env, _ in found]


def test_shared_workers_meet_at_one_address(tmp_path: Path) -> None:
    process = start(tmp_path, "shared", TP="2")
    found = wait_started(tmp_path, 4)
    loaded = settings(found)
    assert {s.server_recv_port for s in loaded} == {"ipc:///tmp/flexkv_server"}
    assert [(s.instance_id, s.instance_num) for s in loaded] == [(i, 4) for i in range(4)]
    assert all(s.notes == () for s in loaded)
    assert [env["CUDA_VISIBLE_DEVICES"] for env, _ in found] == ["0,1", "2,3", "4,5", "6,7"]
    for i, (_, args) in enumerate(found):
        assert args[:4] == ["serve", "some/model", "--port", str(8000 + i)]
        assert args[-2:] == ["--block-size", "64"]
        transfer: Any = json.loads(args[args.index("--kv-transfer-config") + 1])
        assert transfer == {"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both"}
    end(process)


def test_private_workers_have_addresses_of_their_own(tmp_path: Path) -> None:
    process = start(tmp_path, "private", WORKERS="3", GPUS="0", BASE_PORT="9100")
    found = wait_started(tmp_path, 3)
    loaded = settings(found)
    assert [s.server_recv_port for s in loaded] == [
        f"ipc:///tmp/flexkv_server_{i}" for i in range(3)
    ]
    assert all(s.notes == () for s in loaded)
    assert all("CUDA_VISIBLE_DEVICES" not in env for env, _ in found if not os.environ.get(
        "CUDA_VISIBLE_DEVICES"))  # fmt: skip
    assert [args[3] for _, args in found] == ["9100", "9101", "9102"]
    end(process)


def test_end_of_one_worker_ends_all(tmp_path: Path) -> None:
    process = start(tmp_path, "shared", DIES="2")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    log = tmp_path / "logs" / "worker-2.log"
    assert f"worker 2 ended: ending all. The last lines of {log}:\n    no GPU left\n" in said
    wait_gone(process.pid)


def test_worker_that_does_not_end_is_killed_after_a_while(tmp_path: Path) -> None:
    process = start(tmp_path, "shared", WORKERS="2", DEAF="1", STOP_TIMEOUT_S="1")
    wait_started(tmp_path, 2)
    end(process)


def test_signal_at_any_moment_of_the_start_leaves_nobody(tmp_path: Path) -> None:
    """Bash may be at any point of starting a worker then; what it lets slip is killed in time."""
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(folder, "shared", WORKERS="8", STOP_TIMEOUT_S="1")
        assert process.stdout is not None
        process.stdout.readline()  # the first worker is there
        time.sleep(number / 500)
        end(process)


def test_wrong_use_is_explained(tmp_path: Path) -> None:
    process = start(tmp_path, "both")
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "start.sh shared|private MODEL" in said
    assert "ends all.\n" in said and "pipefail" not in said
