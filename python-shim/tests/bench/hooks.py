"""What our hooks cost an engine's step, on the scheduler's thread and on a worker's.

Walks the connector's hooks in vLLM's order over requests and scheduler outputs of the right shape,
with real sessions to a real sidecar, and times each thread's share of a step:

* ``idle``: a step in which nothing of ours happens;
* ``decode``: 64 running requests, a token each; every sixteenth step gives each of them a block;
* ``engine hit``: a request is admitted whose whole prompt is in the engine's own prefix cache; all
  its hooks from its arrival to the end of its first step;
* ``FlexKV hit``: the same prompt from the sidecar: asked for, granted, planned;
* ``finish``: that request ends, with the step after it.

    FLEXKV_JAR=… python python-shim/tests/bench/hooks.py [--rounds 300] [--out build/bench]

Writes ``hooks.json``: records of {name, value, unit, limit, ratio, bar, met, command, machine}.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_rig import Record, percentile, run
from plain_instance import PlainInstance, random_hashes

from flexkv import protocol as p
from flexkv.fences import Fence
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.metadata import StepMetadata
from flexkv.scheduler import SchedulerFacts, SchedulerSide
from flexkv.session import Session
from flexkv.worker import WorkerSide

BLOCK = 16
RUNNING = 64
PROMPT_TOKENS = 8192
BARS = {"engine hit, scheduler p50": 500.0, "engine hit, both threads p50": 1000.0}
"""µs that were asked for: an engine hit must not cost a millisecond more with us than without."""


@dataclass
class Request:
    """The attributes of vLLM's request that a connector reads."""

    request_id: str
    block_hashes: list[bytes]
    num_tokens: int
    num_computed_tokens: int = 0


@dataclass
class Blocks:
    """vLLM's ``KVCacheBlocks``."""

    ids: list[int]

    def get_block_ids(self) -> tuple[list[int]]:
        return (list(self.ids),)


@dataclass
class Cached:
    """Running requests of a step."""

    req_ids: list[str] = field(default_factory=list)
    new_block_ids: list[tuple[list[int]] | None] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)


@dataclass
class Output:
    """A step, as the scheduler describes it."""

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    scheduled_cached_reqs: Cached = field(default_factory=Cached)
    preempted_req_ids: set[str] = field(default_factory=set)


class Reported:
    """What vLLM merges of the workers' answers."""

    def __init__(self, received: set[str], failed: set[int]) -> None:
        self.finished_recving = received
        self.finished_sending: set[str] = set()
        self.invalid_block_ids = failed


class Link:
    """A session that is always there."""

    def __init__(self, session: Session, generations: Any) -> None:
        self._session = session
        self.generations = generations

    def session(self) -> Session:
        return self._session

    def start(self) -> None: ...

    def wait(self, timeout_s: float) -> Session:
        return self._session

    def close(self) -> None: ...


class NoFences:
    """A CPU engine's: bytes are in place when the host says so."""

    def record(self, session: Any) -> Fence:
        return Fence(0, 0, p.FENCE_NONE)

    def handles(self) -> None:
        return None


class Bench:
    """Both roles of one engine in one process."""

    def __init__(self, socket_path: str, blocks: int) -> None:
        self.engine = PlainInstance(socket_path, blocks=blocks, block_bytes=4096)
        scheduler = Link(self.engine.scheduler, self.engine.generations)
        side = SchedulerSide(SchedulerFacts(BLOCK, blocks), scheduler)
        self.side = side
        self.scheduler = SchedulerHooks(lambda: side)
        worker = WorkerSide(Link(self.engine.worker, None), NoFences())
        self.worker = WorkerHooks(lambda _: worker)
        self.worker.register_kv_caches({})
        self.scheduler_us = self.worker_us = 0.0
        self.made = 0

    def new_request(self, hashes: list[bytes], tokens: int) -> Request:
        self.made += 1
        return Request(f"cmpl-{self.made:032x}-0", hashes, tokens)

    def on_scheduler(self, body: Callable[[], Any]) -> Any:
        began = time.perf_counter_ns()
        answer = body()
        self.scheduler_us += (time.perf_counter_ns() - began) / 1000
        return answer

    def step(self, output: Output) -> Reported:
        """One step: planned, carried to the worker, run, reported."""
        meta = self.on_scheduler(lambda: self.scheduler.build_connector_meta(output))
        received, failed = self.on_worker(pickle.loads(pickle.dumps(meta)))
        reported = Reported(received, failed)
        if received or failed:
            self.on_scheduler(lambda: self.scheduler.update_connector_output(reported))
        return reported

    def on_worker(self, meta: StepMetadata) -> tuple[set[str], set[int]]:
        began = time.perf_counter_ns()
        worker = self.worker
        worker.begin_step("handle_preemptions", meta)
        worker.begin_step("start_load_kv", meta)
        worker.wait_for_save()
        received = worker.get_finished()
        failed = worker.get_block_ids_with_load_errors()
        self.worker_us += (time.perf_counter_ns() - began) / 1000
        return received, failed

    def measured(self, body: Callable[[], Any]) -> tuple[float, float]:
        """µs of the scheduler's and of the worker's thread."""
        self.scheduler_us = self.worker_us = 0.0
        body()
        return self.scheduler_us, self.worker_us

    # ------------------------------------------------------------------ what an engine does
    def admit(self, request: Request, ids: list[int], local_tokens: int) -> int:
        """Arrival to allocation; the external tokens that were granted."""
        hooks = self.scheduler
        self.on_scheduler(lambda: hooks.on_new_request(request))

        def matched() -> int | None:
            tokens, _ = hooks.get_num_new_matched_tokens(request, local_tokens)
            return tokens

        external: int | None = self.on_scheduler(matched)
        while external is None:  # it asks again in later steps
            time.sleep(0.001)
            external = self.on_scheduler(matched)
        blocks = Blocks(ids)
        request.num_computed_tokens = local_tokens + external
        self.on_scheduler(lambda: hooks.update_state_after_alloc(request, blocks, external))
        return external

    def run(self, request: Request, tokens: int) -> None:
        """A step that computes these tokens of a new request."""
        self.step(Output({request.request_id: tokens}))
        request.num_computed_tokens += tokens

    def finish(self, request: Request) -> None:
        self.on_scheduler(lambda: self.scheduler.request_finished(request))
        self.step(Output())

    def catch_up(self) -> None:
        """Until the sidecar has read all that was sent: rounds follow faster than requests do."""
        session = self.engine.scheduler
        query = self.side.lookups.next_query()
        while not session.send(p.Echo(query)):
            time.sleep(0.001)
        assert session.wait_for(query, 10_000_000.0) is not None, "the sidecar does not answer"

    def settle(self) -> None:
        """Until the sidecar has nothing in hand."""
        while True:
            status = self.engine.worker.control("status", {}, 5.0)
            if status["cache"]["save_jobs"] == 0 == status["open_parts"]:  # type: ignore[index]
                return
            self.step(Output())
            time.sleep(0.002)


class Cases:
    """Each case yields (scheduler µs, worker µs) of one round."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        count = PROMPT_TOKENS // BLOCK
        joined = random_hashes(1, count)
        self.hashes = [joined[i * 32 : (i + 1) * 32] for i in range(count)]
        self.ids = list(range(1, count + 1))
        self.spare = list(range(count + 1, count + 1 + 4 * RUNNING))
        # The prompt is computed once, saved, and stays in the engine's own cache.
        first = bench.new_request(self.hashes, PROMPT_TOKENS + 1)
        bench.admit(first, [*self.ids, self.spare[0]], 0)
        bench.run(first, PROMPT_TOKENS)
        bench.finish(first)
        bench.settle()
        self.batch = [self._running(i) for i in range(RUNNING)]
        self.tick = 0

    def _running(self, index: int) -> Request:
        joined = random_hashes(100 + index, 64)
        hashes = [joined[i * 32 : (i + 1) * 32] for i in range(64)]
        request = self.bench.new_request(hashes, 4)
        self.bench.admit(request, [self.spare[index]], 0)
        self.bench.run(request, 3)
        return request

    def idle(self) -> tuple[float, float]:
        return self.bench.measured(lambda: self.bench.step(Output()))

    def decode(self) -> tuple[float, float]:
        """A token for each running request; a block for each in every sixteenth step."""
        self.tick += 1
        new: list[tuple[list[int]] | None] = [None] * RUNNING
        if self.tick % BLOCK == 0:
            turn = (self.tick // BLOCK) % 2 + 1
            new = [([self.spare[turn * RUNNING + i]],) for i in range(RUNNING)]
        ids = [request.request_id for request in self.batch]
        output = Output(dict.fromkeys(ids, 1), Cached(ids, new))
        cost = self.bench.measured(lambda: self.bench.step(output))
        for request in self.batch:
            request.num_computed_tokens += 1
            request.num_tokens += 1
        return cost

    def engine_hit(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Cost of admission and first step, and of the end."""
        bench = self.bench
        bench.catch_up()
        request = bench.new_request(self.hashes, PROMPT_TOKENS)
        local = PROMPT_TOKENS - BLOCK  # vLLM computes the last block again
        ids = [*self.ids[:-1], self.spare[3 * RUNNING]]

        def admitted() -> None:
            assert bench.admit(request, ids, local) == 0
            bench.run(request, BLOCK)

        admission = bench.measured(admitted)
        request.num_tokens += 1
        return admission, bench.measured(lambda: bench.finish(request))

    def flexkv_hit(self) -> tuple[float, float]:
        """The engine's cache has nothing: all but the last block come from the sidecar."""
        bench = self.bench
        bench.catch_up()
        request = bench.new_request(self.hashes, PROMPT_TOKENS)
        external = 0

        def asked() -> None:
            nonlocal external
            external = bench.admit(request, self.ids, 0)
            bench.step(Output())

        cost = bench.measured(asked)
        assert external == PROMPT_TOKENS - BLOCK, external
        for _ in range(100_000):
            if request.request_id in bench.step(Output()).finished_recving:
                break
        bench.run(request, BLOCK)
        bench.finish(request)
        return cost


def measure(bench: Bench, rounds: int, where: str) -> list[Record]:
    cases = Cases(bench)
    costs: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, cost: tuple[float, float]) -> None:
        costs.setdefault(name, []).append(cost)

    for turn in range(2):
        for _ in range(rounds):
            note("idle step", cases.idle())
        for _ in range(rounds):
            note("decode step of 64", cases.decode())
        for _ in range(rounds):
            hit, end = cases.engine_hit()
            note("engine hit", hit)
            note("finish", end)
        for _ in range(max(1, rounds // 4)):
            note("FlexKV hit", cases.flexkv_hit())
        if turn == 0:
            costs.clear()  # the first turn warms up
    assert not bench.scheduler.guard.errors
    assert not bench.worker.guard.errors
    records: list[Record] = []
    for name, values in costs.items():
        threads = {
            "scheduler": [scheduler for scheduler, _ in values],
            "worker": [worker for _, worker in values],
            "both threads": [sum(cost) for cost in values],
        }
        for thread, found in threads.items():
            for quantile, share in (("p50", 0.5), ("p99", 0.99)):
                title = f"{name}, {thread} {quantile}"
                value = percentile(found, share)
                bar = BARS.get(title)
                records.append(
                    {
                        "name": title,
                        "value": round(value, 1),
                        "unit": "us",
                        "limit": None,
                        "ratio": None,
                        "bar": bar,
                        "met": None if bar is None else value <= bar,
                        "command": f"python {' '.join(sys.argv)}",
                        "machine": where,
                    }
                )
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description="Our hooks in an engine's step.")
    parser.add_argument("--rounds", type=int, default=300)
    blocks = PROMPT_TOKENS // BLOCK + 4 * RUNNING + 8
    return run(
        "hooks",
        lambda path, given, where: measure(Bench(path, blocks), given.rounds, where),
        parser,
    )


if __name__ == "__main__":
    sys.exit(main())
