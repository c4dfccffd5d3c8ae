"""What `reset_prefix_cache` promises: nothing old is served, and a save never stands in its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Reference

pytestmark = pytest.mark.both_versions


def test_reset_with_connector_nothing_old_is_served(
    line: Line, reference: Reference, equal: Callable[..., None]
) -> None:
    line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    line.settle()
    line.engine.call(scenarios.reset, external=True)
    answers = line.engine.call(scenarios.run_alone, reference.token_ids[:6], OUTPUT_TOKENS)
    equal(reference, answers, list(range(6)))
    # The prompts share prefixes: what an earlier one has just saved may be served again.
    assert answers[0].external_tokens == 0


def test_saves_in_flight_reset_succeeds(
    line: Line, reference: Reference, equal: Callable[..., None]
) -> None:
    chosen = list(range(12))
    prompts = [reference.token_ids[i] for i in chosen]
    _, dropped = line.engine.call(scenarios.reset_with_save_in_flight, prompts, line.sidecar.pid)
    assert dropped, "reset_prefix_cache() is False while only saves are open"
    line.settle()
    equal(reference, line.engine.call(scenarios.run, prompts, OUTPUT_TOKENS), chosen)
