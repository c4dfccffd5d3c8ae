"""Hits on blocks that vLLM handed out in this very step, to requests that were running already.

vLLM schedules running requests first and hashes what they get at once, so who is admitted behind
them in the step shares blocks that the connector is told of only at the step's end.
"""

from __future__ import annotations

from mini_vllm import LOADING, RUNNING, block_hash
from rig import BLOCK, Rig, prompt

DOCUMENT = prompt(40, 1)


def question(seed: int, tokens: int = 9) -> list[int]:
    return [*DOCUMENT, *prompt(tokens, seed)]


def saved(rig: Rig, tokens: list[int]) -> int:
    """Blocks of these tokens that the sidecar has, from their first on."""
    kept = {key for _, key in rig.sidecar.cache}
    count = 0
    while block_hash(tokens, (count + 1) * BLOCK) in kept and count < len(tokens) // BLOCK:
        count += 1
    return count


def admit_behind(rig: Rig, *names: str) -> None:
    """These are admitted in a step in which the first request, running, gets blocks they hit."""
    engine = rig.engine
    known = set(engine.requests["first"].blocks)
    out = engine.schedule()
    fresh = set(engine.requests["first"].blocks) - known
    assert "first" in out.scheduled_cached_reqs.req_ids
    for name in names:
        assert fresh & set(engine.requests[name].blocks), "no hit on a block of this step"
    engine.execute(out)
    rig.workers[0].run_stream()
    engine.update()
    rig.sidecar.run_copies()


def first_computes_in_chunks(rig: Rig) -> None:
    """Has computed some blocks of the document, and gets the others in the next step."""
    rig.add("first", question(2), max_new=30, skip_reading_prefix_cache=True)
    rig.steps()
    assert rig.engine.requests["first"].status == RUNNING
    assert rig.engine.requests["first"].num_computed_tokens <= len(DOCUMENT) - BLOCK


def test_hit_on_a_running_requests_blocks_of_this_step_saves_what_follows() -> None:
    rig = Rig(blocks=64, budget=32)
    first_computes_in_chunks(rig)
    for seed in (3, 4):  # the second has its whole suffix in a later step
        rig.add(f"b{seed}", question(seed), max_new=6)
    admit_behind(rig, "b3")
    rig.run()
    for seed in (3, 4):
        assert saved(rig, question(seed)) == 12
    rig.check_clean()
    rig.drop_engine_cache()
    assert rig.serve("again", question(3)) == 48


def test_hit_on_what_was_built_on_such_a_hit_in_the_same_step_is_saved_too() -> None:
    rig = Rig(blocks=64, budget=35)
    first_computes_in_chunks(rig)
    rig.add("b", question(3), max_new=1)
    rig.add("c", [*question(3)[:48], *prompt(9, 5)], max_new=6)  # all that b has
    admit_behind(rig, "b", "c")
    rig.run()
    assert saved(rig, [*question(3)[:48], *prompt(9, 5)]) == 14
    rig.check_clean()


def test_hit_cut_into_chunks_saves_what_each_of_them_completes() -> None:
    rig = Rig(blocks=64, budget=30)
    first_computes_in_chunks(rig)
    rig.add("b", question(3, 40), max_new=1)
    admit_behind(rig, "b")
    rig.run()
    assert saved(rig, question(3, 40)) == 20
    rig.check_clean()


def test_hit_with_a_load_on_top_saves_what_follows() -> None:
    rig = Rig(blocks=64, budget=35)
    rig.serve("before", question(3))
    rig.drop_engine_cache()
    first_computes_in_chunks(rig)
    request = rig.add("b", [*question(3)[:48], *prompt(9, 5)], max_new=6)
    admit_behind(rig, "b")
    assert request.status == LOADING
    rig.run()
    assert rig.engine.external_tokens == 8
    assert saved(rig, [*question(3)[:48], *prompt(9, 5)]) == 14
    rig.check_clean()


def test_hit_of_a_request_preempted_since_the_last_step_saves_what_follows() -> None:
    rig = Rig(blocks=64, budget=30)
    victim = rig.add("b", question(3), max_new=6, skip_reading_prefix_cache=True)
    rig.steps()
    rig.engine.running.remove(victim)
    rig.engine.preempt(victim)
    rig.engine.waiting.clear()
    rig.drop_engine_cache()
    first_computes_in_chunks(rig)
    victim.skip_reading_prefix_cache = False
    rig.engine.waiting.append(victim)
    rig.engine.preempted_ids.add("b")
    admit_behind(rig, "b")
    rig.run()
    assert saved(rig, question(3)) == 12
    rig.check_clean()
