"""Engines of one machine around one sidecar, against the same engines with a sidecar each.

Real vLLM on the CPU, started as `conf/four-workers` starts its workers (`shared.yaml` and
`private.yaml`, the addresses and sizes aside; the shared sidecar has the memory of the private ones
together). The workload is a handful of long documents about which every worker is asked in turn,
each time with a question of its own: what one worker computed for a document the others can load,
if they share. Both ways answer the same requests in the same order on fresh engines; every answer
is compared. The bound of what sharing can bring is beside the figure: prompt tokens computed apart
over prompt tokens computed shared.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from e2e import scenarios
from harness import checkout
from harness.engine import EngineSettings
from harness.model import ModelShape, write_model
from harness.progress import step
from harness.prompts import random_tokens
from harness.records import Records, table
from harness.sidecar import Sidecar
from harness.zygote import EngineProcess, Zygote

#: Small enough for engines that share two cores, large enough that computing a document costs a
#: hundred times what moving it does.
SHAPE = ModelShape(
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
)
_CONF = checkout.ROOT / "conf" / "four-workers"
_DOCUMENT_TOKENS = 1536
_QUESTION_TOKENS = 40
_OUTPUT_TOKENS = 8
_GB_A_WORKER = 0.5

Request = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of running the workload took, and what it answered, by worker."""

    seconds: float
    answers: list[list[Any]]

    @property
    def requests(self) -> int:
        return sum(len(answers) for answers in self.answers)

    def computed(self, prompts: Sequence[Sequence[Request]]) -> int:
        """Prompt tokens that no cache had."""
        total = sum(len(prompt) for worker in prompts for prompt in worker)
        cached = sum(int(one.cached_tokens) for worker in self.answers for one in worker)
        return total - cached


def main() -> int:
    """Measures and writes the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--turns", type=int, default=8, help="questions about each document")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--out", type=Path, default=checkout.RECORDS / "instances.json")
    options = parser.parse_args()
    records = Records()
    model = write_model(checkout.MODELS / "instances-model", SHAPE)
    prompts = workload(options.workers, options.documents, options.turns, options.seed)
    outcomes = {}
    with (
        tempfile.TemporaryDirectory(prefix="fkv-", dir="/tmp") as scratch,
        Zygote(Path(scratch) / "z") as zygote,
    ):
        for mode in ("private", "shared"):
            with step(f"{options.workers} workers, {mode}"):
                outcomes[mode] = _run(zygote, Path(scratch), model, mode, prompts)
    _report(records, prompts, outcomes["private"], outcomes["shared"])
    records.write(options.out)
    sys.stdout.write(table(records.all) + "\n")
    return 0


def workload(workers: int, documents: int, turns: int, seed: int) -> list[list[Request]]:
    """The requests of each worker in order: question t about document d goes to worker d + t."""
    rng = random.Random(seed)
    texts = [random_tokens(rng, _DOCUMENT_TOKENS, SHAPE.vocab_size) for _ in range(documents)]
    prompts: list[list[Request]] = [[] for _ in range(workers)]
    for turn in range(turns):
        for number, text in enumerate(texts):
            question = random_tokens(rng, _QUESTION_TOKENS, SHAPE.vocab_size)
            prompts[(number + turn) % workers].append(text + question)
    return prompts


def _run(
    zygote: Zygote, scratch: Path, model: Path, mode: str, prompts: Sequence[Sequence[Request]]
) -> Outcome:
    shared = mode == "shared"
    count = len(prompts)
    sidecars = [Sidecar(scratch / f"{mode}{i}") for i in range(1 if shared else count)]
    engines: list[EngineProcess] = []
    try:
        for worker in range(count):
            sidecar = sidecars[0 if shared else worker]
            size = _GB_A_WORKER * (count if shared else 1)
            engines.append(zygote.engine(_settings(model, sidecar, mode, worker, size), mode))
        for sidecar in sidecars:
            sidecar.wait_serving(120)
        for engine in engines:
            engine.call(scenarios.run, [[3] * 200], 2)
        with ThreadPoolExecutor(count) as threads:
            began = time.perf_counter()
            answers = list(threads.map(_serve, engines, prompts))
            seconds = time.perf_counter() - began
    finally:
        for engine in engines:
            engine.close()
    for sidecar in sidecars:
        sidecar.wait_gone()
    return Outcome(seconds, answers)


def _settings(
    model: Path, sidecar: Sidecar, mode: str, worker: int, gigabytes: float
) -> EngineSettings:
    extra = {
        "flexkv_server_recv_port": f"ipc://{sidecar.socket}",
        "flexkv_cpu_cache_gb": gigabytes,
    }
    environment = {
        **sidecar.environment,
        "FLEXKV_CONFIG_PATH": str(_CONF / f"{mode}.yaml"),
        "WORKER": str(worker),
        "FLEXKV_INSTANCE_ID": str(worker),
    }
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": extra}
    return EngineSettings(str(model), kv_transfer=flag, environment=environment)


def _serve(engine: EngineProcess, prompts: Sequence[Request]) -> list[Any]:
    """A worker's requests one after the other, as of a user who waits for each answer."""
    return [engine.call(scenarios.run, [prompt], _OUTPUT_TOKENS)[0] for prompt in prompts]


def _report(
    records: Records, prompts: Sequence[Sequence[Request]], private: Outcome, shared: Outcome
) -> None:
    equal = sum(
        a.token_ids == b.token_ids
        for one, other in zip(private.answers, shared.answers, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    total = private.requests
    records.add("answers equal in both ways", equal, "answers", bar=total, met=equal == total)
    workers = len(prompts)
    apart, together = total / private.seconds, total / shared.seconds
    records.add(f"{workers} workers apart", apart, "requests/s")
    records.add(f"{workers} workers sharing", together, "requests/s", limit=apart)
    for name, outcome in (("apart", private), ("sharing", shared)):
        tokens = outcome.computed(prompts)
        records.add(f"{workers} workers {name}: prompt tokens computed", tokens, "tokens")
    bound = private.computed(prompts) / shared.computed(prompts)
    records.add("sharing over apart", together / apart, "x", limit=bound)


if __name__ == "__main__":
    sys.exit(main())
