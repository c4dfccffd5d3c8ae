"""What older vLLM leaves to us: blocks of aborted loads, and room for those that are parked."""

from __future__ import annotations

import pytest
from mini_vllm import FINISHED, LOADING
from rig import BLOCK, Rig, prompt

from flexkv.older_vllm import IdFilter, Parking, whole_table


def loading(**more: object) -> Rig:
    """An engine of those versions with one load open, of which nothing has been copied yet."""
    rig = Rig(older=True, blocks=16, **more)  # type: ignore[arg-type]
    rig.serve("a", prompt(5 * BLOCK + 1))
    rig.drop_engine_cache()
    rig.start_load("b", prompt(5 * BLOCK + 1))
    return rig


def test_abort_blocks_of_the_open_load_are_kept_until_it_has_ended() -> None:
    rig = loading()
    held = list(rig.engine.requests["b"].blocks)
    rig.engine.abort("b")
    assert rig.engine.requests["b"].status == FINISHED
    rig.add("c", prompt(11 * BLOCK, 1), max_new=6)  # wants blocks that the load still writes
    rig.steps(3, copies=False)
    assert not set(held) & set(rig.engine.pool.free)
    rig.run()
    rig.check_clean()


@pytest.mark.parametrize("ranks", [1, 2])
def test_abort_load_fails_with_its_sidecar_blocks_come_back(ranks: int) -> None:
    rig = loading(ranks=ranks)
    rig.engine.abort("b")
    rig.sidecar.kill()
    rig.run()
    rig.restart()
    assert rig.serve("d", prompt(5 * BLOCK + 1, 2)) == 0
    rig.check_clean()


def test_abort_one_rank_had_reported_before_both_name_it_as_sent() -> None:
    rig = loading(ranks=2)
    job, rank = next(part for part in rig.sidecar.copies() if part[1] == 0)
    while (job, rank) in rig.sidecar.copies():
        rig.sidecar.copy_some(job, rank, 8)
    rig.steps(2, copies=False)  # rank 0 names it as received, rank 1 still waits
    assert rig.engine.recving_left == {"b": 1}
    rig.engine.abort("b")
    rig.steps(1, copies=False)
    assert rig.engine.sending_left == {"b": 1}
    rig.run()
    rig.check_clean()


@pytest.mark.parametrize("ranks", [1, 2])
def test_abort_the_word_is_in_an_output_in_flight_the_next_of_that_id_waits_for_its_own_load(
    ranks: int,
) -> None:
    rig = loading(ranks=ranks)
    rig.engine.reports_at_launch = True
    rig.sidecar.run_copies()
    rig.engine.execute(rig.engine.schedule())  # every rank names it as received
    rig.engine.abort("b")
    rig.engine.update()
    assert not rig.engine.received
    rig.run()
    rig.check_clean()
    rig.engine.reports_at_launch = False
    rig.drop_engine_cache()
    again = rig.start_load("b", prompt(5 * BLOCK + 1))
    rig.steps(3, copies=False)
    assert again.status == LOADING, "the earlier request's word was taken for its own"
    rig.run()
    rig.check_clean()


def test_abort_one_rank_had_reported_before_the_next_of_that_id_waits_for_every_rank() -> None:
    rig = loading(ranks=2)
    job, rank = next(part for part in rig.sidecar.copies() if part[1] == 0)
    rig.sidecar.copy_some(job, rank, 8)
    rig.steps(2, copies=False)
    assert rig.engine.recving_left == {"b": 1}
    rig.engine.abort("b")
    rig.run()
    rig.drop_engine_cache()
    again = rig.start_load("b", prompt(5 * BLOCK + 1))
    job, rank = next(part for part in rig.sidecar.copies() if part[1] == 0)
    rig.sidecar.copy_some(job, rank, 8)
    rig.steps(3, copies=False)
    assert again.status == LOADING, "one rank has yet to load"
    rig.run()
    rig.check_clean()


def test_abort_between_the_load_and_its_step_the_next_of_that_id_is_computed() -> None:
    """vLLM would take a load of that id for complete before it has begun."""
    rig = loading()
    rig.sidecar.run_copies()
    rig.steps(1)
    assert rig.engine.received == {"b"}
    rig.engine.abort("b")
    rig.run()
    rig.drop_engine_cache()
    assert rig.engine.received == {"b"}, "this vLLM forgets by itself: nothing to make up for"
    assert rig.serve("b", prompt(5 * BLOCK + 1)) == 0
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(5 * BLOCK + 1)) == 5 * BLOCK
    rig.check_clean()


@pytest.mark.parametrize("fails", [False, True], ids=["loaded", "failed"])
def test_request_runs_after_its_load_the_next_of_that_id_is_loaded(fails: bool) -> None:
    rig = loading()
    if fails:
        rig.restart()
    rig.run()
    assert "b" not in rig.hooks._kept.remembered  # type: ignore[union-attr]
    rig.serve("d", prompt(5 * BLOCK + 1, 3))
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(5 * BLOCK + 1, 3)) == 5 * BLOCK
    rig.check_clean()


def test_filter_knows_what_was_added_and_hardly_anything_else() -> None:
    known = IdFilter()
    assert "r0" not in known
    for i in range(20_000):
        known.add(f"r{i}")
    assert all(f"r{i}" in known for i in range(20_000))
    assert sum(f"other{i}" in known for i in range(20_000)) <= 2


@pytest.mark.parametrize("more", [1, 2, 7])
def test_blocks_behind_a_load_are_saved_as_what_they_are(more: int) -> None:
    """To a request whose load has ended only the blocks that it gets now are shown."""
    rig = Rig(older=True, blocks=40)
    known, whole = prompt(2 * BLOCK), prompt(2 * BLOCK) + prompt(more * BLOCK + 1, 1)
    rig.serve("a", [*known, 7])
    rig.drop_engine_cache()
    assert rig.serve("b", whole, max_new=2 * BLOCK) == 2 * BLOCK
    rig.check_cache()
    rig.drop_engine_cache()
    assert rig.serve("c", whole) == (2 + more) * BLOCK
    rig.drop_engine_cache()
    assert rig.serve("d", whole + rig.engine.done["b"][: BLOCK + 1]) == (3 + more) * BLOCK
    rig.check_clean()


@pytest.mark.parametrize(
    ("held", "shown", "table"),
    [
        ([], [5, 6], [5, 6]),
        ([5, 6], [], [5, 6]),
        ([5, 6], [7], [5, 6, 7]),
        ([5, 6], [5, 6, 7], [5, 6, 7]),
    ],
)
def test_whole_table_of_what_is_shown(held: list[int], shown: list[int], table: list[int]) -> None:
    assert whole_table(held, shown) == table


def test_finished_in_order_nothing_is_kept() -> None:
    rig = loading()
    rig.run()
    assert rig.engine.sending_left == {}
    rig.check_clean()


def test_parking_admits_what_fits_beside_the_largest_known() -> None:
    parking = Parking(num_blocks=31, block_tokens=4)
    assert parking.fits(33, [33, 33])  # 10 blocks each, with room for what comes next
    parking.park("a", 33)
    assert parking.fits(33, [33, 33])
    parking.park("b", 33)
    assert not parking.fits(33, [33])
    parking.leave(["a", "unknown"])
    assert parking.fits(33, [33])
    assert not parking.fits(33, [33, 37])
    assert len(parking) == 1


def parked(rig: Rig) -> int:
    return sum(request.status == LOADING for request in rig.engine.requests.values())


def test_many_hits_at_once_in_a_small_pool_all_come_to_an_end() -> None:
    """Without the limit all are parked, and the first that wants one block more finds none."""
    rig = Rig(older=True, blocks=26, max_running=16)
    for i in range(6):
        rig.serve(f"a{i}", prompt(4 * BLOCK + 2, i))
    rig.drop_engine_cache()
    for i in range(6):
        rig.add(f"b{i}", prompt(4 * BLOCK + 2, i), max_new=5)
    rig.steps(4, copies=False)
    assert 1 <= parked(rig) <= 3
    rig.run()
    assert rig.engine.external_tokens > 0
    rig.check_clean()


def test_request_too_large_to_be_parked_is_computed() -> None:
    rig = Rig(older=True, blocks=16)
    rig.serve("a", prompt(9 * BLOCK + 1))
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(9 * BLOCK + 1)) == 0
    rig.check_clean()


def test_waiting_for_room_ends_in_computing() -> None:
    """Smaller requests that come later may take the room for ever; nobody waits that long."""
    rig = Rig(older=True, blocks=26, max_running=16)
    rig.serve("a", prompt(9 * BLOCK + 2))
    rig.serve("c", prompt(2 * BLOCK + 2, 1))
    rig.drop_engine_cache()
    rig.start_load("d", prompt(2 * BLOCK + 2, 1))
    large = rig.add("b", prompt(9 * BLOCK + 2))
    rig.steps(3, copies=False)
    assert large in rig.engine.waiting and rig.engine.none_answers > 0
    rig.steps(60, copies=False)  # the load stays open, so "d" stays parked
    assert "b" in rig.engine.done
    rig.run()
    rig.check_clean()
