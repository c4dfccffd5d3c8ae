"""Tiers become smaller and larger while two managers put and get: never other bytes."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kv_rig import Fleet, Shape, own_sidecar, sidecar_environment, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv import cli
from flexkv.common.request import KVResponseStatus

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SHAPE = Shape("kv-first", layers=8, head_size=32)
"""64 KiB a block: the least tier has some 150."""

BLOCKS, DEPTH, PROMPTS, STEPS = 64, 24, 40, 250
BEGIN_GB = 0.03


@pytest.fixture
def address() -> Iterator[str]:
    with own_sidecar(cpu_cache_gb=BEGIN_GB, idle_exit_s=60) as found:
        yield found


def resize(address: str, gigabytes: float) -> int:
    return cli.main(["set", "--address", address, f"cpu_cache_gb={gigabytes}"])


def wait_for(what: Callable[[], bool], address: str) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, status(address)
        time.sleep(0.02)


def settled(address: str) -> bool:
    return int(status(address)["pool"]["to_give_back"]) == 0


def tokens_of(prompt: int) -> list[int]:
    """Pairs of prompts share their first half."""
    half = DEPTH // 2 * SHAPE.block_tokens
    return [prompt // 2 * 1_000_000 + i for i in range(half)] + [
        prompt * 1_000_000 + 500_000 + i for i in range(half)
    ]


def put(fleet: Fleet, prompt: int) -> None:
    tokens = tokens_of(prompt)
    fleet.fill(tokens, range(DEPTH))
    task = fleet.manager.put_async(tokens, fleet.slots(range(DEPTH)))
    assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS


def get(fleet: Fleet, prompt: int) -> int:
    """Gets what there is, compares it, and returns how many blocks it was."""
    tokens = tokens_of(prompt)
    task, mask = fleet.manager.get_match(tokens)
    blocks = int(mask.sum()) // SHAPE.block_tokens
    if blocks == 0:
        fleet.manager.cancel(task)
        return 0
    target = range(32, 32 + blocks)
    fleet.wipe(target)
    fleet.manager.launch(task, fleet.slots(target))
    assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS
    fleet.check(tokens, target)
    return blocks


def test_resize_between_puts_and_gets_of_two_managers_brings_the_right_bytes(address: str) -> None:
    rng = random.Random(6)
    fleets = [Fleet.start(SHAPE, model="resize", blocks=BLOCKS, client=i) for i in range(2)]
    seen = {"blocks": 0, "smaller": 0, "larger": 0}
    size = BEGIN_GB
    try:
        for _ in range(STEPS):
            fleet, draw = rng.choice(fleets), rng.random()
            if draw < 0.1:
                wanted = rng.choice([0.01, 0.012, 0.02, 0.03, 0.06])
                if resize(address, wanted) == 0:  # else memory is on its way back
                    seen["smaller" if wanted < size else "larger"] += 1
                    size = wanted
            elif draw < 0.5:
                put(fleet, rng.randrange(PROMPTS))
            else:
                seen["blocks"] += get(fleet, rng.randrange(PROMPTS))
        wait_for(lambda: settled(address), address)
        cache = status(address)["cache"]
        assert cache["used_bytes"] <= cache["capacity_bytes"] <= size * 1e9
        wait_for_no_leaks(address)
    finally:
        for fleet in fleets:
            fleet.close()
    assert min(seen.values()) > 5, seen


def test_smaller_tier_gives_memory_back_and_a_larger_one_holds_more(address: str) -> None:
    assert resize(address, 0.4) == 1, "nobody is there yet"
    fleet = Fleet.start(SHAPE, model="memory", blocks=BLOCKS)
    pid = int(status(address)["pid"])

    def resident() -> int:
        fields = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1]
        return int(fields.split()[0]) * 1024

    try:
        assert resize(address, 0.5) == 0
        for prompt in range(20):
            put(fleet, prompt)
        wait_for(lambda: status(address)["pool"]["bytes"] >= 490_000_000, address)
        large = resident()
        assert [get(fleet, prompt) for prompt in range(20)] == [DEPTH] * 20, "nothing was lost"
        assert resize(address, 0.01) == 0
        wait_for(lambda: settled(address), address)
        wait_for(lambda: large - resident() > 400_000_000, address)
        assert sum(get(fleet, prompt) for prompt in range(20)) in range(20, 300), "of 480"
        assert resize(address, 0.02) == 0
        put(fleet, 30)
        assert get(fleet, 30) == DEPTH
    finally:
        fleet.close()


def test_block_under_lease_outlives_the_smaller_tier(address: str) -> None:
    fleet = Fleet.start(SHAPE, model="lease", blocks=BLOCKS)
    try:
        for prompt in range(20):
            put(fleet, prompt)
        task, mask = fleet.manager.get_match(tokens_of(19))
        assert mask.all()
        assert resize(address, 0.01) == 0
        time.sleep(2.5)
        assert not settled(address), "the match holds its blocks"
        fleet.manager.launch(task, fleet.slots(range(32, 32 + DEPTH)))
        assert fleet.manager.wait(task)[task].status is KVResponseStatus.SUCCESS
        fleet.check(tokens_of(19), range(32, 32 + DEPTH))
        wait_for(lambda: settled(address), address)
    finally:
        fleet.close()


def test_smaller_tier_without_any_engine_is_emptied_to_the_ssd() -> None:
    """Nothing but the change itself keeps the sidecar awake then."""
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(
            Path(folder), cpu_cache_gb=0.1, idle_exit_s=60, ssd_cache_gb=0.2,
            ssd_cache_dir=f"{folder}/ssd", ssd_write_policy="on_evict",
        ) as address,
    ):  # fmt: skip
        fleet = Fleet.start(SHAPE, model="alone", blocks=BLOCKS)
        for prompt in range(20):
            put(fleet, prompt)
        fleet.close()
        assert resize(address, 0.01) == 0
        time.sleep(5)
        found = status(address)
        assert found["pool"]["to_give_back"] == 0
        assert found["cache"]["host_blocks"] <= 160
        assert found["ssd"]["blocks"] >= 200, "of 360, what the smaller queue had room for"


def set_ssd(address: str, gigabytes: float) -> int:
    return cli.main(["set", "--address", address, f"ssd_cache_gb={gigabytes}"])


def test_resize_of_the_ssd_tier_between_puts_and_gets_brings_the_right_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a host tier of 64 blocks most comes from the disk; a start with less keeps its front."""
    rng = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        options: dict[str, object] = {
            "num_cpu_blocks": 64, "cpu_cache_gb": 0.1, "idle_exit_s": 60,
            "ssd_cache_dir": f"{folder}/ssd",
        }  # fmt: skip
        with sidecar_environment(Path(folder), ssd_cache_gb=0.04, **options) as address:
            fleets = [Fleet.start(SHAPE, model="disk", blocks=BLOCKS, client=i) for i in range(2)]
            seen = {"blocks": 0, "smaller": 0, "larger": 0}
            size = 0.04
            for _ in range(STEPS // 2):
                fleet, draw = rng.choice(fleets), rng.random()
                if draw < 0.15:
                    wanted = rng.choice([0.02, 0.03, 0.06, 0.08])
                    if set_ssd(address, wanted) == 0:  # else files are being cut
                        seen["smaller" if wanted < size else "larger"] += 1
                        size = wanted
                elif draw < 0.5:
                    put(fleet, rng.randrange(PROMPTS))
                else:
                    seen["blocks"] += get(fleet, rng.randrange(PROMPTS))
            capsys.readouterr()
            assert set_ssd(address, 900_000) == 1
            assert "ssd_cache_gb stays as it is: SSD directory" in capsys.readouterr().err
            wait_for(lambda: set_ssd(address, 0.06) == 0, address)
            wait_for(lambda: int(status(address)["ssd"]["to_give_back"]) == 0, address)
            ssd = status(address)["ssd"]
            assert ssd["used_bytes"] <= ssd["capacity_bytes"] == 60_000_000
            assert sum(f.stat().st_size for f in Path(folder, "ssd").iterdir()) <= 60_000_000
            assert ssd["io"]["corrupt_blocks"] == 0
            wait_for_no_leaks(address)
            for fleet in fleets:
                fleet.close()
            assert min(seen.values()) > 3, seen
        with sidecar_environment(Path(folder), ssd_cache_gb=0.03, **options) as address:
            fleet = Fleet.start(SHAPE, model="disk", blocks=BLOCKS)
            wait_for(lambda: int(status(address)["ssd"]["adopted_blocks"]) > 100, address)
            assert sum(get(fleet, prompt) for prompt in range(PROMPTS)) > 100
            assert sum(f.stat().st_size for f in Path(folder, "ssd").iterdir()) <= 30_000_000
            fleet.close()


def test_ssd_tier_that_is_not_there_is_not_made(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet.start(SHAPE, model="none", blocks=BLOCKS)
    try:
        assert set_ssd(address, 0.1) == 1
        assert "this sidecar has no SSD tier: restart it" in capsys.readouterr().err
    finally:
        fleet.close()


def test_larger_than_the_machine_is_refused(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet.start(SHAPE, model="refused", blocks=BLOCKS)
    try:
        assert resize(address, 900_000) == 1
        said = capsys.readouterr().err
        assert "cpu_cache_gb stays as it is: the host pool is to have 900000.0 GB" in said
        assert status(address)["cache"]["capacity_bytes"] <= BEGIN_GB * 1e9
    finally:
        fleet.close()
