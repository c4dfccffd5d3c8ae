"""Aborts under vLLM before 0.16: it frees the blocks of an open load unless told not to."""

from __future__ import annotations

import pytest
from mini_vllm import FINISHED
from rig import BLOCK, Rig, prompt


def loading(**more: object) -> Rig:
    """An engine of those versions with one load open, of which nothing has been copied yet."""
    rig = Rig(before_0_16=True, blocks=9, **more)  # type: ignore[arg-type]
    rig.serve("a", prompt(5 * BLOCK + 1))
    rig.drop_engine_cache()
    rig.start_load("b", prompt(5 * BLOCK + 1))
    return rig


def test_abort_blocks_of_the_open_load_are_kept_until_it_has_ended() -> None:
    rig = loading()
    held = list(rig.engine.requests["b"].blocks)
    rig.engine.abort("b")
    assert rig.engine.requests["b"].status == FINISHED
    rig.add("c", prompt(6 * BLOCK, 1), max_new=6)  # wants blocks that the load still writes
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


def test_finished_in_order_nothing_is_kept() -> None:
    rig = loading()
    rig.run()
    assert rig.engine.sending_left == {}
    rig.check_clean()
