"""``flexkv doctor``: what it finds, and the remedies that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from command_rig import STATUS, findings
from fake_sidecar import FakeSidecar, fake_java

from flexkv import cli, doctor, launcher, rendezvous, ssd_folders
from flexkv.config import Settings

pytest.importorskip("zmq", reason="pyzmq is not installed")


@pytest.mark.usefixtures("fake_runtime")
def test_doctor_on_a_complete_machine(
    address: str, socket_path: str, control: Any, capsys: Any
) -> None:
    control.answer = lambda request: {"ok": True, "result": {}}
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        assert cli.main(["doctor", "--address", address]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(doctor.CHECKS) + 2, "who the sidecar is, and its host tier"
    assert "a sidecar answers" in out
    assert "Java 25 from FLEXKV_JAVA" in out


def test_doctor_sidecar_that_listens_and_does_not_answer_is_a_failure(
    address: str, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexkv.rendezvous.WELCOME_TIMEOUT_S", 0.1)
    monkeypatch.setattr("flexkv.silence.OURS", b"")
    greet, hellos = rendezvous.greet, []

    def counted(*hello: Any) -> Any:
        hellos.append(hello)
        return greet(*hello)

    monkeypatch.setattr(rendezvous, "greet", counted)
    with FakeSidecar(socket_path, silent=True) as server:
        found = findings(Settings.load({"server_recv_port": address}, {}))["socket"]
        server._stop.set()
    assert found.state == doctor.FAIL
    assert len(hellos) == 1, "each is a wait of seconds"
    assert f"kill -CONT {os.getpid()}" in found.text


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


def test_doctor_host_pool_larger_than_the_machine_is_refused(address: str) -> None:
    here = {"server_recv_port": address}
    settings = Settings.load({**here, "cpu_cache_gb": 1_000_000}, {})
    found = findings(settings)["host pool"]
    assert found.state == doctor.FAIL
    assert "1000000.0 GB (cpu_cache_gb)" in found.text
    assert "Remedy: set cpu_cache_gb (FLEXKV_CPU_CACHE_GB) to " in found.text
    small = findings(Settings.load({**here, "cpu_cache_gb": 0.25}, {}))["host pool"]
    assert small.state == doctor.OK


def test_doctor_has_a_line_for_each_ssd_folder(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "used").mkdir()
    names = [str(tmp_path / name) for name in ("new/a", "file", "used", "file/below")]
    asked = {"server_recv_port": address, "ssd_cache_gb": 4e-3, "ssd_cache_dir": names}
    settings = Settings.load(asked, {})
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


def test_doctor_with_ssd_asks_the_jar(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    stand_in = ["sh", "-c", f'printf "%s\\n" "$@" > {asked}; exit 3', "java"]
    monkeypatch.setattr(launcher, "command", lambda settings, mode="start": [*stand_in, mode])
    assert cli.main(["doctor", "--address", address, "--ssd", "/a", "--ssd", "/b"]) == 3
    assert asked.read_text().split() == ["doctor", "--ssd", "/a", "--ssd", "/b"]


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


def beside(control: Any, socket_path: str, theirs: dict[str, str], settings: Settings) -> Any:
    """The findings beside a sidecar that tells ``STATUS`` and has these settings."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "result": STATUS if request["op"] == "status" else theirs}

    control.answer = answer
    with FakeSidecar(socket_path, control_endpoint=control.endpoint):
        return findings(settings)


def test_doctor_beside_a_sidecar_that_runs_says_whose_tiers_count(
    address: str, socket_path: str, control: Any, tmp_path: Path
) -> None:
    asked = {"cpu_cache_gb": 6, "ssd_cache_gb": 0.001, "ssd_cache_dir": str(tmp_path)}
    settings = Settings.load({"server_recv_port": address, **asked}, {})
    found = beside(control, socket_path, {"cpu_cache_gb": "3"}, settings)
    told = f"pid {os.getpid()}, build 0.1.0, up 3 min 5 s, log "
    assert found["sidecar"].text.startswith(told)
    assert found["host tier"].text == "of the running sidecar: 1.50 of 3.00 GB used"
    assert found["host pool"].text.startswith("for a sidecar started from here: 6 GB for blocks, ")
    assert found["ssd"].text.startswith(f"for a sidecar started from here: {tmp_path}: ")
    assert found["tiers"].state == doctor.WARN
    assert found["tiers"].text.startswith(
        "the running sidecar has other tiers than these settings ask for: cpu_cache_gb is 3, "
        f"wanted 6.0. Remedy: flexkv set --address {address} cpu_cache_gb=6.0, or stop that "
        f"sidecar (kill {os.getpid()}), and an engine starts one as asked"
    )


def test_doctor_beside_a_sidecar_that_runs_what_only_a_start_needs_is_no_failure(
    address: str, socket_path: str, control: Any
) -> None:
    asked = {"jar": "/no.jar", "java": "/no/java", "cpu_cache_gb": 1_000_000}
    settings = Settings.load({"server_recv_port": address, **asked}, {})
    for there, found in (
        (False, findings(settings)),
        (True, beside(control, socket_path, {"cpu_cache_gb": "1000000"}, settings)),
    ):
        for name in ("java", "jar", "host pool"):
            assert found[name].state == (doctor.WARN if there else doctor.FAIL)
            assert found[name].text.startswith("for a sidecar started from here: ") == there
        assert ("tiers" in found, "sidecar" in found) == (False, there)


def test_doctor_beside_a_sidecar_that_runs_does_not_compare_sizes_in_blocks(
    address: str, socket_path: str, control: Any
) -> None:
    """The engine that started it has said them in GB."""
    theirs = {"cpu_cache_gb": "3", "num_cpu_blocks": "0"}
    for env, differs in (({}, False), ({"FLEXKV_CPU_CACHE_GB": "3"}, True)):
        asked = {**env, "FLEXKV_SERVER_RECV_PORT": address, "FLEXKV_NUM_CPU_BLOCKS": "100"}
        found = beside(control, socket_path, theirs, Settings.load({}, asked))
        assert ("tiers" in found) == differs, "beside a size they are a cap"
