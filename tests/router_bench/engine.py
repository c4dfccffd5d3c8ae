"""An engine without a model: vLLM's own block pool, our sidecar's two tiers, arithmetic for time.

What is real: vLLM's `KVCacheManager` (which prefix is in the GPU, what is evicted, its events), the
sidecar with host and SSD tier (lookups, leases, loads, saves, its index), our event feed and vLLM's
publisher.  What is not: a forward takes as long as its tokens say, one request is prefilled at a
time in chunks of 8,192 tokens, and decoding is a wait.  Blocks hold bytes made from their hash, and
every block that is reused, from wherever it came, is compared with them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import processes
from harness.modelless import PlainInstance
from router_bench.clock import Clock
from router_bench.replay import DECODE_S_TOKEN, PREFILL_TOKENS_S
from router_bench.residency import Reach, Residency
from router_bench.trace import BLOCK_TOKENS, Row

from flexkv import protocol as p
from flexkv.events import EventFeed
from flexkv.requests import RequestState
from flexkv.vllm_events import VllmEvents

CHUNK_TOKENS = 8192
BLOCK_BYTES = 4096
#: 144 KiB a token (Qwen3-8B, bf16) over a link of 40 GB/s and from a disk of 6 GB/s.
HOST_TOKENS_S, SSD_TOKENS_S = 270_000.0, 40_000.0
STEP_S = 0.005
_SIDECAR_TIMEOUT_S = 20.0
_MAX_TOKENS = 1 << 18


@dataclass(slots=True)
class Served:
    """One request at this engine: what came from where, in blocks, and when it was done."""

    arrived: float
    gpu: int = 0
    host: int = 0
    ssd: int = 0
    first_token: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    first_token_s: float = 0.0
    done_s: float = 0.0

    @property
    def reused(self) -> int:
        return self.gpu + self.host + self.ssd


class SimulatedEngine:
    """One worker's engine.  Everything runs in one asyncio loop."""

    def __init__(self, socket_path: str, gpu_blocks: int, tells_tiers: bool) -> None:
        from vllm.distributed.kv_events import KVEventBatch, ZmqEventPublisher

        self._clock, self._tells_tiers = Clock(1.0), tells_tiers
        self._instance: Any = PlainInstance(
            socket_path, blocks=gpu_blocks, block_bytes=BLOCK_BYTES, events=True,
            block_tokens=BLOCK_TOKENS,
        )  # fmt: skip
        self._scheduler, self._worker = self._instance.scheduler, self._instance.worker
        self._pool = _block_pool(gpu_blocks)
        self._hasher = _block_hasher()
        port = processes.free_port()
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._batch = KVEventBatch
        self._publisher = ZmqEventPublisher(0, endpoint=f"tcp://*:{port}", topic="kv-events")
        self._feed = EventFeed(BLOCK_TOKENS, VllmEvents(BLOCK_TOKENS, "CPU"), time.monotonic)
        self._feed.attached()
        self.residency = Residency()
        self._answers: dict[int, p.LookupAnswer] = {}
        self._ended: dict[int, p.JobDone] = {}
        self._saves: set[int] = set()
        self._numbers = 0
        self._waiting: deque[tuple[Row, Any, Served]] = deque()
        self._arrived, self._freed = asyncio.Event(), asyncio.Event()
        self._time = self._freed_at = 0.0
        """Up to when this engine's prefills have been accounted for, on the trace's clock."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.wrong_blocks = self.compared_blocks = self.failed_loads = self.lookups = (
            self.lookups_as_told
        ) = 0
        self.events = {"GPU": 0, "tiers": 0}

    # ------------------------------------------------------------------ from outside
    def start(self, clock: Clock) -> None:
        """Steps and serves from now on."""
        self._clock = clock
        self._spawn(self._step_on())
        self._spawn(self._serve_on())

    def request(self, row: Row, tokens: list[int]) -> Any:
        """vLLM's own request object, hashes and all."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        return Request(
            f"r{row.number}", tokens, SamplingParams(max_tokens=1), None, block_hasher=self._hasher
        )

    def submit(self, row: Row, request: Any) -> Served:
        """Queues a request."""
        served = Served(self._clock.now())
        self._waiting.append((row, request, served))
        self._arrived.set()
        return served

    def reach(self, hashes: Sequence[bytes], most: int) -> Reach:
        """What is true of a prompt at this moment: blocks in the GPU, then host, then SSD."""
        self._hear()
        gpu = 0
        while gpu < most and self._pool.block_pool.get_cached_block(hashes[gpu], [0]) is not None:
            gpu += 1
        return self.residency.reach(hashes, gpu, most)

    async def probe(self, hashes: Sequence[bytes], most: int) -> Reach:
        """The same, with the sidecar asked now; makes what it names young, so only at the end."""
        told = self.reach(hashes, most)
        if not most:
            return told
        answer = await self._ask(self._number(), hashes[:most], most, 0)
        host = max(told.gpu, answer.host)
        return Reach(told.gpu, host, max(host, answer.ssd))

    def counts(self) -> dict[str, int]:
        """What happened here."""
        return {
            "lookups": self.lookups,
            "lookups answered as the oracle said": self.lookups_as_told,
            "loads that failed": self.failed_loads,
            "reused blocks compared": self.compared_blocks,
            "reused blocks with wrong bytes": self.wrong_blocks,
            "events of the GPU": self.events["GPU"],
            "events of the lower tiers": self.events["tiers"],
        }

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._instance.close()
        self._publisher.shutdown()

    # ------------------------------------------------------------------ the engine
    async def _serve_on(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            row, request, served = self._waiting.popleft()
            self._time = max(self._time, served.arrived)
            number, saved = await self._prefill(row, request, served)
            self._clock.hold()  # until the client has it
            served.first_token_s = time.time()
            served.first_token.set()
            self._spawn(self._save(request, number, saved))
            self._spawn(self._decode(row, request, served, self._time))

    async def _prefill(self, row: Row, request: Any, served: Served) -> tuple[int, int]:
        """Returns its number at the sidecar, and how many of its blocks the sidecar has."""
        number = self._number()
        found, local_tokens, _ = self._pool.get_computed_blocks(request)
        served.gpu = local = local_tokens // BLOCK_TOKENS
        most = row.reusable_blocks
        answer = await self._ask(number, request.block_hashes[:most], local, most - local)
        offered = max(0, answer.servable - local)
        hit = (found, local)
        if offered:
            await self._allocate(request, 0, *hit, offered)
            await self._load(request, number, answer, local, offered, served)
            request.num_computed_tokens = (local + served.host + served.ssd) * BLOCK_TOKENS
            self._pool.cache_blocks(request, request.num_computed_tokens)
            hit = (None, 0)
        saved = min(answer.resident, local + served.host + served.ssd)
        while (
            left := row.input_tokens - (request.num_computed_tokens or hit[1] * BLOCK_TOKENS)
        ) > 0:
            chunk = min(left, CHUNK_TOKENS)
            await self._allocate(request, chunk, *hit)
            request.num_computed_tokens += hit[1] * BLOCK_TOKENS
            hit = (None, 0)
            self._publish()
            await self._spend(chunk / PREFILL_TOKENS_S)
            first = request.num_computed_tokens // BLOCK_TOKENS
            request.num_computed_tokens += chunk
            whole = request.num_computed_tokens // BLOCK_TOKENS
            self._fill(request, first, whole)
        self._check(request, 0, local)
        return number, saved

    async def _decode(self, row: Row, request: Any, served: Served, began: float) -> None:
        ends = began + row.output_tokens * DECODE_S_TOKEN
        await self._clock.until(ends)
        self._pool.free(request)
        self._freed_at = ends
        self._freed.set()
        served.done_s = time.time()
        served.done.set()

    async def _spend(self, seconds: float) -> None:
        """The engine is busy for so long, from when it was done with what came before."""
        self._time += seconds
        await self._clock.until(self._time)

    async def _allocate(
        self, request: Any, tokens: int, found: Any = None, local: int = 0, external: int = 0
    ) -> None:
        """Blocks for so many tokens; waits until there are some.  New ones count as assigned."""
        known = len(self._blocks(request)) if found is None else local
        while True:
            got = self._pool.allocate_slots(
                request, tokens, local * BLOCK_TOKENS, found,
                num_external_computed_tokens=external * BLOCK_TOKENS,
                delay_cache_blocks=external > 0,
            )  # fmt: skip
            if got is not None:
                break
            self._freed.clear()
            await self._freed.wait()
            self._time = max(self._time, self._freed_at)
        for block in self._blocks(request)[known:]:
            self._instance.generations.raise_(block)

    def _blocks(self, request: Any) -> list[int]:
        blocks: list[int] = self._pool.get_block_ids(request.request_id)[0]
        return blocks

    # ------------------------------------------------------------------ bytes
    def _fill(self, request: Any, first: int, end: int) -> None:
        blocks = self._blocks(request)
        for i in range(first, end):
            self._instance.write_block(blocks[i], _payload(request.block_hashes[i]))

    def _check(self, request: Any, first: int, end: int) -> None:
        blocks = self._blocks(request) if end > first else []
        for i in range(first, end):
            self.compared_blocks += 1
            if self._instance.read_block(blocks[i]) != _payload(request.block_hashes[i]):
                self.wrong_blocks += 1

    # ------------------------------------------------------------------ the sidecar
    async def _ask(
        self, number: int, hashes: Sequence[bytes], local: int, most: int
    ) -> p.LookupAnswer:
        """The sidecar's answer, asked again while blocks come from the SSD."""
        if not hashes:
            return p.LookupAnswer(0, number, 0, 0, 0, 0, 0, 0, 0)
        told = self.residency.reach(hashes, 0, len(hashes))
        self._send(p.Extend(number, 0, 32, b"".join(hashes)))
        while True:
            query = self._number()
            self._send(p.Lookup(query, number, len(hashes), local, most))
            with self._clock.held():
                answer: p.LookupAnswer = await self._await(self._answers, query)
                if answer.status == p.LOOKUP_OK:
                    break
                await asyncio.sleep(0.002)
        self.lookups += 1
        self.lookups_as_told += (answer.ssd, answer.host) == (told.ssd, max(told.host, answer.host))
        return answer

    async def _load(
        self, request: Any, number: int, answer: p.LookupAnswer, local: int, count: int,
        served: Served,
    ) -> None:  # fmt: skip
        job = self._job()
        blocks = tuple(self._blocks(request)[local : local + count])
        host = min(count, max(0, self.residency.host_run(request.block_hashes, local) - local))
        self._send(p.PlanLoad(job, number, answer.lease_id, answer.generation, local, blocks))
        self._go(job, p.KIND_LOAD)
        with self._clock.held():
            done = await self._await(self._ended, job)
        if done.status != p.STATUS_OK:
            self.failed_loads += 1
            return
        self._check(request, local, local + count)
        served.host, served.ssd = host, count - host
        await self._spend(BLOCK_TOKENS * (host / HOST_TOKENS_S + (count - host) / SSD_TOKENS_S))

    async def _save(self, request: Any, number: int, first: int) -> None:
        """Saves the prompt's whole blocks from ``first`` on; decoding holds them meanwhile."""
        blocks, end = self._blocks(request), request.num_computed_tokens // BLOCK_TOKENS
        if not first:
            self._send(p.Extend(number, 0, 32, b"".join(request.block_hashes)))
        state = RequestState(number, request.request_id, request)
        a_plan = self._feed.blocks_a_plan(32)
        for begin in range(first, end, a_plan):
            upto = min(end, begin + a_plan)
            ids = tuple(blocks[begin:upto])
            counters = tuple(self._instance.generations[b] for b in ids)
            job = self._job()
            facts = self._feed.facts(state, begin, upto)
            self._send(*facts, p.PlanSave(job, number, begin, ids, counters))
            self._go(job, p.KIND_SAVE)
            await self._await(self._ended, job)
        self._send(p.EndRequest(number))

    def _go(self, job: int, kind: int) -> None:
        revoke = 0 if kind == p.KIND_LOAD else p.NO_INDEX
        if not self._worker.send(p.Go(job, 0, p.NO_INDEX, revoke, 10_000, kind)):
            raise RuntimeError("the sidecar takes no go")

    def _send(self, *records: p.Record) -> None:
        if not self._scheduler.send(*records):
            raise RuntimeError(f"the sidecar takes no {type(records[-1]).__name__}")

    async def _await(self, arrived: dict[int, Any], key: int) -> Any:
        deadline = time.monotonic() + _SIDECAR_TIMEOUT_S
        while True:
            self._hear()
            if (found := arrived.pop(key, None)) is not None:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer of the sidecar within {_SIDECAR_TIMEOUT_S:g} s")
            await asyncio.sleep(0.0005)

    def _hear(self) -> None:
        for record in self._scheduler.poll():
            if isinstance(record, p.KvNotice):
                self.residency.heard(record)
                self._feed.heard(record)
            elif isinstance(record, p.LookupAnswer):
                self._answers[record.query_id] = record
        for record in self._worker.poll():
            if isinstance(record, p.JobDone):
                self._ended[record.job_id] = record

    # ------------------------------------------------------------------ steps
    async def _step_on(self) -> None:
        while True:
            self._hear()
            self._publish()
            self._feed.tell(self._scheduler.send)
            await asyncio.sleep(STEP_S)

    def _publish(self) -> None:
        """What vLLM's scheduler does at a step's end: its own events, then the connector's."""
        events = self._pool.take_events()
        self.events["GPU"] += len(events)
        ours = self._feed.take()
        if self._tells_tiers:
            self.events["tiers"] += len(ours)
            events += ours
        if events:
            self._publisher.publish(self._batch(ts=time.time(), events=events))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _job(self) -> int:
        return p.job_id(self._scheduler.session_id, self._number())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an engine's task failed", "exception": error}
            )


def _payload(block_hash: bytes) -> bytes:
    return bytes(block_hash) * (BLOCK_BYTES // len(block_hash))


def _block_pool(blocks: int) -> Any:
    import torch
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    config = KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)])
    return KVCacheManager(
        config, max_model_len=_MAX_TOKENS, scheduler_block_size=BLOCK_TOKENS,
        hash_block_size=BLOCK_TOKENS, enable_caching=True, enable_kv_cache_events=True,
    )  # fmt: skip


def _block_hasher() -> Callable[[Any], Any]:
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    init_none_hash(sha256)
    hasher: Callable[[Any], Any] = get_request_block_hasher(BLOCK_TOKENS, sha256)
    return hasher
