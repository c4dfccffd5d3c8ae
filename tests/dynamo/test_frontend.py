"""Dynamo's real frontend: a request goes to the worker whose lower tier holds its prefix."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import checkout, processes
from harness.dynamo import Frontend, Routed
from harness.model import write_model
from harness.modelless import BLOCK_TOKENS, Chain, ModellessEngine
from harness.routing import Rig, chain, make_rig

from flexkv.protocol import TIER_SSD

BLOCKS = 16
VOCABULARY = 900
TAGS = (101, 102)


class Cluster:
    """Two workers with a sidecar each, behind one frontend."""

    def __init__(self, folder: Path, frontend: Frontend) -> None:
        self.rigs: list[Rig] = []
        self.frontend = frontend
        for number, tag in enumerate(TAGS):
            self.rigs.append(make_rig(folder / f"s{number}", FLEXKV_CPU_CACHE_GB="0.05"))
            engine = self.rigs[-1].engine()
            frontend.add_worker(engine.endpoint, BLOCK_TOKENS, tag)
        frontend.wait_workers()
        self.tags = self._tags()

    @property
    def engines(self) -> list[ModellessEngine]:
        return [rig.engines[0] for rig in self.rigs]

    def _tags(self) -> list[str]:
        """What each worker's answer reads like: each is asked for a prompt that only it has."""
        names = []
        for number, engine in enumerate(self.engines):
            prompt = chain(random.Random(number), BLOCKS, vocabulary=VOCABULARY)
            engine.gpu(prompt, 0, BLOCKS)
            names.append(self.routed(prompt, 1.0).tag)
        assert len(set(names)) == len(names)
        return names

    def routed(self, prompt: Chain, hit_rate: float) -> Routed:
        """Where a prompt goes, once the router takes this share of it as cached."""
        seen: list[Routed] = []

        def arrived() -> bool:
            seen.append(self.frontend.complete(prompt.all_token_ids))
            return abs(seen[-1].hit_rate - hit_rate) < 1e-6

        try:
            processes.wait_until(arrived, 15, "events arrive", 0.2)
        except TimeoutError:
            raise AssertionError(f"{seen[-1]}, wanted a hit rate of {hit_rate}") from None
        return seen[-1]

    def close(self) -> None:
        for rig in self.rigs:
            rig.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    model = write_model(checkout.MODELS / "tiny-model")
    with tempfile.TemporaryDirectory(prefix="fkd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "discovery").mkdir()
        with Frontend(folder / "discovery", checkout.LOGS, model) as frontend:
            made = Cluster(folder, frontend)
            yield made
            made.close()


@pytest.fixture
def prompts(seed: int, request: pytest.FixtureRequest) -> Callable[[], Chain]:
    """Prompts that no other test has asked for."""
    rng = random.Random(f"{seed} {request.node.name}")
    return lambda: chain(rng, BLOCKS, vocabulary=VOCABULARY)


@pytest.mark.parametrize("worker", [0, 1])
def test_prefix_in_the_cpu_of_one_worker_goes_there(
    cluster: Cluster, prompts: Callable[[], Chain], worker: int
) -> None:
    prompt = prompts()
    cluster.engines[worker].save(prompt)
    cluster.engines[worker].settle()
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[worker]


def test_prefix_on_the_disk_of_one_worker_goes_there(
    cluster: Cluster, prompts: Callable[[], Chain]
) -> None:
    prompt, engine = prompts(), cluster.engines[1]
    engine.publish(
        [
            engine.maker.stored(
                TIER_SSD,
                prompt.wire(i),
                prompt.wire(i - 1) if i else None,
                prompt.all_token_ids[i * BLOCK_TOKENS : (i + 1) * BLOCK_TOKENS],
                b"",
            )
            for i in range(BLOCKS)
        ]
    )
    assert cluster.routed(prompt, 0.25).tag == cluster.tags[1]


def test_all_of_it_in_one_cpu_beats_a_little_in_the_other_gpu(
    cluster: Cluster, prompts: Callable[[], Chain]
) -> None:
    prompt = prompts()
    first, second = cluster.engines
    first.gpu(prompt, 0, 2)
    assert cluster.routed(prompt, 2 / BLOCKS).tag == cluster.tags[0]
    second.save(prompt)
    second.settle()
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[1]


def test_evicted_from_the_gpu_still_goes_to_its_cpu(
    cluster: Cluster, prompts: Callable[[], Chain]
) -> None:
    prompt, engine = prompts(), cluster.engines[0]
    engine.gpu(prompt, 0, BLOCKS)
    engine.save(prompt)
    engine.settle()
    assert cluster.routed(prompt, 1.0).tag == cluster.tags[0]
    engine.gpu_evicts(prompt, 0, BLOCKS)
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[0]


def test_new_frontend_learns_the_lower_tiers_from_the_workers(
    cluster: Cluster, prompts: Callable[[], Chain]
) -> None:
    prompt, engine = prompts(), cluster.engines[1]
    engine.save(prompt)
    engine.settle()
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[1]
    cluster.frontend.restart()
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[1]


def test_dead_sidecar_nobody_is_better(cluster: Cluster, prompts: Callable[[], Chain]) -> None:
    prompt = prompts()
    cluster.engines[0].save(prompt)
    cluster.engines[0].settle()
    assert cluster.routed(prompt, 0.75).tag == cluster.tags[0]
    cluster.rigs[0].restart()
    cluster.routed(prompt, 0.0)
