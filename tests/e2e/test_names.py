"""Every way an operator may name the connector, and two engines on one sidecar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from harness import checkout
from harness.engine import BLOCK_TOKENS
from harness.prompts import loadable_tokens
from harness.sidecar import Sidecar

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Lines, Reference, assert_served

pytestmark = pytest.mark.both_versions

OURS = "flexkv.connector.FlexKVConnectorV1"
IN_TREE = "vllm.distributed.kv_transfer.kv_connector.v1.flexkv_connector.FlexKVConnectorV1"
MODULE_PATH = {
    "kv_connector": "FlexKVConnectorV1",
    "kv_role": "kv_both",
    "kv_connector_module_path": "flexkv.connector",
}


def test_the_readmes_flag_is_our_class(line: Line) -> None:
    """Whether it serves hits is what all other tests with this engine ask."""
    assert line.engine.call(scenarios.connector_names) == (OURS, OURS)


@pytest.mark.parametrize(
    ("flag", "environment", "expected"),
    [
        pytest.param(MODULE_PATH, {"VLLM_PLUGINS": ""}, OURS, id="module path, no plugin"),
        pytest.param(
            checkout.readme_flag(), {"FLEXKV_PLUGIN_REPLACE": "0"}, IN_TREE, id="in-tree class"
        ),
    ],
)
def test_each_other_way_serves_hits(
    lines: Lines,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    flag: dict[str, Any],
    environment: dict[str, str],
    expected: str,
) -> None:
    line = lines(flag=flag, environment=environment)
    assert line.engine.call(scenarios.connector_names) == (expected, expected)
    chosen = list(range(0, len(reference.prompts), 6))
    prompts = [reference.token_ids[i] for i in chosen]
    equal(reference, line.engine.call(scenarios.run, prompts, OUTPUT_TOKENS), chosen)
    line.settle()
    answers = line.engine.call(scenarios.run_alone, prompts, OUTPUT_TOKENS)
    equal(reference, answers, chosen)
    served = sum(answer.external_tokens for answer in answers)
    counts["tokens served by the sidecar"] += served
    assert served > 0
    line.assert_nothing_held()


def test_second_engine_is_served_what_the_first_saved(
    lines: Lines, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    """Hash seeds must agree although nobody set PYTHONHASHSEED; one engine's end hurts nobody."""
    sidecar = Sidecar(lines.scratch / "both", FLEXKV_CPU_CACHE_GB="0.2")
    first = lines(sidecar=sidecar)
    chosen = list(range(0, len(reference.prompts), 6))
    prompts = [reference.token_ids[i] for i in chosen]
    first.engine.call(scenarios.run, prompts, OUTPUT_TOKENS)
    first.settle()
    second = lines(sidecar=sidecar)
    first.engine.kill()
    answers = second.engine.call(scenarios.run_alone, prompts, OUTPUT_TOKENS)
    equal(reference, answers, chosen)
    there = [loadable_tokens(reference.prompts[number], BLOCK_TOKENS) for number in chosen]
    assert_served(there, [answer.external_tokens for answer in answers])
    counts["engines killed"] += 1
    second.assert_nothing_held(clients=2)
