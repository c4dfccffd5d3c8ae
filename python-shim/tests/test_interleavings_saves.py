"""Saves against a scripted engine: each named interleaving that could store wrong bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from memory_sidecar import FakeSidecar
from mini_vllm import WrongBytesError, block_hash
from rig import BLOCK, Rig, prompt

from flexkv.protocol import KIND_SAVE


def test_save_and_load_back_serves_all_but_the_last_token() -> None:
    rig = Rig()
    assert rig.serve("a", prompt(21)) == 0
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(21)) == 20
    assert rig.serve("c", prompt(20, 3)) == 0
    rig.drop_engine_cache()
    # Block-aligned: the block of the last token is recomputed, not loaded.
    assert rig.serve("d", prompt(20, 3)) == 16
    rig.check_clean()


def test_save_planned_preempted_block_reused_before_the_copy() -> None:
    rig = Rig(blocks=9)
    rig.add("old", prompt(16, 1), max_new=2)
    rig.steps(1, copies=False)  # planned and gone ahead, nothing copied
    assert rig.jobs(KIND_SAVE)
    old = rig.engine.running.pop()
    rig.engine.preempt(old)
    rig.add("new", prompt(30, 2), max_new=1)  # takes every block
    rig.engine.waiting.reverse()
    rig.steps(1, copies=False)
    assert rig.engine.done["new"]
    rig.sidecar.run_copies()
    assert block_hash(prompt(16, 1), BLOCK) not in {key for _, key in rig.sidecar.cache}
    rig.run()
    assert rig.check_cache() > 0
    rig.check_clean()


def test_save_planned_before_the_ranks_session_is_published_goes_with_the_next_step() -> None:
    """The sidecar takes plans from the rank's confirmation on, which comes a little sooner."""
    rig = Rig()
    link = rig.worker_links[0]
    session, link.present = link.present, None
    rig.add("early", prompt(22), max_new=8)
    rig.steps(1)
    assert rig.jobs(KIND_SAVE), "planned"
    link.present = session
    rig.run()
    assert rig.check_cache() >= 5
    assert rig.worker_sides[0].saves_dropped == 0
    rig.check_clean()


def test_preempted_request_saves_again_after_its_blocks_were_lost() -> None:
    rig = Rig(blocks=14, max_running=4)
    for name in range(3):
        rig.add(f"r{name}", prompt(12, name), max_new=14)
    rig.run()
    assert rig.engine.preemptions > 0
    rig.check_clean()
    rig.drop_engine_cache()
    assert rig.serve("again", prompt(12, 2)) == 8


def test_reset_with_a_save_in_flight_does_not_delay_and_stores_nothing() -> None:
    rig = Rig()
    rig.add("a", prompt(16), max_new=1)
    rig.steps(1, copies=False)
    assert rig.jobs(KIND_SAVE)
    rig.run(copies=False)
    assert rig.engine.reset(weights=True) is True  # saves in flight or not
    rig.sidecar.run_copies()
    assert rig.check_cache() == 0
    assert rig.serve("b", prompt(16)) == 0
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(17, 0)) == 16
    rig.check_clean()


def test_reset_while_running_with_new_weights_saves_nothing_built_on_the_old_ones() -> None:
    rig = Rig()
    rig.add("old", prompt(10, 1), max_new=30)
    rig.steps(3)
    # vLLM answers False while blocks are held, and still resets the connector.
    assert rig.engine.reset() is False
    for _ in range(8):
        rig.steps()
    assert rig.check_cache() == 0, "blocks computed over bytes from before the reset were saved"
    rig.engine.abort("old")
    rig.run()
    rig.check_clean()


def test_blocks_shared_with_a_request_from_before_a_reset_are_not_saved() -> None:
    rig = Rig()
    shared = prompt(8, 1)
    rig.add("old", [*shared, *prompt(4, 2)], max_new=30)
    rig.steps(2)
    rig.engine.reset()
    rig.add("new", [*shared, *prompt(9, 3)], max_new=2)  # hits the old blocks locally
    rig.steps(4)
    assert rig.check_cache() == 0
    rig.engine.abort("old")
    rig.run()
    rig.check_clean()


def test_rank_1_part_lost_while_a_later_block_is_ready() -> None:
    rig = Rig(ranks=2, budget=8)
    rig.add("a", prompt(16), max_new=2)
    rig.steps(1, copies=False)
    (first,) = rig.jobs(KIND_SAVE)
    rig.steps(1, copies=False)
    second = rig.jobs(KIND_SAVE)[-1]
    assert second != first
    for rank in (0, 1):
        rig.sidecar.copy_some(second, rank, 99)
    rig.sidecar.copy_some(first, 0, 99)
    assert rig.sidecar.cache == {}, "a later block was ready before its parent"
    rig.sidecar.lose_part(first, 1)
    assert rig.sidecar.cache == {}, "a block whose parent's part is lost was kept"
    rig.run()
    rig.check_clean()
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(16)) == 0
    rig.check_clean()


def test_engine_hit_deeper_than_the_residency_of_the_sidecar() -> None:
    rig = Rig()
    rig.serve("a", prompt(24))
    rig.sidecar.evict(len(rig.sidecar.cache) - 2)
    assert rig.check_cache() == 2
    # All of it is a local hit; what the sidecar lost is saved again, from its depth on.
    assert rig.serve("b", prompt(29, 0)[:24] + prompt(5, 9)) == 0
    assert rig.check_cache() >= 7
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(24)) == 20
    rig.check_clean()


def test_request_finished_with_the_next_step_already_in_flight() -> None:
    rig = Rig(blocks=16)
    engine = rig.engine
    rig.add("a", prompt(7), max_new=2)
    first = engine.schedule()
    engine.execute(first)
    second = engine.schedule()  # before the first step's output is known
    engine.execute(second)
    rig.workers[0].run_stream(3)
    engine.update()
    third = engine.schedule()
    engine.execute(third)  # still launched behind the second
    engine.update()
    assert "a" in engine.done
    rig.add("b", prompt(40, 5), max_new=1)
    fourth = engine.schedule()
    engine.execute(fourth)
    rig.sidecar.run_copies()  # what has been fenced so far
    rig.workers[0].run_stream()
    rig.sidecar.run_copies()
    engine.update()
    engine.update()
    rig.run()
    assert rig.check_cache() >= 2
    rig.check_clean()


def test_last_sampled_token_has_a_hash_before_its_kv() -> None:
    rig = Rig()
    rig.add("a", prompt(7), max_new=2)
    rig.steps(1)
    # The eighth token was sampled just now: its block has a hash, and no KV for that token.
    assert len(rig.engine.requests["a"].block_hashes) == 2
    assert len(rig.sidecar.cache) == 1
    rig.engine.abort("a")
    rig.steps(2)
    assert len(rig.sidecar.cache) == 1
    rig.check_clean()


def test_rejected_draft_tokens_are_not_saved() -> None:
    rig = Rig()
    request = rig.add("a", prompt(6), max_new=6)
    rig.steps(1)
    for _ in range(3):
        request.draft_tokens = [7, 7, 7]  # none of them right
        rig.steps(1)
        rig.check_cache()
    request.draft_tokens = [*request.next_tokens(2), 7]
    rig.run()
    assert rig.check_cache() >= 2
    rig.check_clean()


def test_shared_prefix_hit_beside_a_save_in_flight() -> None:
    rig = Rig(budget=64)
    shared = prompt(16, 1)
    rig.add("a", [*shared, *prompt(5, 2)], max_new=2)
    rig.add("b", [*shared, *prompt(5, 3)], max_new=2)  # hits blocks that this step fills
    engine = rig.engine
    out = engine.schedule()
    engine.execute(out)
    worker = rig.workers[0]
    while worker.stream:
        # The stream lags: the sidecar copies as early as the fences let it.
        rig.sidecar.run_copies()
        worker.run_stream(1)
    engine.update()
    rig.run()
    assert rig.check_cache() >= 4
    rig.check_clean()


def test_priority_preemption_of_a_request_allocated_in_the_same_step() -> None:
    rig = Rig(blocks=9, by_priority=True, budget=64)
    rig.add("low", prompt(11, 1), max_new=12, priority=9)
    rig.add("high", prompt(15, 2), max_new=12, priority=0)
    for _ in range(60):
        if not rig.engine.has_requests():
            break
        rig.steps(1)
        rig.check_cache()
    rig.run()
    assert rig.engine.preemptions > 0
    rig.check_clean()


def test_first_come_first_served_preemption_takes_no_block_for_one_got_and_lost() -> None:
    """There only one that is not scheduled yet is preempted, and what lies there was computed."""
    rig = Rig(blocks=13, budget=10)
    asked: list[bytes] = []
    rig.side.holdings.pool = SimpleNamespace(
        get_cached_block=lambda digest, _: asked.append(digest)
    )
    rig.add("first", prompt(11, 1), max_new=16)
    rig.add("second", prompt(40, 2), max_new=4)
    rig.run()
    assert not asked
    assert rig.engine.preemptions > 0
    rig.check_clean()


def test_blocks_got_and_lost_within_a_step_are_not_saved_as_what_their_hashes_say() -> None:
    """vLLM's own fault: it hits blocks that no forward has filled. It must not get to the cache."""
    rig = Rig(blocks=14, by_priority=True, budget=28)
    rig.serve("before", prompt(48, 9), max_new=1)  # every block has been filled once
    rig.add("high", prompt(12, 2), max_new=12, priority=0)
    low = rig.add("low", prompt(38, 1), max_new=4, priority=9)
    rig.steps(1)
    rig.engine.running.reverse()  # low gets its next blocks, then loses all to high
    out = rig.engine.schedule()
    assert out.preempted_req_ids == {"low"}
    assert list(out.num_scheduled_tokens) == ["high"]
    rig.engine.execute(out)
    rig.workers[0].run_stream()
    rig.engine.update()
    with pytest.raises(WrongBytesError):
        rig.run()
    assert low.num_computed_tokens > 16, "resumed upon blocks that it had for a moment"
    rig.workers[0].run_stream()
    rig.engine.update()
    rig.sidecar.run_copies()
    assert rig.check_cache() >= 12 + 4


def test_blocks_lost_together_by_requests_of_one_prompt_are_still_what_they_were() -> None:
    """What one of them had computed lies under the next hashes of the other, held by nobody."""
    rig = Rig(budget=40, by_priority=True)
    one = rig.add("one", prompt(40), max_new=8)
    rig.steps(1)
    rig.engine.budget = 6
    two = rig.add("two", prompt(40), max_new=8, skip_reading_prefix_cache=True)
    rig.steps(1)
    assert two.num_computed_tokens == 5
    for request in (two, one):
        rig.engine.running.remove(request)
        rig.engine.preempt(request)
    rig.engine.waiting.clear()
    rig.steps(1)
    rig.engine.waiting.append(one)
    rig.engine.budget = 40
    rig.steps(1)
    assert rig.check_held() == 10
    rig.engine.waiting.append(two)
    rig.run()
    assert rig.check_cache() == 11
    rig.check_clean()


def test_wait_for_save_that_does_not_come_is_made_up_for_in_the_next_step() -> None:
    rig = Rig()
    rig.workers[0].skip_wait_for_save = True
    rig.serve("a", prompt(21))
    assert rig.check_cache() >= 4
    rig.check_clean()


def test_resumable_request_is_neither_saved_nor_loaded() -> None:
    rig = Rig()
    rig.serve("a", prompt(16))
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(17), resumable=True) == 0
    assert rig.serve("c", prompt(17, 8), resumable=True) == 0
    saved = {key for _, key in rig.sidecar.cache}
    assert block_hash(prompt(17, 8), BLOCK) not in saved


def test_two_instances_saving_the_same_key_one_dies_half_way() -> None:
    one = Rig()
    one.add("a", prompt(16), max_new=1)
    one.steps(1, copies=False)
    (job,) = one.jobs(KIND_SAVE)
    one.sidecar.copy_some(job, 0, 2)
    # Its engine dies: the sidecar drops its jobs; the other instance saves the same keys whole.
    one.sidecar.jobs.clear()
    cache = one.sidecar.cache
    two = Rig(sidecar=FakeSidecar())
    two.sidecar.cache = cache
    assert two.serve("a", prompt(16)) == 0
    assert two.check_cache() == 4
    two.drop_engine_cache()
    assert two.serve("b", prompt(16)) == 12
    two.check_clean()


def test_saves_wait_until_every_rank_is_registered() -> None:
    rig = Rig()
    rig.sidecar.ready = False
    rig.add("a", prompt(21), max_new=12)
    rig.steps(4)
    assert rig.side.saves.jobs == 0, "planned before it could be kept"
    rig.sidecar.ready = True
    rig.steps(6)
    assert rig.check_cache() >= 5
    rig.run()
    rig.check_clean()


def test_block_half_computed_before_a_reset_is_never_saved() -> None:
    rig = Rig()
    rig.add("old", prompt(3), max_new=30)
    rig.steps(1)
    rig.engine.reset()
    rig.steps(8)
    assert rig.check_cache() == 0
    # Nor by another request that shares the stale block.
    old = rig.engine.requests["old"]
    rig.add("new", [*old.tokens[:8], *prompt(9, 3)], max_new=2)
    rig.steps(4)
    assert rig.check_cache() == 0
    rig.engine.abort("old")
    rig.run()
    rig.check_clean()


def test_last_save_of_a_request_whose_blocks_were_handed_out_before_it_was_planned() -> None:
    rig = Rig(blocks=6)
    rig.serve("first", prompt(5, 3))
    assert rig.link.present is not None
    rig.link.present.full = True  # nothing can be planned while it runs
    rig.add("a", prompt(18, 1), max_new=2)
    rig.add("b", prompt(18, 2), max_new=2)
    while "a" not in rig.engine.done:
        rig.steps(1)
    rig.link.present.full = False
    rig.steps(1)  # b has a's blocks now
    assert rig.engine.requests["b"].blocks
    rig.run()
    assert rig.check_cache() == 5
    rig.check_clean()


def test_last_save_is_planned_at_the_end_with_what_is_still_there() -> None:
    rig = Rig()
    assert rig.link.present is not None
    rig.link.present.full = True
    rig.add("a", prompt(18, 1), max_new=2)
    while "a" not in rig.engine.done:
        rig.steps(1)
    rig.link.present.full = False
    rig.run()
    assert rig.check_cache() == 4
    rig.check_clean()


def test_blocks_behind_a_loaded_prefix_are_saved_and_the_prefix_is_not_saved_again() -> None:
    rig = Rig()
    rig.serve("a", prompt(21))
    rig.drop_engine_cache()
    planned = rig.side.saves.blocks
    assert rig.serve("b", [*prompt(20), *prompt(12, 5)], max_new=1) == 20
    assert rig.check_cache() == 8
    assert rig.side.saves.blocks - planned == 3
    rig.check_clean()


@pytest.mark.parametrize("full_steps", [1, 2, 5])
def test_full_ring_drops_saves_and_tries_again_from_the_same_block(full_steps: int) -> None:
    rig = Rig(budget=8)
    rig.add("a", prompt(24), max_new=12)
    assert rig.link.present is not None
    rig.link.present.full = True
    rig.steps(full_steps)
    assert not rig.sidecar.cache
    rig.link.present.full = False
    rig.run()
    assert rig.check_cache() >= 6
    rig.check_clean()


@pytest.mark.parametrize("room", [0, 1, 2, 5])
def test_goes_that_find_no_room_together_go_one_by_one(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is published once, in order, whatever room there is."""
    rig = Rig(max_running=4)
    session = rig.worker_links[0].present
    assert session is not None
    send, left = session.send, [room]
    sent: list[int] = []

    def limited(*records: Any) -> bool:
        if len(records) > left[0]:
            return False
        left[0] -= len(records)
        sent.extend(record.job_id for record in records)
        return send(*records)

    monkeypatch.setattr(session, "send", limited)
    for name in range(3):
        rig.add(f"r{name}", prompt(9, name), max_new=2)
    rig.steps(1)
    assert len(sent) == min(room, 3)
    left[0] = 1 << 30
    rig.run()
    assert sent == sorted(set(sent))
    assert len(sent) == rig.side.saves.jobs
    rig.check_clean()


def test_engine_hit_whose_lookup_is_not_answered_plans_nothing_that_is_resident() -> None:
    """Half a thousand blocks of an engine hit must not be planned only to be skipped."""
    rig = Rig()
    rig.serve("a", prompt(21))
    planned = rig.side.saves.blocks
    rig.sidecar.prompt = False
    rig.add("b", prompt(21), max_new=3)
    rig.steps(2, copies=False)
    assert rig.side.saves.blocks == planned
    rig.sidecar.drain_control()
    rig.sidecar.prompt = True
    rig.run()
    assert rig.side.saves.blocks == planned, "the answer says that all of it is there"
    rig.check_clean()


def test_engine_hit_whose_lookup_is_never_answered_is_saved_all_the_same() -> None:
    rig = Rig()
    rig.serve("a", prompt(21))
    planned = rig.side.saves.blocks
    rig.sidecar.prompt = False
    rig.add("b", prompt(21), max_new=5)
    rig.steps(1, copies=False)
    assert rig.side.saves.blocks == planned
    rig.clock.now += 0.2
    rig.steps(1, copies=False)
    assert rig.side.saves.blocks == planned + 5
    rig.sidecar.drain_control()
    rig.sidecar.prompt = True
    rig.run()
    rig.check_clean()
