"""``flexkv config check``: what a file would do here, or why it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_rig import check, findings

from flexkv import cli, config_check, doctor, ssd_folders
from flexkv.config import Settings
from flexkv.machine import MachineMemory

pytest.importorskip("zmq", reason="pyzmq is not installed")


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
    settings = Settings.load({"server_recv_port": address}, {"FLEXKV_CONFIG_PATH": str(path)})
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
        env = {"FLEXKV_CONFIG_PATH": str(path), "FLEXKV_SERVER_RECV_PORT": address}
        found = findings(Settings.load({}, env))["host pool"]
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
