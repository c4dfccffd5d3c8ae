"""Several engines of one host at one address: real processes, started and killed in any order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_sidecar import find_built_jar, missing

from flexkv import protocol as p
from flexkv.config import Settings
from flexkv.joining import conflicts, remedy
from flexkv.session import open_session

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SCRIPT = Path(__file__).with_name("instance_process.py")
OTHER_MODEL = {"namespace": "cd" * 32, "block_bytes": 12_288, "blocks": 32}


class Instance:
    """A process of ``instance_process.py``."""

    def __init__(self, socket_path: str, folder: Path, number: int, shape: Any, extra: Any) -> None:
        options = {
            "jar": str(find_built_jar()), "runtime_dir": str(folder / "run"), "idle_exit_s": 20,
            "cpu_cache_gb": 0.1, "instance_num": 4, "instance_id": number, **extra,
        }  # fmt: skip
        self.log = folder / f"instance-{number}-{random.random()}.log"
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, socket_path, json.dumps(options), json.dumps(shape)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, op: str, seed: int, count: int = 6) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, "seed": seed, "count": count}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def finds(self, seed: int) -> bool:
        answer = self.ask("find", seed)
        assert answer["equal"] or answer["servable"] == 0, answer
        return bool(answer["equal"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Host:
    """Starts instances at one address; ends them and their sidecar."""

    def __init__(self, socket_path: str, folder: Path) -> None:
        self.socket_path = socket_path
        self.folder = folder
        self.all: list[Instance] = []

    def start(self, number: int, shape: Any = None, **extra: Any) -> Instance:
        instance = Instance(self.socket_path, self.folder, number, shape or {}, extra)
        self.all.append(instance)
        return instance

    def sidecar(self) -> int:
        session = open_session(self.socket_path, p.Hello(role=p.ROLE_TOOL, pid=0), None)
        session.close()
        return session.server_pid


@pytest.fixture
def host(socket_path: str, tmp_path: Path) -> Iterator[Host]:
    found = Host(socket_path, tmp_path)
    yield found
    for instance in found.all:
        instance.kill()
    try:
        os.kill(found.sidecar(), signal.SIGKILL)
    except Exception:
        pass  # it was never started


def test_any_order_of_start_any_death_nobody_notices(host: Host) -> None:
    order = random.Random(os.environ.get("FLEXKV_TEST_SEED", "7")).sample(range(4), 4)
    started = {number: host.start(number) for number in order}
    servers = {instance.answer()["server"] for instance in started.values()}
    assert len(servers) == 1  # one wins, all join

    assert started[0].ask("save", 1) == {"saved": 6}
    assert all(started[number].finds(1) for number in (1, 2, 3))

    started[0].kill()
    assert started[2].finds(1)
    assert started[2].ask("save", 2) == {"saved": 6}
    started[2].kill()
    assert started[1].finds(2)

    again = host.start(0)
    assert {again.answer()["server"]} == servers
    assert again.finds(1)
    assert again.finds(2)
    extra = host.start(9)  # beyond the announced
    assert {extra.answer()["server"]} == servers
    assert extra.finds(2)
    assert {host.sidecar()} == servers


def test_other_model_and_block_size_share_the_sidecar_not_the_bytes(host: Host) -> None:
    one, other = host.start(0), host.start(1, OTHER_MODEL)
    assert one.answer() == other.answer()
    assert one.ask("save", 1) == {"saved": 6}
    assert not other.finds(1)
    assert other.ask("save", 1) == {"saved": 6}
    assert one.finds(1)
    assert other.finds(1)
    one.kill()
    assert other.finds(1)


def test_joining_with_other_tiers_is_said_at_once(host: Host) -> None:
    host.start(0).answer()
    second = host.start(1, cpu_cache_gb=0.2)
    second.answer()
    said = second.log.read_text()
    assert "serves other tiers than this engine asks for" in said
    assert "cpu_cache_gb is 0.1, wanted 0.2" in said
    assert "another FLEXKV_SERVER_RECV_PORT" in said
    assert f"flexkv set --address ipc://{host.socket_path} cpu_cache_gb=0.2, or stop that" in said
    assert second.ask("save", 1) == {"saved": 6}
    third = host.start(2)
    third.answer()
    assert "other tiers" not in third.log.read_text()


def test_external_waits_for_a_server_and_starts_none(host: Host) -> None:
    waiting = host.start(1, server_launch_mode="external")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.process.wait(1.0)
    assert not Path(host.socket_path).exists()
    server = host.start(0)
    assert waiting.answer() == server.answer()
    assert waiting.ask("save", 1) == {"saved": 6}
    server.kill()  # it started the sidecar, which stays
    assert waiting.finds(1)


def test_what_was_changed_by_hand_contradicts_neither_the_old_nor_the_new_configuration() -> None:
    theirs = {"cpu_cache_gb": "8", "at_start": {"cpu_cache_gb": "4"}}
    for size, found in (("4", 0), ("8", 0), ("6", 1)):
        given = Settings.load(env={"FLEXKV_CPU_CACHE_GB": size})
        assert len(conflicts(given, theirs)) == found, size


def test_conflicts_are_of_what_was_given_and_by_value() -> None:
    theirs = {"cpu_cache_gb": "32", "num_cpu_blocks": "0", "spin_us": "50"}
    given = Settings.load({"cpu_cache_gb": "32.0", "spin_us": 1}, {})
    assert conflicts(given, theirs) == []
    assert conflicts(Settings.load(env={}), theirs) == []
    found = conflicts(Settings.load(env={"FLEXKV_NUM_CPU_BLOCKS": "9"}), theirs)
    assert found == ["num_cpu_blocks is 0, wanted 9"]


def test_remedy_of_a_conflict_changes_what_can_be_changed_or_ends_that_sidecar() -> None:
    theirs = {"cpu_cache_gb": "1", "ssd_cache_gb": "0", "num_cpu_blocks": "0"}
    kill = "stop that sidecar (kill 77), and an engine starts one as asked; engines that share"
    begin = "flexkv set --address ipc:///tmp/a cpu_cache_gb=2"
    for given, ssd_gb, wanted in (
        ({"cpu_cache_gb": 2}, "0", f"{begin}.0, or {kill}"),
        ({"cpu_cache_gb": 2, "ssd_cache_gb": 3}, "2", f"{begin}.0 ssd_cache_gb=3.0, or {kill}"),
        ({"cpu_cache_gb": 2, "ssd_cache_gb": 3}, "0", kill),
        ({"num_cpu_blocks": 2}, "0", kill),
    ):
        settings = Settings.load({"server_recv_port": "ipc:///tmp/a", **given}, {})
        found = remedy(settings, {**theirs, "ssd_cache_gb": ssd_gb}, 77)
        assert found.startswith(wanted), found
    waiting = Settings.load({"server_launch_mode": "external", "num_cpu_blocks": 2}, {})
    assert "and flexkv serve starts one as asked" in remedy(waiting, theirs, 77)
