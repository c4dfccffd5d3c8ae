"""Rules of saving that no interleaving shows alone, because others stand in front of them."""

from __future__ import annotations

import itertools
from array import array
from types import SimpleNamespace
from typing import Any

from memory_sidecar import FakeGenerations, FakeLink, FakeSidecar
from mini_vllm import Request, Worker

from flexkv.blocks import BlockTable
from flexkv.metadata import AFTER_FORWARD
from flexkv.protocol import Extend, PlanSave
from flexkv.requests import OpenLoad, RequestState
from flexkv.saves import SavePlanner
from flexkv.scheduler import SchedulerFacts, SchedulerSide


class Session:
    session_id, boot_epoch, server_pid = 1, 2, 3

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, *records: Any) -> bool:
        self.sent += records
        return True


def planner() -> tuple[SavePlanner, BlockTable, RequestState]:
    table = BlockTable(FakeGenerations(10), 10)
    request = SimpleNamespace(num_computed_tokens=0, block_hashes=[b"h" * 16] * 3)
    state = RequestState(1, "r", request, blocks=array("I", [1, 2, 3]), known=3)
    state.held_at = table.generations(state.blocks)
    return SavePlanner(4, table, lambda session: 77), table, state


def intact(table: BlockTable, block: int) -> bool:
    """Whether a request that got the block now would find bytes in it that we saw written."""
    return table.intact_prefix([block], table.generations([block]), 0, 1) == 1


def plan(saves: SavePlanner, state: RequestState, tokens: int) -> int:
    return len(saves.plan(Session(), state, tokens, AFTER_FORWARD))  # type: ignore[arg-type]


def test_filled_blocks_are_planned_once() -> None:
    saves, _, state = planner()
    saves.mark_filled(state, 12)
    assert plan(saves, state, 12) == 1
    assert plan(saves, state, 12) == 0


class NarrowSession(Session):
    """Has room for so many keys until somebody reads."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = self.free = room

    def send(self, *records: Any) -> bool:
        keys = sum(len(r.hashes) // r.hash_bytes for r in records if isinstance(r, Extend))
        if keys > self.free:
            return False
        self.free -= keys
        return super().send(*records)


def test_chain_longer_than_the_ring_goes_in_several_steps_and_is_saved() -> None:
    count = 40_000
    table = BlockTable(FakeGenerations(count + 1), count + 1)
    request = SimpleNamespace(num_computed_tokens=0, block_hashes=[b"h" * 32] * count)
    state = RequestState(1, "r", request, blocks=array("I", range(1, count + 1)), known=count)
    state.held_at = table.generations(state.blocks)
    saves = SavePlanner(4, table, lambda session: 77)
    saves.mark_filled(state, 4 * count)
    session = NarrowSession(3 * 4096)
    steps = 0
    while not plan_to(saves, session, state, 4 * count):
        assert state.saved == 0
        session.free = session.room  # the sidecar has read
        steps += 1
        assert steps < 10
    assert steps == 3
    sent = [record for record in session.sent if isinstance(record, Extend)]
    assert [record.first_index for record in sent] == list(range(0, count, 4096))
    assert sum(len(r.block_ids) for r in session.sent if isinstance(r, PlanSave)) == count


def plan_to(saves: SavePlanner, session: Session, state: RequestState, tokens: int) -> int:
    return len(saves.plan(session, state, tokens, AFTER_FORWARD))  # type: ignore[arg-type]


def test_block_computed_over_a_stale_one_never_counts_as_filled() -> None:
    saves, table, state = planner()
    state.request.num_computed_tokens = 4
    saves.mark_filled(state, 8)
    assert not intact(table, 2)
    assert not intact(table, 3)


def test_request_with_an_open_load_is_not_saved() -> None:
    saves, _, state = planner()
    saves.mark_filled(state, 12)
    state.load = OpenLoad(5, 0)
    assert plan(saves, state, 12) == 0


def test_null_block_is_never_intact_and_never_counted() -> None:
    generations = FakeGenerations(4)
    table = BlockTable(generations, 4)
    table.assigned([0, 1])
    table.filled([0, 1])
    assert generations.values == [0, 1, 0, 0]
    assert not intact(table, 0)


def test_last_save_put_off_does_not_take_the_next_owners_bytes() -> None:
    """A rank registers late: blocks 2 and 3 are another request's, and filled, by then."""
    saves, table, state = planner()
    saves.mark_filled(state, 12)
    table.assigned([2, 3])
    table.filled([2, 3])
    session = Session()
    jobs = saves.plan_finished(session, state, 12)  # type: ignore[arg-type]
    assert len(jobs) == 1
    assert tuple(session.sent[-1].block_ids) == (1,)


class Output:
    """A step: tokens of each request, and blocks that running requests got."""

    preempted_req_ids: frozenset[str] = frozenset()

    def __init__(self, tokens: dict[str, int], **new: list[int]) -> None:
        self.num_scheduled_tokens = tokens
        self.scheduled_cached_reqs = SimpleNamespace(
            req_ids=list(new), new_block_ids=[(ids,) for ids in new.values()], resumed_req_ids=set()
        )


def test_block_that_changed_hands_unseen_is_never_saved_as_its_first_owners() -> None:
    """As a sliding window frees blocks of a request that runs on; the next owner fills one.

    The first owner's saves begin anew with every sidecar, from its first block.
    """
    link = FakeLink(FakeGenerations(32))
    side = SchedulerSide(SchedulerFacts(4, 32), link)

    def attach() -> FakeSidecar:
        sidecar = FakeSidecar()
        link.present = sidecar.open_scheduler(link.generations)
        sidecar.open_worker(0, Worker(0, 32, 4))
        return sidecar

    def admit(name: str, ids: list[int], tokens: int) -> Request:
        request = Request(name, [ord(name)] * tokens, 9, block_tokens=4)
        request.update_hashes()
        side.on_new_request(request)
        assert side.get_num_new_matched_tokens(request, 0) == (0, False)
        side.update_state_after_alloc(request, ids, 0)
        return request

    def step(request: Request, tokens: int, **new: list[int]) -> None:
        side.build_connector_meta(Output({request.request_id: tokens}, **new))
        request.num_computed_tokens += tokens

    def saved(sidecar: FakeSidecar, request: Request) -> list[int]:
        number = side._states[request.request_id].number
        plans = [j.record for j in sidecar.jobs.values() if j.record.request_id == number]
        return [block for plan in plans for block in plan.block_ids]

    sidecar = attach()
    first = admit("a", list(range(1, 9)), 33)
    step(first, 32)
    assert saved(sidecar, first) == list(range(1, 9))
    second = admit("b", [10], 9)
    step(second, 3)
    step(second, 5, b=[1])  # block 1 was the first request's
    sidecar.kill()
    sidecar = attach()
    step(first, 1)
    step(first, 1)
    assert saved(sidecar, first) == []
    step(second, 1)
    assert saved(sidecar, second) == [10, 1], "its present owner's"


def test_hit_that_changed_hands_while_its_load_was_open_is_not_the_requests_any_more() -> None:
    """A hit counts as of its own step, whatever is allocated behind it later."""
    link = FakeLink(FakeGenerations(32))
    side = SchedulerSide(SchedulerFacts(4, 32), link)
    sidecar = FakeSidecar()
    link.present = sidecar.open_scheduler(link.generations)
    sidecar.open_worker(0, Worker(0, 32, 4))

    def admit(name: str, ids: list[int], tokens: int, local: int) -> Request:
        request = Request(name, list(range(tokens)), 9, block_tokens=4)
        request.update_hashes()
        side.on_new_request(request)
        assert side.get_num_new_matched_tokens(request, local) == (0, False)
        side.update_state_after_alloc(request, ids, 0)
        return request

    def step(request: Request, tokens: int, **new: list[int]) -> None:
        side.build_connector_meta(Output({request.request_id: tokens}, **new))
        request.num_computed_tokens += tokens

    first = admit("a", [1], 30, local=0)
    step(first, 4)
    second = admit("b", [1, 2, 3], 13, local=8)
    step(first, 4, a=[2])  # which the second request hits
    second.num_computed_tokens = 8
    step(first, 4, a=[4])
    step(first, 4, a=[2])
    side.update_state_after_alloc(second, [1, 2, 3, 5], 0)
    sidecar.jobs.clear()
    step(second, 5)
    step(second, 1)
    assert [list(job.record.block_ids) for job in sidecar.jobs.values()] == [[1]]


def test_last_save_put_off_is_whole_if_nobody_took_the_blocks() -> None:
    saves, _, state = planner()
    saves.mark_filled(state, 12)
    session = Session()
    saves.plan_finished(session, state, 12)  # type: ignore[arg-type]
    assert tuple(session.sent[-1].block_ids) == (1, 2, 3)


def test_nothing_to_do_says_so_only_where_nothing_is_planned_or_filled() -> None:
    """Against the whole way, over every place of a request in its blocks."""
    skipped = 0
    for computed, tokens, saved, resident, no_save in itertools.product(
        range(13), range(1, 9), range(4), range(4), (False, True)
    ):
        saves, table, state = planner()
        saves.mark_filled(state, 12)
        state.request.num_computed_tokens = computed
        state.saved, state.resident, state.no_save = saved, resident, no_save
        table.assigned([3])
        before = table._filled_at[:]
        if not saves.nothing_to_do(state, tokens):
            continue
        skipped += 1
        assert plan(saves, state, computed) == 0
        saves.mark_filled(state, tokens)
        assert table._filled_at == before
        assert plan(saves, state, computed + tokens) == 0
    assert skipped > 500


def test_nothing_to_do_decoding_within_a_block_is_skipped() -> None:
    saves, _, state = planner()
    state.request.num_computed_tokens, state.saved = 9, 2
    assert saves.nothing_to_do(state, 1)
    assert not saves.nothing_to_do(state, 3), "completes a block"
    state.saved = 1
    assert not saves.nothing_to_do(state, 1), "an older block waits for its plan"
    state.resident = 2
    assert saves.nothing_to_do(state, 1)
