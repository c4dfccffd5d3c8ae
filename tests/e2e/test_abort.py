"""Users hang up at any moment, also while their prompt is being loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Reference

pytestmark = pytest.mark.both_versions


def test_aborts_at_random_steps_others_answer_right(
    line: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    seed: int,
) -> None:
    for round_ in range(4):
        answers = line.engine.call(
            scenarios.run_aborting, reference.token_ids, OUTPUT_TOKENS, seed + round_
        )
        equal(reference, answers)
        counts["requests aborted"] += sum(answer is None for answer in answers)
        line.settle()
        line.engine.call(scenarios.reset)


def test_aborts_with_loads_open_blocks_come_back_and_others_answer_right(
    line: Line, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    chosen = [i for i, p in enumerate(reference.prompts) if len(p.token_ids) > 200]
    line.engine.call(scenarios.run, [reference.token_ids[i] for i in chosen], 1)
    for first in range(0, 32, 4):
        line.settle()
        line.engine.call(scenarios.reset)
        some = chosen[first : first + 8]
        answers, states = line.engine.call(
            scenarios.abort_open_loads,
            [reference.token_ids[i] for i in some],
            OUTPUT_TOKENS,
            line.sidecar.pid,
        )
        counts["requests aborted"] += len(states)
        counts["requests aborted with their load open"] += states.count(scenarios.LOADING)
        assert scenarios.LOADING in states, f"no aborted request had a load open: {states}"
        equal(reference, answers, some)
    line.settle()
