"""What users of the Python API rely on, against the real sidecar on CPU memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kv_rig import Fleet, Shape, kill_sidecar, own_sidecar, status, wait_for_no_leaks
from real_sidecar import missing

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponseStatus
from flexkv.kvmanager import KVManager

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SUCCESS = KVResponseStatus.SUCCESS
SIZE = 16


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60) as found:
        yield found


@pytest.fixture
def fleet(address: str) -> Iterator[Fleet]:
    started = Fleet.start(Shape("kv-first"), model=uuid.uuid4().hex)
    try:
        yield started
        wait_for_no_leaks(address)
    finally:
        started.close()


def put(fleet: Fleet, tokens: list[int], blocks: list[int]) -> None:
    fleet.fill(tokens, blocks)
    task = fleet.manager.put_async(tokens, fleet.slots(blocks))
    assert fleet.manager.wait(task)[task].status is SUCCESS


# ---------------------------------------------------------------------- masks
def test_get_match_part_of_the_prefix_cached_masks_that_part(fleet: Fleet) -> None:
    tokens = list(range(5 * SIZE))
    put(fleet, tokens[: 3 * SIZE], [0, 1, 2])
    task, mask = fleet.manager.get_match(np.array(tokens))
    assert mask.dtype == bool
    assert mask.tolist() == [True] * 3 * SIZE + [False] * 2 * SIZE
    launched = fleet.manager.launch(task, fleet.slots([7, 8, 9, 10, 11]))  # slots for all of it
    assert launched == [task]
    answer = fleet.manager.wait(task)[task]
    assert answer.status is SUCCESS
    assert (answer.return_mask == mask).all()
    fleet.check(tokens, [7, 8, 9])
    assert not any(fleet.ranks[0].read(10)), "its block was not cached"


def test_get_match_nothing_cached_has_ended_at_once(fleet: Fleet) -> None:
    task, mask = fleet.manager.get_match(list(range(SIZE)))
    assert not mask.any()
    assert fleet.manager.try_wait(task)[task].status is SUCCESS
    fleet.manager.launch(task, fleet.slots([3]))
    fleet.manager.cancel(task)
    answer = fleet.manager.wait(task)[task]
    assert answer.status is SUCCESS
    assert not answer.return_mask.any()


def test_put_match_chain_longer_than_the_ring_is_asked_about_whole(fleet: Fleet) -> None:
    tokens = np.arange(40_000 * SIZE)  # 1.25 MiB of keys for a ring of 1 MiB
    task, mask = fleet.manager.put_match(tokens)
    assert mask.all()
    fleet.manager.cancel(task)


def test_put_match_begins_behind_what_is_cached(fleet: Fleet) -> None:
    tokens = list(range(4 * SIZE + 3))
    put(fleet, tokens[: 2 * SIZE], [0, 1])
    task, mask = fleet.manager.put_match(tokens)
    assert mask.tolist() == [False] * 2 * SIZE + [True] * 2 * SIZE + [False] * 3
    fleet.fill(tokens, [20, 21], first=2)
    fleet.manager.launch(task, fleet.slots([20, 21]))
    answer = fleet.manager.wait(task, completely=True)[task]
    assert answer.status is SUCCESS
    assert (answer.return_mask == mask).all()
    got = fleet.manager.get_async(tokens, fleet.slots([30, 31, 32, 33]))
    assert fleet.manager.wait(got)[got].return_mask.sum() == 4 * SIZE
    fleet.check(tokens, [30, 31, 32, 33])


def test_put_match_all_cached_has_ended_at_once(fleet: Fleet) -> None:
    tokens = list(range(2 * SIZE))
    put(fleet, tokens, [0, 1])
    task, mask = fleet.manager.put_match(tokens)
    assert not mask.any()
    assert fleet.manager.try_wait([task])[task].status is SUCCESS


def test_put_launched_with_slots_for_the_whole_prefix_saves_the_rest(fleet: Fleet) -> None:
    tokens = list(range(3 * SIZE))
    put(fleet, tokens[:SIZE], [0])
    fleet.fill(tokens, [5, 6, 7])
    task, mask = fleet.manager.put_match(tokens)
    assert mask.sum() == 2 * SIZE
    fleet.manager.launch([task], [fleet.slots([5, 6, 7])])
    assert fleet.manager.wait(task)[task].status is SUCCESS
    got = fleet.manager.get_async(tokens, fleet.slots([10, 11, 12]))
    assert fleet.manager.wait(got)[got].return_mask.all()
    fleet.check(tokens, [10, 11, 12])


@pytest.mark.parametrize("cached", [0, 10, 64, 65, 300])
def test_put_in_parts_behind_any_cached_prefix_saves_the_rest(address: str, cached: int) -> None:
    """The first blocks are on their way before the keys of the last are known."""
    blocks, shape = 330, Shape("kv-first", layers=1, kv_heads=1, block_tokens=4)
    many = Fleet.start(shape, model=uuid.uuid4().hex, blocks=2 * blocks)
    try:
        tokens = list(range(blocks * 4))
        source, target = range(blocks), range(blocks, 2 * blocks)
        many.fill(tokens, source)
        task = many.manager.put_async(tokens[: cached * 4], many.slots(source[:cached]))
        assert many.manager.wait(task)[task].status is SUCCESS
        task = many.manager.put_async(tokens, many.slots(source))
        answer = many.manager.wait(task)[task]
        assert answer.status is SUCCESS
        saved = [False] * cached * 4 + [True] * (blocks - cached) * 4
        assert answer.return_mask.tolist() == saved
        task = many.manager.get_async(tokens, many.slots(target))
        assert many.manager.wait(task)[task].return_mask.all()
        many.check(tokens, target)
        wait_for_no_leaks(address)
    finally:
        many.close()


def test_put_less_than_a_block_is_nothing(fleet: Fleet) -> None:
    task = fleet.manager.put_async(torch.arange(8), fleet.slots([0])[:8])
    answer = fleet.manager.wait([task])[task]
    assert answer.status is SUCCESS
    assert not answer.return_mask.any()


def test_namespaces_do_not_see_each_other(fleet: Fleet) -> None:
    tokens = list(range(SIZE))
    fleet.fill(tokens, [1])
    task = fleet.manager.put_async(tokens, fleet.slots([1]), namespace=["lora-a"])
    fleet.manager.wait(task)
    for namespace, hit in ((["lora-a"], True), (["lora-b"], False), (None, False)):
        task, mask = fleet.manager.get_match(tokens, namespace=namespace)
        assert mask.all() == hit, namespace
        fleet.manager.cancel(task)


# ---------------------------------------------------------------------- life of a task
def test_cancel_matched_frees_it_and_says_cancelled(fleet: Fleet, address: str) -> None:
    tokens = list(range(2 * SIZE))
    put(fleet, tokens, [0, 1])
    tasks = [fleet.manager.get_match(tokens)[0] for _ in range(3)]
    puts = [fleet.manager.put_match([9, *tokens])[0]]
    assert status(address)["cache"]["leases"] == 3
    assert fleet.manager.wait(tasks[0])[tasks[0]].status is KVResponseStatus.UNREADY
    assert fleet.manager.try_wait(tasks) == {
        t: fleet.manager.wait(t)[t] for t in tasks
    }  # matched only: said at once by both
    fleet.manager.cancel([*tasks, *puts, 12345])
    assert fleet.manager.wait(tasks[0])[tasks[0]].status is KVResponseStatus.CANCELLED
    wait_for_no_leaks(address)
    fleet.manager.launch(tasks[0], fleet.slots([4, 5]))  # has ended: nothing happens
    assert not any(fleet.ranks[0].read(4))


def test_wait_unknown_task_is_not_found(fleet: Fleet) -> None:
    answer = fleet.manager.wait([77, 78], timeout=5)
    assert {a.status for a in answer.values()} == {KVResponseStatus.NOTFOUND}
    assert answer[77].return_mask is None


def test_wait_again_answers_again(fleet: Fleet) -> None:
    task = fleet.manager.put_async(list(range(SIZE)), fleet.slots([0]))
    first = fleet.manager.wait(task)[task]
    second = fleet.manager.wait(task)[task]
    assert first.status is second.status is SUCCESS
    assert (first.return_mask == second.return_mask).all()


def test_wait_zero_says_timeout_and_the_task_runs_on(fleet: Fleet) -> None:
    tokens = list(range(48 * SIZE))
    fleet.fill(tokens, list(range(48)))
    task = fleet.manager.put_async(tokens, fleet.slots(range(48)))
    first = fleet.manager.wait(task, timeout=0.0)[task]
    assert first.status in (KVResponseStatus.TIMEOUT, SUCCESS)
    assert fleet.manager.wait(task)[task].status is SUCCESS


@pytest.mark.parametrize("kind", ["get", "put"])
def test_launch_as_batch_merges_tasks_into_one(fleet: Fleet, kind: str) -> None:
    prompts = [[p] * SIZE for p in range(1, 5)]
    if kind == "get":
        for block, prompt in enumerate(prompts[:3]):
            put(fleet, prompt, [block])
    match = fleet.manager.get_match if kind == "get" else fleet.manager.put_match
    for block, prompt in enumerate(prompts):
        if kind == "put":
            fleet.fill(prompt, [10 + block])
    tasks = [match(prompt)[0] for prompt in prompts]
    batch = fleet.manager.launch(tasks, [fleet.slots([10 + b]) for b in range(4)], as_batch=True)
    assert len(batch) == 1
    assert batch[0] not in tasks
    answer = fleet.manager.wait(batch)[batch[0]]
    assert answer.status is SUCCESS
    hits = [True, True, True, kind == "put"]
    assert [bool(mask.all()) for mask in answer.return_mask] == hits
    for task in tasks:
        assert fleet.manager.wait(task)[task].status is KVResponseStatus.NOTFOUND
    if kind == "get":
        for block, prompt in enumerate(prompts[:3]):
            fleet.check(prompt, [10 + block])


def test_launch_wrong_is_named_and_starts_nothing(fleet: Fleet, address: str) -> None:
    tokens = list(range(2 * SIZE))
    put(fleet, tokens, [0, 1])
    get, _ = fleet.manager.get_match(tokens)
    new, _ = fleet.manager.put_match([5] * SIZE)
    launch = fleet.manager.launch
    with pytest.raises(ValueError, match="has 1 full blocks, must have the 2"):
        launch(get, fleet.slots([3]))
    with pytest.raises(ValueError, match="GPU block twice"):
        launch(get, fleet.slots([3, 3]))
    with pytest.raises(ValueError, match="task 999 is not known"):
        launch(999, fleet.slots([3]))
    with pytest.raises(ValueError, match="2 tasks and 1 slot mappings"):
        launch([get, new], [fleet.slots([3])])
    with pytest.raises(ValueError, match="all of them gets or all of them puts"):
        launch([get, new], [fleet.slots([3, 4]), fleet.slots([5])], as_batch=True)
    with pytest.raises(ValueError, match="must begin at token 0"):
        fleet.manager.put_match(tokens, [False] * SIZE + [True] * SIZE)
    launch([get, new], [fleet.slots([3, 4]), fleet.slots([5])])
    with pytest.raises(ValueError, match=r"must be matched only|is running"):
        launch(get, fleet.slots([3, 4]))
    answers = fleet.manager.wait([get, new])
    assert {a.status for a in answers.values()} == {SUCCESS}
    fleet.check(tokens, [3, 4])


def test_put_from_blocks_that_no_rank_has_caches_nothing_and_is_told_in_the_log(
    fleet: Fleet, address: str
) -> None:
    tokens = list(range(2 * SIZE))
    task = fleet.manager.put_async(tokens, fleet.slots([0, 100_000]))
    assert not fleet.manager.wait(task)[task].return_mask.any()
    log = Path(status(address)["log_file"])
    assert "FAILED block 100000, the layout has 0 to" in log.read_text()
    put(fleet, tokens, [0, 1])  # and the next one is as good as ever
    fleet.check(tokens, [0, 1])


def test_get_into_a_block_that_a_put_still_reads_caches_nothing_wrong(fleet: Fleet) -> None:
    """The put's block is no longer what it was: it is dropped, not saved with mixed bytes."""
    old, new = [1] * SIZE, [2] * SIZE
    put(fleet, new, [0])
    for _ in range(20):
        fleet.manager.wait(fleet.manager.put_async(new, fleet.slots([0])))
        fleet.fill(old, [9])
        task = fleet.manager.put_async(old, fleet.slots([9]))
        got = fleet.manager.get_async(new, fleet.slots([9]))
        fleet.manager.wait([task, got])
        fleet.check(new, [9])
        seen = fleet.manager.get_async(old, fleet.slots([12]))
        if fleet.manager.wait(seen)[seen].return_mask.any():
            fleet.check(old, [12])
        fleet.manager.reset()
        put(fleet, new, [0])


def test_reset_forgets_all(fleet: Fleet) -> None:
    tokens = list(range(2 * SIZE))
    put(fleet, tokens, [0, 1])
    matched, mask = fleet.manager.get_match(tokens)
    assert mask.all()
    fleet.manager.reset()
    assert fleet.manager.wait(matched)[matched].status is KVResponseStatus.FAILED
    assert not fleet.manager.get_match(tokens)[1].any()
    put(fleet, tokens, [0, 1])
    again, mask = fleet.manager.get_match(tokens)
    assert mask.all()
    fleet.manager.cancel(again)


def test_prefetch_counts_what_the_host_tier_has(fleet: Fleet) -> None:
    tokens = list(range(3 * SIZE))
    put(fleet, tokens[: 2 * SIZE], [0, 1])
    task = fleet.manager.prefetch_async(tokens)
    answer = fleet.manager.wait(task)[task]
    assert answer.status is SUCCESS
    assert answer.return_mask.sum() == 2 * SIZE


def test_tasks_never_launched_are_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexkv.kvtask.MAX_OPEN_TASKS", 4)
    tokens = list(range(SIZE))
    put(fleet, tokens, [0])
    tasks = [fleet.manager.get_match(tokens)[0] for _ in range(6)]
    statuses = [fleet.manager.wait(t)[t].status for t in tasks]
    assert statuses == [KVResponseStatus.CANCELLED] * 2 + [KVResponseStatus.UNREADY] * 4
    fleet.manager.cancel(tasks)


def test_threads_take_turns(fleet: Fleet) -> None:
    """Each thread has its own blocks and prompts; all share one manager."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = [4 * number + i for i in range(4)]
            for turn in range(15):
                tokens = [number * 1000 + turn] * (2 * SIZE)
                fleet.fill(tokens, mine[:2])
                task = fleet.manager.put_async(tokens, fleet.slots(mine[:2]))
                assert fleet.manager.wait(task)[task].status is SUCCESS
                task = fleet.manager.get_async(tokens, fleet.slots(mine[2:]))
                assert fleet.manager.wait(task)[task].return_mask.all()
                fleet.check(tokens, mine[2:])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors


# ---------------------------------------------------------------------- several managers
def test_different_models_share_one_sidecar_with_their_bytes_apart(address: str) -> None:
    tokens = list(range(2 * SIZE))
    one = Fleet.start(Shape("kv-first"), model="one", client=1)
    two = Fleet.start(Shape("kv-first"), model="two", client=2)
    small = Fleet.start(Shape("kv-first", block_tokens=8, layers=1), model="one", client=3)
    try:
        put(one, tokens, [0, 1])
        assert not two.manager.get_match(tokens)[1].any()
        assert not small.manager.get_match(tokens)[1].any()
        put(small, tokens, [0, 1, 2, 3])
        for fleet, blocks in ((one, [10, 11]), (small, [10, 11, 12, 13])):
            got = fleet.manager.get_async(tokens, fleet.slots(blocks))
            assert fleet.manager.wait(got)[got].return_mask.all()
            fleet.check(tokens, blocks)
    finally:
        for fleet in (one, two, small):
            fleet.close()


def test_second_manager_of_one_id_is_not_ready_until_the_first_ends(address: str) -> None:
    first = Fleet.start(Shape("kv-first"), model="twice", client=30)
    twin = KVManager(Shape("kv-first").model("twice"), CacheConfig(), dp_client_id=30)
    try:
        twin.start()
        time.sleep(0.3)
        assert not twin.is_ready()
        first.manager.shutdown()
        deadline = time.monotonic() + 10
        while not twin.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        first.close()
        twin.shutdown()


def test_launch_one_task_named_twice_is_refused_and_starts_nothing(fleet: Fleet) -> None:
    tokens = list(range(2 * SIZE))
    put(fleet, tokens, [0, 1])
    task, mask = fleet.manager.get_match(tokens)
    assert mask.all()
    with pytest.raises(ValueError, match="named twice"):
        fleet.manager.launch([task, task], [fleet.slots([2, 3]), fleet.slots([4, 5])])
    assert fleet.manager.wait(task)[task].status is KVResponseStatus.UNREADY
    fleet.manager.cancel(task)


def test_no_sidecar_matches_nothing_and_puts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_SERVER_LAUNCH_MODE", "external")
    manager = KVManager(ModelConfig(), CacheConfig(), server_recv_port=f"ipc://{tmp_path}/nobody")
    manager.start()
    try:
        assert not manager.is_ready()
        task, mask = manager.get_match(list(range(SIZE)))
        assert not mask.any()
        assert manager.wait(task)[task].status is SUCCESS
        task = manager.put_async(list(range(SIZE)), np.arange(SIZE))
        assert manager.wait(task)[task].status is KVResponseStatus.FAILED
        manager.reset()
    finally:
        manager.shutdown()


def test_import_brings_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, flexkv.kvmanager, flexkv.common.config, flexkv.common.storage, "
        "flexkv.server.client, flexkv.server.server, flexkv.common.memory_handle; "
        "heavy = {'torch', 'numpy', 'vllm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_log_lines_begin_with_the_prefix() -> None:
    code = (
        "from flexkv.common.config import CacheConfig, ModelConfig\n"
        "from flexkv.kvmanager import KVManager\n"
        "KVManager(ModelConfig(), CacheConfig(use_gds=True), server_recv_port='ipc:///tmp/x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "FLEXKV_LOGGING_PREFIX": "tier:"},
    )  # fmt: skip
    assert done.stderr.startswith("tier:INFO")


def test_unused_settings_are_said_in_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flexkv")
    config = CacheConfig(use_ce_transfer_h2d=True, enable_gds=True, redis_password="secret")
    KVManager(ModelConfig(), config, server_recv_port=f"ipc://{tmp_path}/s")
    lines = [r.message for r in caplog.records if "has no effect here" in r.message]
    assert len(lines) == 2
    assert "secret" not in repr(config)


def test_server_starts_one_and_lets_it_go(tmp_path: Path) -> None:
    from flexkv.server.server import KVServer

    with own_sidecar() as address:
        server = KVServer.create_server(ModelConfig(), CacheConfig(), inherit_env=False)
        deadline = time.monotonic() + 10
        while not status(address)["sessions"]:  # the cache thread lists them a moment later
            assert time.monotonic() < deadline
        server.shutdown()
        kill_sidecar(address.removeprefix("ipc://"))
