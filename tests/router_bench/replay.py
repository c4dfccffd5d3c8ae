"""What replays of the trace compute, without router, engine or sidecar: the figures to meet.

Every worker has a pool in the GPU and one below it, both least recently used; both take every block
of each request that the worker serves.  What it can reuse is the leading run of ids in either of
them, whatever the router sees.  Two sets of rules:

``by_the_book`` are those under which figures for these traces were published beside the traces:
blocks are there as soon as a request arrives, a partial block counts as one, and the router sends a
request to the worker with the least

    waiting prefill + blocks to compute + blocks of decoding requests + blocks of the prompt

(On all 12,031 requests, four workers of 500 and 20,000 blocks: 18.68 % of the tokens by
round-robin, 18.96 % where the router sees the GPU alone, 27.11 % where it sees both.)

``as_dynamo`` are those of this system: whole blocks, which are there once a request has been
prefilled; the cost is that of Dynamo's router (see ``decision.py``), where a request's prefill
counts in full until its first token and blocks shared by requests of a worker count once.  Which
worker gets a conversation's first turn hangs on next to nothing, and all that follows on that:
arrivals a tenth of a second earlier or later move the figure by half a point to a whole one.
``typical`` is therefore the mean of some replays with such arrivals.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev

from router_bench.trace import BLOCK_TOKENS, Row

PREFILL_TOKENS_S = 16_000.0
DECODE_S_TOKEN = 0.03
REPLAYS, LATER_S = 11, 0.2


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers, blocks of each one's pools, and what the router sees: "nothing" (round-robin), "gpu"
    or "all"."""

    workers: int
    gpu: int
    lower: int
    sees: str


class Pool:
    """Least recently used blocks; the head of a prompt is younger than its tail."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def admit(self, ids: Sequence[int]) -> None:
        """Takes all blocks of a request, deepest first, then makes room."""
        for block in reversed(ids):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


class _Worker:
    def __init__(self, cluster: Cluster) -> None:
        self.gpu, self.lower = Pool(cluster.gpu), Pool(cluster.lower)
        self.busy_until = 0.0
        self.active = 0
        self.waiting: dict[int, float] = {}
        self.held: dict[int, Sequence[int]] = {}

    def runs(self, ids: Sequence[int]) -> tuple[int, int]:
        """Leading blocks in the GPU, and in either pool."""
        in_gpu = 0
        while in_gpu < len(ids) and ids[in_gpu] in self.gpu:
            in_gpu += 1
        reach = in_gpu
        while reach < len(ids) and (ids[reach] in self.gpu or ids[reach] in self.lower):
            reach += 1
        return in_gpu, reach

    def admit(self, ids: Sequence[int]) -> None:
        self.gpu.admit(ids)
        self.lower.admit(ids)

    def prefill(self, now: float, tokens: int) -> float:
        """When so many tokens are computed, one request after another."""
        self.busy_until = max(self.busy_until, now) + tokens / PREFILL_TOKENS_S
        return self.busy_until


@dataclass(slots=True)
class _Ends:
    """What will end, by its moment."""

    heap: list[tuple[float, int, str, _Worker, Row]] = field(default_factory=list)
    count: int = 0

    def add(self, at: float, what: str, worker: _Worker, row: Row) -> None:
        self.count += 1
        heapq.heappush(self.heap, (at, self.count, what, worker, row))

    def until(self, now: float) -> Iterable[tuple[str, _Worker, Row]]:
        while self.heap and self.heap[0][0] <= now:
            yield heapq.heappop(self.heap)[2:]


def by_the_book(rows: Sequence[Row], cluster: Cluster) -> float:
    """Share of all input tokens that came from a pool."""
    workers = [_Worker(cluster) for _ in range(cluster.workers)]
    ends = _Ends()
    hits = 0
    for row in rows:
        now, blocks = row.arrival_s, len(row.ids)
        for _, worker, ended in ends.until(now):
            worker.active -= len(ended.ids)
        runs = [worker.runs(row.ids) for worker in workers]
        costs = [
            max(0.0, worker.busy_until - now) * PREFILL_TOKENS_S / BLOCK_TOKENS
            + blocks - _seen(cluster, run) + worker.active + blocks
            for worker, run in zip(workers, runs, strict=True)
        ]  # fmt: skip
        number = _chosen(cluster, row, costs)
        chosen, used = workers[number], min(runs[number][1], row.reusable_blocks)
        done = chosen.prefill(now, row.input_tokens - BLOCK_TOKENS * used)
        ends.add(done + row.output_tokens * DECODE_S_TOKEN, "last token", chosen, row)
        chosen.active += blocks
        chosen.admit(row.ids)
        hits += BLOCK_TOKENS * used
    return hits / sum(row.input_tokens for row in rows)


def as_dynamo(rows: Sequence[Row], cluster: Cluster) -> float:
    """Share of all input tokens that came from a pool."""
    workers = [_Worker(cluster) for _ in range(cluster.workers)]
    ends = _Ends()
    hits = 0
    for row in rows:
        now, prompt = row.arrival_s, row.input_tokens / BLOCK_TOKENS
        for what, worker, ended in ends.until(now):
            if what == "first token":
                worker.waiting.pop(ended.number)
                worker.admit(ended.whole_ids)
            else:
                worker.held.pop(ended.number)
        runs = [worker.runs(row.whole_ids[: row.reusable_blocks]) for worker in workers]
        costs = [
            max(sum(worker.waiting.values()) + prompt - _seen(cluster, run), 0.0)
            + len(set(row.whole_ids).union(*worker.held.values()))
            for worker, run in zip(workers, runs, strict=True)
        ]
        number = _chosen(cluster, row, costs)
        chosen, run = workers[number], runs[number]
        done = chosen.prefill(now, row.input_tokens - BLOCK_TOKENS * run[1])
        chosen.waiting[row.number] = prompt - _seen(cluster, run)
        chosen.held[row.number] = row.whole_ids
        ends.add(done, "first token", chosen, row)
        ends.add(done + row.output_tokens * DECODE_S_TOKEN, "last token", chosen, row)
        hits += BLOCK_TOKENS * run[1]
    return hits / sum(row.input_tokens for row in rows)


def typical(rows: Sequence[Row], cluster: Cluster) -> tuple[float, float]:
    """Mean and standard deviation of ``as_dynamo`` over arrivals that are a little later."""
    found = []
    for seed in range(REPLAYS):
        rng = random.Random(seed)
        moved = [replace(row, arrival_s=row.arrival_s + LATER_S * rng.random()) for row in rows]
        moved.sort(key=lambda row: row.arrival_s)
        found.append(as_dynamo([replace(r, number=i) for i, r in enumerate(moved)], cluster))
    return mean(found), stdev(found)


def _seen(cluster: Cluster, run: tuple[int, int]) -> int:
    return run[0] if cluster.sees == "gpu" else run[1]


def _chosen(cluster: Cluster, row: Row, costs: Sequence[float]) -> int:
    return row.number % cluster.workers if cluster.sees == "nothing" else costs.index(min(costs))
