"""KV events of a real engine: our CPU tier in vLLM's own stream, as a router would read it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import checkout
from harness.engine import BLOCK_TOKENS
from harness.kvevents import EventLog, Residency
from harness.prompts import random_tokens

from e2e import scenarios
from e2e.conftest import Line, Lines, wait_new_sidecar

_BLOCKS_A_PROMPT = 6
_PROMPTS = 8
_SMALL_POOL = 70


def _prompts(seed: int, count: int = _PROMPTS) -> list[tuple[int, ...]]:
    """Prompts of whole blocks and a little more, the second half with the prefixes of the first."""
    rng = random.Random(seed)
    own = [random_tokens(rng, _BLOCKS_A_PROMPT * BLOCK_TOKENS + 5) for _ in range(count)]
    for i in range(count // 2, count):
        shared = own[i - count // 2][: 2 * BLOCK_TOKENS]
        own[i] = (shared + own[i])[: len(own[i])]
    return own


class Listening:
    """An engine whose events are read."""

    def __init__(self, lines: Lines, **settings: Any) -> None:
        self.log = EventLog()
        self.line: Line = lines(kv_events=self.log.config, **settings)

    def resident(self) -> int:
        """Blocks that the sidecar can serve."""
        count: int = self.line.sidecar.counters()["ready_blocks"]
        return count

    def settled(self, what: str) -> Residency:
        """When the events say of the CPU tier what the sidecar says, all saves having ended."""
        self.line.settle()
        found = self.log.wait(lambda seen: len(seen.of("CPU")) == self.resident(), what)
        assert found.faults == []
        return found


@pytest.fixture(scope="module")
def _listening(lines_in: Callable[[str], Lines]) -> Iterator[Listening]:
    lines = lines_in("listening")
    yield Listening(lines)
    lines.close()


@pytest.fixture
def listening(_listening: Listening, counts: Counter[str]) -> Iterator[Listening]:
    """One engine for several tests: empty caches and nothing announced before."""
    _listening.line.settle()
    _listening.line.engine.call(scenarios.reset, external=True)
    _listening.line.engine.call(scenarios.idle)
    before = _listening.settled("nothing is announced").events
    yield _listening
    for name, number in (_listening.log.residency().events - before).items():
        counts[f"events heard: {name}"] += number
    _listening.line.assert_nothing_held()


@pytest.mark.both_versions
def test_saved_blocks_are_announced_with_vllms_hashes_parents_and_tokens(
    listening: Listening, seed: int
) -> None:
    prompts = _prompts(seed)
    listening.line.engine.call(scenarios.run, prompts, 4)
    found = listening.settled("every saved block is announced")
    wanted = {
        prompt[: end * BLOCK_TOKENS] for prompt in prompts for end in range(1, _BLOCKS_A_PROMPT + 1)
    }
    assert len(found.of("CPU")) == len(wanted)
    # vLLM's own events of the same blocks are the oracle: same hash, same parent, same tokens.
    assert found.of("CPU") == {block: found.of("GPU")[block] for block in found.of("CPU")}


def test_engine_evicts_block_stays_announced_in_the_cpu(lines: Lines, seed: int) -> None:
    listening = Listening(lines, blocks=_SMALL_POOL)
    for prompt in _prompts(seed, 20):
        listening.line.engine.call(scenarios.run, [prompt], 1)
    found = listening.settled("every saved block is announced")
    gone = set(found.of("CPU")) - set(found.of("GPU"))
    assert found.events["GPU BlockRemoved"] > 0
    assert len(gone) >= len(found.of("CPU")) - _SMALL_POOL


def test_sidecar_evicts_block_is_removed(lines: Lines, seed: int) -> None:
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": {"num_cpu_blocks": 16}}
    listening = Listening(lines, flag=flag)
    for prompt in _prompts(seed):
        listening.line.engine.call(scenarios.run, [prompt], 1)
        listening.line.settle()
    listening.line.settle()
    found = listening.settled("evicted blocks are removed")
    assert 0 < len(found.of("CPU")) <= 16
    assert found.events["CPU BlockRemoved"] >= 16


@pytest.mark.both_versions
def test_engine_forgets_its_prefix_cache_ours_is_announced_anew(
    listening: Listening, seed: int
) -> None:
    """`AllBlocksCleared` makes routers forget the CPU tier, too, and the CPU tier has it all."""
    listening.line.engine.call(scenarios.run, _prompts(seed), 4)
    before = listening.settled("every saved block is announced")
    listening.line.engine.call(scenarios.reset)
    listening.line.engine.call(scenarios.idle)
    found = listening.settled("all blocks are announced anew")
    assert found.cleared == before.cleared + 1
    assert len(before.of("CPU")) > 0
    assert found.of("CPU").items() >= before.of("CPU").items()


@pytest.mark.both_versions
def test_reset_of_both_leaves_nothing_announced(listening: Listening, seed: int) -> None:
    listening.line.engine.call(scenarios.run, _prompts(seed), 4)
    assert listening.settled("every saved block is announced").of("CPU")
    listening.line.engine.call(scenarios.reset, external=True)
    listening.line.engine.call(scenarios.idle)
    found = listening.settled("nothing is left")
    assert found.of("CPU") == {}


@pytest.mark.both_versions
def test_killed_sidecar_is_taken_back_the_next_one_announced(
    listening: Listening, seed: int
) -> None:
    line = listening.line
    line.engine.call(scenarios.run, _prompts(seed), 4)
    assert listening.settled("every saved block is announced").of("CPU")
    old = line.sidecar.kill()
    line.engine.call(scenarios.idle)
    listening.log.wait(lambda seen: not seen.of("CPU"), "what is gone is taken back")
    wait_new_sidecar(line.sidecar, old)
    line.engine.call(scenarios.reset)
    line.engine.call(scenarios.run, _prompts(seed + 1), 4)
    found = listening.settled("what the new one holds is announced")
    assert len(found.of("CPU")) > 0


def test_two_engines_of_one_sidecar_both_hear_of_every_block(lines: Lines, seed: int) -> None:
    first = Listening(lines)
    second = Listening(lines, sidecar=first.line.sidecar)
    first.line.engine.call(scenarios.run, _prompts(seed), 4)
    first.settled("the first engine announces what it saved")
    second.line.engine.call(scenarios.idle)
    found = second.settled("so does the second, which saved nothing of it")
    assert len(found.of("CPU")) == first.resident() > 0


@pytest.mark.both_versions
def test_events_off_nothing_of_ours_is_kept(line: Line, seed: int) -> None:
    line.engine.call(scenarios.run, _prompts(seed), 4)
    line.settle()
    assert line.sidecar.status()["events"]["known_blocks"] == 0
