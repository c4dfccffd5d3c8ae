"""The connector and the real sidecar, moving real bytes of this process under a scripted engine."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_engine import BLOCK, RealEngine
from real_sidecar import missing, settings
from rig import prompt

from flexkv.config import Settings

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

STEPS = int(os.environ.get("FLEXKV_REAL_STEPS", "400"))


@pytest.fixture
def real(socket_path: str, tmp_path: Path) -> Settings:
    return settings(socket_path, tmp_path / "run")


@pytest.fixture
def engines(real: Settings) -> Iterator[list[RealEngine]]:
    """Engines to close; the sidecar that they leave is killed."""
    made: list[RealEngine] = []
    yield made
    pids = {s.server_pid for e in made if (s := e.link.session()) is not None}
    for engine in made:
        engine.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def make(engines: list[RealEngine], real: Settings, **more: int) -> RealEngine:
    engines.append(RealEngine(real, **more))
    return engines[-1]


def serve(engine: RealEngine, name: str, tokens: list[int]) -> int:
    """External tokens that a request was granted; what it attends to is checked token by token."""
    before = engine.engine.external_tokens
    engine.add(name, tokens)
    engine.run()
    engine.settle()
    return engine.engine.external_tokens - before


@pytest.mark.parametrize("ranks", [1, 2])
def test_saved_bytes_come_back(real: Settings, engines: list[RealEngine], ranks: int) -> None:
    engine = make(engines, real, ranks=ranks)
    assert serve(engine, "a", prompt(21)) == 0
    assert engine.engine.reset(connector=False)
    assert serve(engine, "b", prompt(21)) == 20
    assert serve(engine, "c", [*prompt(21), 5, 6, 7, 8]) == 0  # the engine's own hit is deeper
    assert engine.engine.reset() is True
    assert serve(engine, "d", prompt(21)) == 0
    engine.check_clean()


def test_another_engine_with_the_same_model_is_served(
    real: Settings, engines: list[RealEngine]
) -> None:
    one = make(engines, real)
    serve(one, "a", prompt(21))
    two = make(engines, real, blocks=20)
    assert serve(two, "b", prompt(21)) == 20
    two.check_clean()


def test_two_instances_save_the_same_key_one_dies_half_way(
    real: Settings, engines: list[RealEngine]
) -> None:
    one, two = make(engines, real), make(engines, real)
    one.add("a", prompt(90))
    two.add("b", prompt(90))
    one.engine.step()  # planned and gone ahead
    one.close()
    # What is planned while the other's save is on its way is skipped, and lost with it.
    two.wait_for_sessions(2)
    two.run()
    two.settle()
    assert two.engine.reset(connector=False)
    assert serve(two, "c", prompt(90)) == 88
    two.check_clean()


def test_blocks_reused_at_once_never_reach_the_cache_wrong(
    real: Settings, engines: list[RealEngine]
) -> None:
    engine = make(engines, real, blocks=12)
    for i in range(60):
        engine.add(f"r{i}", prompt(12 + i % 9, i % 5), max_new=1 + i % 3)
        if i % 4 == 3:
            engine.run()
            engine.engine.reset(connector=False)
    engine.run()
    assert engine.engine.external_tokens > 0
    engine.check_clean()


@pytest.mark.parametrize("seed", [1, 2])
def test_walk_with_kills_aborts_and_resets(
    real: Settings, engines: list[RealEngine], seed: int
) -> None:
    chance = random.Random(seed)
    engine = make(engines, real, ranks=seed, blocks=24, budget=16)
    families = [prompt(40, i) for i in range(3)]
    kills = made = 0
    for step in range(STEPS):
        if chance.random() < 0.25 and len(engine.engine.requests) < 8:
            family = chance.choice(families)
            own = prompt(chance.randint(1, 6), 70 + chance.randrange(4))
            made += 1
            engine.add(f"r{made}", [*family[: chance.choice([0, 8, 13, 31])], *own])
        if chance.random() < 0.02 and engine.engine.requests:
            engine.engine.abort(chance.choice(list(engine.engine.requests)))
        if chance.random() < 0.02:
            engine.engine.reset(connector=chance.random() < 0.3)
        if step % 170 == 120:
            session = engine.link.wait(30.0)
            assert session is not None
            os.kill(session.server_pid, signal.SIGKILL)
            kills += 1
        if not engine.engine.step().num_scheduled_tokens:
            time.sleep(0.001)
    engine.run()
    engine.check_clean()
    assert kills >= STEPS // 200
    for link in (engine.link, *engine.links):
        assert link.wait(30.0) is not None, "not attached again"
    deadline = time.monotonic() + 20
    later = 0
    while not later and time.monotonic() < deadline:  # ready once every rank is back
        made += 1
        serve(engine, f"r{made}", prompt(21, 99))
        assert engine.engine.reset(connector=False)
        made += 1
        later = serve(engine, f"r{made}", prompt(21, 99))
        assert engine.engine.reset(connector=False)
    assert later == 5 * BLOCK, "later hits do not return"
    print(f"seed {seed}: {made} requests, {kills} kills, {engine.engine.external_tokens} external")
