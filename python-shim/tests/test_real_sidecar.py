"""The client against the real sidecar: both transports, a save, a load, restarts, the launcher."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plain_instance import PlainInstance, random_hashes
from real_sidecar import missing, settings

from flexkv import cli, launcher, proof, registration
from flexkv import protocol as p
from flexkv.client import Link
from flexkv.config import Settings
from flexkv.errors import ControlError, LaunchError
from flexkv.fences import NoFences
from flexkv.layout import derive_layout
from flexkv.registration import Registration
from flexkv.session import Session, open_session

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

CONFIGS = Path(__file__).with_name("original_configs")
TOOL = p.Hello(role=p.ROLE_TOOL, pid=0)


@pytest.fixture
def real(socket_path: str, tmp_path: Path) -> Iterator[Settings]:
    found = settings(socket_path, tmp_path / "run")
    pids: set[int] = set()
    yield found
    launcher._failures.clear()
    try:
        session = open_session(socket_path, TOOL, None)
    except Exception:
        return
    pids.add(session.server_pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def start(real: Settings) -> Session:
    session = launcher.start_or_join(
        real, lambda: open_session(real.socket_path, TOOL, None), lambda: False
    )
    assert session is not None
    return session


@pytest.mark.parametrize("rings", [True, False], ids=["rings", "frames"])
def test_echo_of_all_sizes(real: Settings, rings: bool) -> None:
    start(real)
    hello = p.Hello(role=p.ROLE_TOOL, pid=0, rings=rings)
    session = open_session(real.socket_path, hello, None)
    rng = random.Random(2)
    for query in range(1, 120):
        payload = rng.randbytes(rng.choice([0, 8, 24, 4096, 65_536, 250_000]))
        assert session.send(p.Echo(query, payload))
        answer = session.wait_for(query, 3_000_000)
        assert isinstance(answer, p.EchoAnswer)
        assert answer.payload == payload
    assert session.alive()


def test_wakes_from_sleep(real: Settings) -> None:
    session = start(real)
    for query in range(1, 6):
        time.sleep(0.1)
        assert session.send(p.Echo(query))
        assert session.wait_for(query, 1_000_000) is not None


@pytest.mark.parametrize("rings", [True, False], ids=["rings", "frames"])
def test_save_then_load_gives_the_same_bytes(real: Settings, rings: bool) -> None:
    start(real)
    engine = PlainInstance(real.socket_path, blocks=64, rings=rings)
    hashes = random_hashes(1, 8)
    assert engine.lookup(1, hashes).servable == 0
    contents = [random.Random(i).randbytes(engine.block_bytes) for i in range(8)]
    for i, content in enumerate(contents):
        engine.write_block(8 + i, content)
    saved = engine.save(1, hashes, list(range(8, 16)))
    assert (saved.committed, saved.dropped) == (8, 0)
    for i in range(8):
        engine.write_block(8 + i, bytes(engine.block_bytes))
    answer = engine.lookup(2, hashes)
    assert answer.servable == 8
    assert answer.lease_id != 0
    done = engine.load(answer, list(range(30, 38)))
    assert (done.status, done.blocks_ok) == (p.STATUS_OK, 8)
    assert [engine.read_block(30 + i) for i in range(8)] == contents


def test_what_a_person_is_told_is_what_the_sidecar_says(
    real: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--address", real.server_recv_port]
    session = start(real)
    engine = PlainInstance(real.socket_path)
    hashes = random_hashes(1, 4)
    engine.save(1, hashes, [4, 5, 6, 7])
    done = engine.load(engine.lookup(2, hashes), [8, 9, 10, 11])
    assert done.status == p.STATUS_OK
    assert cli.main(["status", "--short", *at]) == 0
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert said["address"] == real.server_recv_port
    assert said["sidecar"].startswith(f"pid {session.server_pid}, build ")
    assert re.search(r", up \d+ min \d+ s$", said["sidecar"])
    assert said["engine"].endswith("ready, 1 rank(s)")
    assert said["host"].endswith("GB, 4 blocks")
    assert said["lookups"].endswith("1 found something (4 blocks)")
    assert said["loads"] == "1 ok, 0 failed"
    assert said["saves"] == "4 blocks; of the engines here 1 ok, 0 failed"
    assert said["log"] == session.welcome.log_file
    assert cli.main(["set", *at]) == 0
    now = capsys.readouterr().out
    assert "=?" not in now and "eviction_policy=lru" in now


def test_sidecar_paused_before_its_proof_writes_is_dead_before_the_blocks_go_back(
    real: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one is registered with, in the same start."""
    torch = pytest.importorskip("torch", reason="torch is not installed: no KV tensors to prove")
    memory = torch.zeros(10, 4, 16)
    layout = derive_layout({"l0": memory}, num_blocks=10, block_tokens=4)
    let_write = proof.LayoutProof._let_write
    paused: list[Session] = []

    def pausing(self: proof.LayoutProof, session: Any, seed: int) -> None:
        if not paused:
            paused.append(session)
            os.kill(session.server_pid, signal.SIGSTOP)
        monkeypatch.setattr(proof, "CONTROL_TIMEOUT_S", 0.3 if paused[0] is session else 30.0)
        let_write(self, session, seed)

    monkeypatch.setattr(proof.LayoutProof, "_let_write", pausing)
    registration = Registration()
    hello = p.Hello(role=p.ROLE_WORKER, pid=0, instance="paused", block_tokens=4)
    link = Link(real, lambda: hello, on_attach=registration.again)
    link.start()
    try:
        assert registration.first(layout, NoFences(), link, 60.0)
        assert paused[0].server_dead()
        assert link.session() is not paused[0]
        assert not memory.any()
    finally:
        link.close()
        paused[0].kill_server()


def test_sidecar_paused_at_a_registration_is_registered_with_when_it_goes_on(
    real: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: no KV tensors to prove")
    memory = torch.zeros(10, 4, 16)
    layout = derive_layout({"l0": memory}, num_blocks=10, block_tokens=4)
    monkeypatch.setattr(registration, "CONTROL_TIMEOUT_S", 0.3)
    rank = Registration()
    hello = p.Hello(role=p.ROLE_WORKER, pid=0, instance="paused", block_tokens=4)
    link = Link(real, lambda: hello, on_attach=rank.again)
    link.start()
    session = link.wait(60.0)
    assert session is not None
    os.kill(session.server_pid, signal.SIGSTOP)

    def replaced(link: Link, session: Session) -> None:
        wait_until_replaced(link, session)
        monkeypatch.setattr(registration, "CONTROL_TIMEOUT_S", 30.0)
        os.kill(session.server_pid, signal.SIGCONT)

    wait_until_replaced = registration._wait_until_replaced
    monkeypatch.setattr(registration, "_wait_until_replaced", replaced)
    try:
        assert rank.first(layout, NoFences(), link, 60.0)
        now = link.session()
        assert now is not None
        assert now is not session
        assert now.server_pid == session.server_pid
        assert rank.proved
    finally:
        os.kill(session.server_pid, signal.SIGCONT)
        link.close()


def test_what_a_gpu_may_hang_in_runs_beside_the_control_thread(real: Settings) -> None:
    """So that it holds up no other request; the log names the thread."""
    session = start(real)
    engine = PlainInstance(real.socket_path)
    wrong: dict[str, object] = {"session_id": engine.worker.session_id, "seed": 1, "blocks": [5]}
    wrong["expires_ns"] = time.monotonic_ns() + 8_000_000_000
    assert engine.worker.control("prove_read", wrong, 10.0)["equal"] is False
    log = Path(session.welcome.log_file).read_text().splitlines()
    (line,) = [line for line in log if "is not laid out as registered" in line]
    assert "[flexkv-prove-read]" in line
    (line,) = [line for line in log if ": registered 1 regions in 1 allocations" in line]
    assert "[flexkv-register]" in line


def test_block_reused_before_the_copy_is_dropped(real: Settings) -> None:
    """The generation table works across the two languages."""
    start(real)
    engine = PlainInstance(real.socket_path)
    hashes = random_hashes(2, 4)
    job = engine._next_job()
    counters = tuple(engine.generations[b] for b in range(4, 8))
    engine.generations.raise_(6)
    assert engine.scheduler.send(
        p.Extend(1, 0, 32, hashes), p.PlanSave(job, 1, 0, (4, 5, 6, 7), counters)
    )
    assert engine.worker.send(p.Go(job, 0, p.NO_INDEX, p.NO_INDEX, 5000, p.KIND_SAVE))
    saved = engine.scheduler.wait_for(lambda r: isinstance(r, p.SaveDone), 5_000_000)
    assert isinstance(saved, p.SaveDone)
    assert saved.committed == 2
    assert engine.lookup(2, hashes).servable == 2


def test_second_scheduler_of_an_instance_is_refused(real: Settings) -> None:
    start(real)
    engine = PlainInstance(real.socket_path)
    with pytest.raises(Exception, match="duplicate"):
        open_session(real.socket_path, engine.scheduler.hello, engine.generations)


def test_wrong_token_and_unknown_op(real: Settings) -> None:
    session = start(real)
    with pytest.raises(ControlError):
        session.control("no_such_op", {}, 2)
    session._control._token = "wrong"
    with pytest.raises(ControlError) as caught:
        session.control("ping", {}, 2)
    assert caught.value.code == "token"


def test_status_counts_sessions(real: Settings) -> None:
    session = start(real)
    assert session.control("ping", {}, 2) == {}
    told: Any = session.control("status", {}, 2)
    assert [one["role_name"] for one in told["sessions"]] == ["tool"]
    assert told["address"] == real.server_recv_port


@pytest.mark.parametrize("path", sorted(CONFIGS.iterdir()), ids=lambda path: path.stem)
def test_printed_file_of_the_original_starts_a_sidecar(
    socket_path: str, tmp_path: Path, path: Path
) -> None:
    """As it is, but for where this test may put things and how much memory it may take."""
    found = settings(
        socket_path, tmp_path / "run", config_path=str(path), cpu_cache_gb=0.1,
        ssd_cache_gb=0.2, ssd_cache_dir=str(tmp_path / "ssd"),
    )  # fmt: skip
    session = start(found)
    try:
        assert session.control("status", {}, 2)
        log = Path(session.welcome.log_file).read_text()
        remote = log.count("the remote tier is not built yet; the local tiers run")
        assert remote == (1 if "distributed" in path.stem else 0)
        assert "the GPU's copy engines" in log or "dynamo" in path.stem
    finally:
        os.kill(session.server_pid, signal.SIGKILL)


def test_ssd_folder_of_another_sidecar_is_an_error(
    socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "IN_USE_WAIT_S", 0.0)  # this one is not ending
    folder = tmp_path / "ssd"
    first = start(
        settings(socket_path, tmp_path / "run", cpu_cache_gb=0.1, ssd_cache_gb=0.2,
                 ssd_cache_dir=str(folder))
    )  # fmt: skip
    try:
        second = settings(
            socket_path + "2", tmp_path / "run", cpu_cache_gb=0.1, ssd_cache_gb=0.2,
            ssd_cache_dir=str(folder),
        )  # fmt: skip
        with pytest.raises(LaunchError) as caught:
            start(second)
        text = str(caught.value)
        assert f"{folder} is in use by process {first.server_pid}" in text
        assert "ssd_cache_dir of its own" in text
        assert "ended with code 2" in text
        joined = start(settings(socket_path, tmp_path / "run", ssd_cache_gb=0.2))
        ssd: Any = joined.control("status", {}, 2)["ssd"]
        assert ssd["directories"][0]["state"] == "serving"
    finally:
        launcher._failures.clear()
        os.kill(first.server_pid, signal.SIGKILL)


def test_ssd_tier_with_a_bad_folder_and_no_room_for_a_block_says_both(
    socket_path: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    session = start(
        settings(socket_path, tmp_path / "run", ssd_cache_gb=0.002,
                 ssd_cache_dir=f"{tmp_path}/ssd;{tmp_path}/file")
    )  # fmt: skip
    try:
        ssd: Any = session.control("status", {}, 2)["ssd"]
        assert ssd["wanted"] and ssd["present"]
        assert [one["path"] for one in ssd["unusable"]] == [f"{tmp_path}/file"]
        assert "is not a folder" in ssd["unusable"][0]["cause"]
        log = Path(session.welcome.log_file)
        made = f"SSD directory {tmp_path}/ssd was not there and has been made on "
        assert made in log.read_text()
        assert "hardly one fits" not in log.read_text(), "nobody knows yet how large blocks are"
        engine = PlainInstance(socket_path, blocks=2, block_bytes=512 * 1024)
        assert "a block has 524288 bytes, a folder of the SSD tier " in log.read_text()
        engine.close()
    finally:
        os.kill(session.server_pid, signal.SIGKILL)


def test_host_pool_becomes_registered_memory_of_the_ssd_tier(
    socket_path: str, tmp_path: Path
) -> None:
    session = start(
        settings(socket_path, tmp_path / "run", ssd_cache_gb=0.2, ssd_cache_dir=f"{tmp_path}/ssd")
    )
    log = Path(session.welcome.log_file)
    try:
        if "threads instead of io_uring" in log.read_text():
            pytest.skip("no io_uring here")
        deadline = time.monotonic() + 20
        while "registered memory" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        ways = [line for line in log.read_text().splitlines() if "registered memory" in line]
        assert len(ways) == 1
        assert "uses registered memory, 238 MiB" in ways[0] or "ulimit -l" in ways[0]
    finally:
        os.kill(session.server_pid, signal.SIGKILL)


def test_set_changes_policy_and_log_level_of_the_running_sidecar(
    real: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(real)
    log = Path(session.welcome.log_file)
    at = ["--address", real.server_recv_port]
    assert cli.main(["set", *at, "eviction_policy=SLRU", "log_level=error"]) == 0
    said = capsys.readouterr().out
    assert "eviction_policy=slru\n" in said
    assert "log_level=ERROR\n" in said
    before = log.read_text()
    assert cli.main(["set", *at, "load_limit_gb_s=12.5"]) == 0
    assert "load_limit_gb_s=12.5\n" in capsys.readouterr().out
    assert cli.main(["set", *at, "evict_ratio=0.05"]) == 0
    assert log.read_text() == before  # what is INFO is not logged any more
    assert "evict_ratio=0.05\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("eviction_policy=best", "set: eviction_policy is 'best', must be lru, lfu, slru, fifo"),
        ("eviction_polcy=lru", "'eviction_polcy' is no option; did you mean 'eviction_policy'?; "),
        ("nope=1", "'nope' is no option; can be changed: cpu_cache_gb, "),
        ("spin_us=3", "spin_us cannot be changed while the sidecar runs; can be changed: "),
        (
            "cpu_cache_gb=900000",
            "cpu_cache_gb stays as it is: the host pool is to have 900000.0 GB",
        ),
    ],
)
def test_set_says_what_it_cannot_do(
    real: Settings, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    start(real)
    at = ["--address", real.server_recv_port]
    assert cli.main(["set", *at, change]) == 1
    assert said in capsys.readouterr().err


def test_serve_with_a_wrong_argument_says_so_in_a_line(
    real: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "flexkv.cli", "serve", "--cpu-cach-gb", "3"]
    env = {**os.environ, "FLEXKV_JAR": real.jar, "FLEXKV_RUNTIME_DIR": real.runtime_dir}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "flexkv: unknown option '--cpu-cach-gb'; did you mean '--cpu-cache-gb'? "
        "flexkv serve --help lists the options\n"
    )


def serve(real: Settings, errors: Path) -> subprocess.Popen[bytes]:
    """``flexkv serve``, ready; its stdout goes to ``<errors>.out``."""
    env = {**os.environ, "FLEXKV_JAR": real.jar, "FLEXKV_RUNTIME_DIR": real.runtime_dir}
    at = ["--address", real.server_recv_port, "--cpu-cache-gb", "0.05"]
    # Ignored signals are inherited, as SIGINT is where these tests run in a script's background.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "flexkv.cli", "serve", *at]
    with errors.open("wb") as err, errors.with_suffix(".out").open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err)
    deadline = time.monotonic() + 60
    while "ready at" not in errors.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(errors.read_text())
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_that_it_is_ready_and_ends_with_zero_when_asked_to(
    real: Settings, tmp_path: Path, way: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = tmp_path / "serve"
    for _ in range(3):  # an end that takes 1.9 s, on a busy machine, is the signal's
        process = serve(real, errors)
        try:
            assert cli.main(["status", "--address", real.server_recv_port]) == 0
            process.send_signal(way)
            code = process.wait(20)
        finally:
            process.kill()
        if code == 0:
            break
    said = errors.read_text()
    assert code == 0, said
    assert f"ready at {real.server_recv_port} (pid {process.pid}, host tier 0.0" in said
    assert "GB, no SSD tier), stop with Ctrl-C or SIGTERM" in said
    assert "idle_exit_s=0.0 (flexkv serve)" in said
    assert "session 1" not in said, "a look at the status is no news"
    assert said.rstrip().endswith("ended")
    assert errors.with_suffix(".out").read_bytes() == b"", "progress is for who starts it as a part"


def test_end_at_log_level_debug_has_no_traces(real: Settings) -> None:
    session = start(dataclasses.replace(real, values={**real.values, "log_level": "debug"}))
    log = Path(session.welcome.log_file)
    assert cli.main(["set", "--address", real.server_recv_port, "log_level=debug"]) == 0
    os.kill(session.server_pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not session.server_dead():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "ended" in log.read_text()
    assert "Runtime.exit" not in log.read_text()


@pytest.mark.parametrize("way", ["kill", "term"])
def test_link_comes_back_after_the_sidecar_went(real: Settings, way: str) -> None:
    link = Link(real, lambda: p.Hello(role=p.ROLE_TOOL, pid=0))
    link.start()
    try:
        first = link.wait(20)
        assert first is not None
        os.kill(first.server_pid, signal.SIGKILL if way == "kill" else signal.SIGTERM)
        deadline = time.monotonic() + 15
        second = None
        while second is None and time.monotonic() < deadline:
            current = link.session()
            second = None if current is first else current
            time.sleep(0.01)
        assert second is not None
        assert second.boot_epoch != first.boot_epoch
        assert first.server_dead()
    finally:
        link.close()


def test_goes_when_its_last_client_has_gone(real: Settings) -> None:
    session = start(real)
    session.close()
    deadline = time.monotonic() + 15
    while not session.server_dead() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert session.server_dead(), "idle_exit_s is 1"


def test_idle_sidecar_uses_no_cpu(real: Settings) -> None:
    start(real)
    engine = PlainInstance(real.socket_path)  # tools do not keep it alive, engines do
    session = engine.scheduler
    time.sleep(1.0)  # start-up and compilation settle

    def ticks() -> int:
        text = Path(f"/proc/{session.server_pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return int(fields[11]) + int(fields[12])

    for _ in range(4):  # Java compiles what ran at the start a while later still
        before = ticks()
        time.sleep(2.0)
        used_s = (ticks() - before) / os.sysconf("SC_CLK_TCK")
        if used_s < 0.2:
            break
    assert session.alive()
    assert used_s < 0.2, f"{used_s} s of CPU in 2 s of idleness"
