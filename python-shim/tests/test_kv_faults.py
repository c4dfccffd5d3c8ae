"""A sidecar that dies, hangs or loses a rank under the Python API: bounded, then whole again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kv_rig import Fleet, Shape, own_sidecar, sidecar_environment, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv import cli
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.server.server import KVServer
from flexkv.session import open_session

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SUCCESS, FAILED = KVResponseStatus.SUCCESS, KVResponseStatus.FAILED
BIG = Shape("kv-first", layers=8, head_size=128, kv_heads=8)
"""512 KiB a block."""

BLOCKS = 200


@pytest.fixture
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60, load_deadline_ms=500, drain_timeout_ms=500) as found:
        yield found


@pytest.fixture
def fleet(address: str) -> Iterator[Fleet]:
    started = Fleet.start(BIG, model=uuid.uuid4().hex, blocks=BLOCKS)
    try:
        yield started
    finally:
        started.close()


def server_pid(address: str) -> int:
    session = open_session(address.removeprefix("ipc://"), Hello(role=ROLE_TOOL, pid=0), None)
    session.close()
    return session.server_pid


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for at most ten seconds (its parent reaps it)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def a_put(fleet: Fleet, tokens: list[int], blocks: range) -> int:
    return fleet.manager.put_async(tokens, fleet.slots(blocks))


def prompt(seed: int, blocks: int) -> list[int]:
    return [seed * 1000 + i for i in range(blocks * BIG.block_tokens)]


def test_sidecar_killed_amid_transfers_ends_all_and_serves_again(
    fleet: Fleet, address: str
) -> None:
    manager = fleet.manager
    first = prompt(1, 8)
    fleet.fill(first, range(8))
    put = a_put(fleet, first, range(8))
    assert manager.wait(put)[put].status is SUCCESS
    for turn in range(2):
        pid = server_pid(address)
        matched = manager.get_match(first)[0]
        puts = [a_put(fleet, prompt(10 + turn, 90), range(8, 98))]
        gets = [manager.get_async(first, fleet.slots(range(100, 108))) for _ in range(3)]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        answers = manager.wait([*puts, *gets])
        took = time.monotonic() - began
        assert took < 10, took
        assert {a.status for a in answers.values()} <= {SUCCESS, FAILED}
        for task in gets:
            if answers[task].status is SUCCESS:
                fleet.check(first, range(100, 108))
            else:
                assert answers[task].return_mask.sum() <= len(first)
        manager.launch(matched, fleet.slots(range(110, 118)))
        assert manager.wait(matched)[matched].status is FAILED, "its sidecar is dead"
        # Another sidecar is started, the rank registers again, and all of it works from empty.
        deadline = time.monotonic() + 30
        while not manager.is_ready():
            assert time.monotonic() < deadline
            assert time.monotonic() - began < 30
            time.sleep(0.01)
        assert server_pid(address) != pid
        assert not manager.get_match(first)[1].any()
        fleet.fill(first, range(8))
        put = a_put(fleet, first, range(8))
        assert manager.wait(put)[put].status is SUCCESS
        got = manager.get_async(first, fleet.slots(range(120, 128)))
        assert manager.wait(got)[got].status is SUCCESS
        fleet.check(first, range(120, 128))
        wait_for_no_leaks(address)


def wait_until_stopped(pid: int) -> None:
    """A signal takes effect some time after ``kill``: every thread goes on until it has."""
    deadline = time.monotonic() + 10.0

    def state(stat: Path) -> str:
        return stat.read_text().rpartition(")")[2].split()[0]

    while any(state(stat) != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < deadline, "the sidecar does not stop"
        time.sleep(0.001)


def test_sidecar_frozen_answers_are_bounded_and_a_load_costs_its_life(
    fleet: Fleet, address: str
) -> None:
    manager = fleet.manager
    tokens = prompt(1, 8)
    fleet.fill(tokens, range(8))
    put = a_put(fleet, tokens, range(8))
    assert manager.wait(put)[put].status is SUCCESS
    pid = server_pid(address)
    task, mask = manager.get_match(tokens)
    assert mask.all()
    os.kill(pid, signal.SIGSTOP)
    wait_until_stopped(pid)
    began = time.monotonic()
    assert not manager.get_match(tokens)[1].any(), "no answer is no hit"
    first_s = time.monotonic() - began
    began = time.monotonic()
    for _ in range(100):
        assert not manager.get_match(tokens)[1].any()
    silent_s = time.monotonic() - began
    manager.launch(task, fleet.slots(range(20, 28)))
    began = time.monotonic()
    answer = manager.wait(task, timeout=0.1)[task]
    assert answer.status is KVResponseStatus.TIMEOUT, "its blocks are not the caller's yet"
    answer = manager.wait(task, timeout=20)[task]
    assert answer.status is FAILED
    took = time.monotonic() - began
    assert first_s < 3, first_s
    assert silent_s < 2, "a hundred seconds, if each waited again for a silent sidecar"
    assert took < 10, "deadline 0.5 s, drain 0.5 s, and the kernel's time to end it"
    assert gone(pid), "a load that does not drain costs the sidecar its life"


def test_shutdown_amid_a_get_does_not_cost_the_sidecar_its_life(fleet: Fleet, address: str) -> None:
    manager = fleet.manager
    tokens = prompt(3, BLOCKS // 2)
    fleet.fill(tokens, range(BLOCKS // 2))
    put = a_put(fleet, tokens, range(BLOCKS // 2))
    assert manager.wait(put)[put].status is SUCCESS
    pid = server_pid(address)
    got = manager.get_async(tokens, fleet.slots(range(BLOCKS // 2, BLOCKS)))
    manager.shutdown()
    assert manager.wait(got, timeout=2)[got].status in (SUCCESS, FAILED)
    assert server_pid(address) == pid, "others may use it"


def test_session_breaks_amid_a_slow_get_the_next_one_takes_it_back(
    fleet: Fleet, address: str
) -> None:
    """The sidecar lives, and others use it: it is not killed for a broken connection."""
    manager, tokens = fleet.manager, prompt(8, 60)
    fleet.fill(tokens, range(60))
    put = a_put(fleet, tokens, range(60))
    assert manager.wait(put)[put].status is SUCCESS
    pid = status(address)["pid"]
    assert cli.main(["set", "--address", address, "load_limit_gb_s=0.02"]) == 0
    task = manager.get_async(tokens, fleet.slots(range(100, 160)))
    session = manager._link.session()
    assert session is not None
    assert manager.try_wait(task) == {}
    session._broken("a test", RuntimeError("broken"))
    began = time.monotonic()
    answer = manager.wait(task, timeout=20)[task]
    assert answer.status is FAILED
    assert time.monotonic() - began < 4, "before the time at which the sidecar would be killed"
    assert cli.main(["set", "--address", address, "load_limit_gb_s=0"]) == 0
    fleet.wait_ready()
    assert status(address)["pid"] == pid
    task = manager.get_async(tokens, fleet.slots(range(100, 160)))
    assert manager.wait(task)[task].status is SUCCESS
    fleet.check(tokens, range(100, 160))
    wait_for_no_leaks(address)


def test_put_that_is_far_too_late_is_disowned(
    fleet: Fleet, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets its blocks back while the sidecar is frozen; a later copy caches nothing."""
    monkeypatch.setattr("flexkv.transfers.SAVE_S", 0.3)
    manager = fleet.manager
    tokens = prompt(2, 8)
    fleet.fill(tokens, range(8))
    pid = server_pid(address)
    task, mask = manager.put_match(tokens)
    assert mask.all()
    os.kill(pid, signal.SIGSTOP)
    wait_until_stopped(pid)
    manager.launch(task, fleet.slots(range(8)))
    assert manager.wait(task, timeout=10)[task].status is FAILED
    fleet.wipe(range(8))  # they are the caller's again
    os.kill(pid, signal.SIGCONT)
    time.sleep(1.0)
    found, mask = manager.get_match(tokens)
    assert not mask.any(), "wiped bytes must not be cached"
    manager.cancel(found)
    wait_for_no_leaks(address)


def test_sidecar_frozen_by_a_test_does_not_outlive_it() -> None:
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        with sidecar_environment(Path(folder)) as address:
            server = KVServer.create_server(ModelConfig(), CacheConfig())
            pid = server_pid(address)
            os.kill(pid, signal.SIGSTOP)
            wait_until_stopped(pid)
        assert gone(pid)
        server.shutdown()


def test_put_that_finds_no_room_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the pool is promised to a matched get: what else is put is not cached, no more."""
    with own_sidecar(num_cpu_blocks=4, cpu_cache_gb=0.1) as address:
        fleet = Fleet.start(Shape("kv-first"), model="tight")
        try:
            manager = fleet.manager
            kept = list(range(4 * 16))
            fleet.fill(kept, range(4))
            put = manager.put_async(kept, fleet.slots(range(4)))
            assert manager.wait(put)[put].return_mask.sum() == len(kept)
            matched, mask = manager.get_match(kept)
            assert mask.all()
            other = [1000 + i for i in range(6 * 16)]
            put = manager.put_async(other, fleet.slots(range(10, 16)))
            answer = manager.wait(put)[put]
            assert answer.status is SUCCESS
            assert not answer.return_mask.any()
            manager.launch(matched, fleet.slots(range(20, 24)))
            assert manager.wait(matched)[matched].status is SUCCESS
            fleet.check(kept, range(20, 24))
            put = manager.put_async(other, fleet.slots(range(10, 16)))
            answer = manager.wait(put)[put]
            assert answer.status is SUCCESS
            assert answer.return_mask.sum() == 4 * 16, "what there is room for, from the first on"
            wait_for_no_leaks(address)
        finally:
            fleet.close()


def test_rank_goes_amid_a_get_and_comes_back(fleet: Fleet, address: str) -> None:
    manager = fleet.manager
    tokens = prompt(3, 60)
    fleet.fill(tokens, range(60))
    put = a_put(fleet, tokens, range(60))
    assert manager.wait(put)[put].status is SUCCESS
    task = manager.get_async(tokens, fleet.slots(range(100, 160)))
    fleet.ranks[0].client.suspend_gpu_mappings()
    answer = manager.wait(task, timeout=20)[task]
    assert answer.status in (SUCCESS, FAILED)
    deadline = time.monotonic() + 5
    while manager.is_ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    task, mask = manager.get_match(tokens)
    assert not mask.any()
    assert manager.wait(task)[task].status is SUCCESS
    fleet.ranks[0].client.register_to_server(
        fleet.ranks[0].tensors, BIG.layout(BLOCKS), resume=True
    )
    fleet.wait_ready()
    got = manager.get_async(tokens, fleet.slots(range(100, 160)))
    assert manager.wait(got)[got].status is SUCCESS
    fleet.check(tokens, range(100, 160))
    wait_for_no_leaks(address)


_CLIENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from kv_rig import Fleet
from test_kv_faults import BIG, BLOCKS, prompt
fleet = Fleet.start(BIG, model="killed", blocks=BLOCKS)
tokens = prompt(1, 90)
fleet.fill(tokens, range(90))
task = fleet.manager.put_async(tokens, fleet.slots(range(90)))
fleet.manager.wait(task)
matched = [fleet.manager.get_match(tokens)[0] for _ in range(5)]
print("ready", flush=True)
while True:
    fleet.manager.get_async(tokens, fleet.slots(range(100, 190)))
    fleet.manager.put_async(prompt(int(time.monotonic() * 1000), 20), fleet.slots(range(90, 110)))
    time.sleep(0.01)
"""


_FORKING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from kv_rig import Fleet, Shape
fleet = Fleet.start(Shape("kv-first"), model="forks")
tokens = list(range(32))
fleet.fill(tokens, [0, 1])
fleet.manager.wait(fleet.manager.put_async(tokens, fleet.slots([0, 1])))
fleet.manager.get_match(tokens)
child = os.fork()
if child == 0:
    assert not fleet.manager.is_ready(), "the child has no session"
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_client_that_forked_is_killed_and_its_child_keeps_nothing(address: str) -> None:
    tests = str(Path(__file__).parent)
    keep = Fleet.start(Shape("kv-first"), model="keep", client=9)
    process = subprocess.Popen(
        [sys.executable, "-c", _FORKING, tests], stdout=subprocess.PIPE, text=True
    )
    child = 0
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert status(address)["cache"]["leases"] == 1
        process.kill()
        process.wait()
        wait_for_no_leaks(address)
        assert len(status(address)["instances"]) == 1
        os.kill(child, 0)  # it lives
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        keep.close()


def test_client_killed_amid_transfers_leaves_nothing_and_can_come_back(address: str) -> None:
    tests = str(Path(__file__).parent)
    keep = Fleet.start(Shape("kv-first"), model="keep", client=9)  # the sidecar stays
    try:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", _CLIENT, tests], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.kill()
            process.wait()
            process.stdout.close()
            wait_for_no_leaks(address)
            names = [i["name"] for i in status(address)["instances"]]
            assert len(names) == 1, names
    finally:
        keep.close()
