"""Engines without a model on one sidecar, and what a router should know of them."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import checkout, processes
from harness.dynamo import Indexer, Placed
from harness.modelless import BLOCK_TOKENS, Chain, ModellessEngine
from harness.sidecar import Sidecar


def chain(
    rng: random.Random, blocks: int, prefix: Chain | None = None, vocabulary: int = 32_000
) -> Chain:
    """A prompt of whole blocks, the first of which may be another one's."""
    tokens = list(prefix.all_token_ids) if prefix is not None else []
    missing = blocks * BLOCK_TOKENS - len(tokens)
    return Chain.of(tokens + [rng.randrange(vocabulary) for _ in range(missing)])


@dataclass(slots=True)
class Rig:
    """One sidecar and the engines that use it."""

    folder: Path
    sidecar: Sidecar
    served: subprocess.Popen[bytes]
    engines: list[ModellessEngine] = field(default_factory=list)

    def engine(self, blocks: int = 64) -> ModellessEngine:
        made = ModellessEngine(str(self.sidecar.socket), blocks=blocks)
        self.engines.append(made)
        return made

    def restart(self) -> None:
        """The sidecar dies, another one comes; engines notice both."""
        self.kill()
        self.start()
        for engine in self.engines:
            engine.attach()

    def kill(self) -> None:
        """The sidecar dies; engines notice."""
        self.served.kill()
        self.served.wait()
        for engine in self.engines:
            engine.lost()

    def start(self) -> None:
        """Another sidecar comes."""
        self.served = self.sidecar.start(checkout.LOGS / "dynamo-sidecar.log")

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        processes.stop(self.served)


def make_rig(folder: Path, **settings: str) -> Rig:
    """A sidecar with these settings."""
    sidecar = Sidecar(folder, **settings)
    return Rig(folder, sidecar, sidecar.start(checkout.LOGS / "dynamo-sidecar.log"))


def listen(router: Indexer, *engines: ModellessEngine) -> None:
    """Engines become workers 1, 2, …; each has published something that arrived.

    The first messages after a subscription may be lost, and nobody misses one before the next.
    """
    for worker, engine in enumerate(engines, 1):
        router.listen(worker, engine.endpoint, engine.replay_endpoint)
        probe = chain(random.Random(f"probe of worker {worker}"), 1)
        processes.wait_until(
            partial(_arrives, router, engine, worker, probe), 10, f"worker {worker} is heard", 0.05
        )
        engine.gpu_evicts(probe, 0, 1)


def _arrives(router: Indexer, engine: ModellessEngine, worker: int, probe: Chain) -> bool:
    engine.gpu(probe, 0, 1)
    return router.query(probe.all_token_ids).get(worker, {"gpu": 0})["gpu"] > 0


def held(engine: ModellessEngine, worker: int) -> set[Placed]:
    """What an engine has announced of our tiers, and not taken back."""
    return {
        Placed(worker, medium, block, parent)
        for medium, blocks in engine.announced.items()
        for block, parent in blocks.items()
    }


def wait_equal(router: Indexer, wanted: set[Placed], timeout_s: float = 30.0) -> None:
    """Until the router's index has exactly these blocks of our tiers."""

    def equal() -> bool:
        return ours(router) == wanted

    try:
        processes.wait_until(equal, timeout_s, "the router's index equals ours", 0.1)
    except TimeoutError:
        found = ours(router)
        raise AssertionError(
            f"the router has {len(found)} blocks, wanted {len(wanted)}; too many "
            f"{sorted(found - wanted)[:3]}, missing {sorted(wanted - found)[:3]}"
        ) from None


def ours(router: Indexer) -> set[Placed]:
    """The router's index without the engines' own pools."""
    return {placed for placed in router.dump() if placed.medium != "GPU"}
