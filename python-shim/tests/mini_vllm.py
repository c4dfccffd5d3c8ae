"""A scripted stand-in for vLLM's scheduler and workers: how they treat a KV connector.

It has what decides correctness, read from the sources of 0.26 and 0.32: a block pool with reference
counts and a prefix cache that hashes a prompt's blocks when they are allocated (before their
forward), asynchronous loads with blocks held in ``WAITING_FOR_REMOTE_KVS``, recovery from invalid
blocks, preemption (by age or priority), aborts, deferred frees while a step is in flight, resets,
and a worker whose forward runs on a stream that may lag behind the host.

Bytes are real: the KV of token i of a request is a digest of its tokens up to i and of the weights'
version, and every forward checks all KV that it attends to.  One wrong byte fails the test.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexkv.fences import Fence
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.metadata import StepMetadata
from flexkv.protocol import FENCE_EVENT

CELL = 8
CLEARED = ("cleared",)
"""vLLM's ``AllBlocksCleared``."""

WAITING, LOADING, RUNNING, PREEMPTED, FINISHED = (
    "waiting",
    "loading",
    "running",
    "preempted",
    "done",
)


class WrongBytesError(AssertionError):
    """A forward met KV that is not that of its request's tokens."""


class EngineDiedError(AssertionError):
    """Something that an assertion in vLLM turns into the death of the engine."""


def cell(tokens: Sequence[int], upto: int, weights: int, rank: int) -> bytes:
    """The KV of token ``upto`` (its position, from 0)."""
    text = repr((list(tokens[: upto + 1]), weights, rank)).encode()
    return hashlib.blake2b(text, digest_size=CELL).digest()


def block_hash(tokens: Sequence[int], end: int) -> bytes:
    """vLLM's hash of the block that ends before token ``end``; weights are not in it."""
    return hashlib.sha256(repr(list(tokens[:end])).encode()).digest()


@dataclass
class Request:
    """The attributes of vLLM's request that a connector may read, and our own."""

    request_id: str
    tokens: list[int]
    max_new: int
    block_tokens: int
    priority: int = 0
    resumable: bool = False
    skip_reading_prefix_cache: bool = False
    status: str = WAITING
    num_computed_tokens: int = 0
    generated: int = 0
    block_hashes: list[bytes] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    draft_tokens: list[int] = field(default_factory=list)
    placeholders: int = 0
    life: int = 0
    last_step: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def all_token_ids(self) -> list[int]:
        return self.tokens

    def next_tokens(self, count: int) -> list[int]:
        """What the model will say next: known to the tests, not to the scheduler."""
        return [1000 + len(self.tokens) + i for i in range(count)]

    def update_hashes(self) -> None:
        while (len(self.block_hashes) + 1) * self.block_tokens <= len(self.tokens):
            end = (len(self.block_hashes) + 1) * self.block_tokens
            self.block_hashes.append(block_hash(self.tokens, end))


@dataclass
class PoolBlock:
    """``KVCacheBlock``."""

    block_id: int
    ref_cnt: int


class BlockPool:
    """Reference-counted blocks; block 0 is the null block.  Frees go to the back of the queue."""

    def __init__(self, blocks: int) -> None:
        self.refs = [0] * blocks
        self.hash_of: dict[int, bytes] = {}
        self.by_hash: dict[bytes, int] = {}
        self.free: deque[int] = deque(range(1, blocks))
        self.cached_block_hash_to_block = object()
        """Another object after each reset, as vLLM's map is."""

    def new(self, count: int) -> list[int] | None:
        if count > len(self.free):
            return None
        taken = [self.free.popleft() for _ in range(count)]
        for block in taken:
            self.uncache(block)
            self.refs[block] = 1
        return taken

    def uncache(self, block: int) -> None:
        old = self.hash_of.pop(block, None)
        if old is not None and self.by_hash.get(old) == block:
            del self.by_hash[old]

    def touch(self, block: int) -> None:
        if self.refs[block] == 0:
            self.free.remove(block)
        self.refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self.refs[block] -= 1
            assert self.refs[block] >= 0
            if self.refs[block] == 0:
                self.free.append(block)

    def get_cached_block(self, digest: bytes, groups: list[int]) -> list[PoolBlock] | None:
        assert groups == [0]
        block = self.by_hash.get(digest)
        return None if block is None else [PoolBlock(block, self.refs[block])]

    def cache(self, block: int, digest: bytes) -> None:
        if block not in self.hash_of:
            self.hash_of[block] = digest
            self.by_hash.setdefault(digest, block)


class Blocks:
    """``KVCacheBlocks``."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids

    def get_block_ids(self) -> tuple[list[int], ...]:
        return (list(self._ids),)


@dataclass
class CachedRequests:
    req_ids: list[str] = field(default_factory=list)
    new_block_ids: list[Any] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)


@dataclass
class SchedulerOutput:
    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    scheduled_cached_reqs: CachedRequests = field(default_factory=CachedRequests)
    preempted_req_ids: set[str] = field(default_factory=set)
    finished_req_ids: set[str] = field(default_factory=set)
    meta: StepMetadata = field(default_factory=StepMetadata)
    work: list[tuple[list[int], list[int], int, int]] = field(default_factory=list)
    drafts: dict[str, list[int]] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    samples: set[str] = field(default_factory=set)
    reports: list[tuple[set[str], set[str], set[int]]] | None = None
    seq: int = 0
    number: int = 0


@dataclass
class ConnectorOutput:
    finished_recving: set[str] | None = None
    invalid_block_ids: set[int] = field(default_factory=set)
    finished_sending: set[str] | None = None


class StreamFences:
    """Fences as marks in a worker's stream, which may run long after they were recorded."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sequence = 0

    def record(self, session: Any) -> Fence:
        self._sequence += 1
        sequence = self._sequence
        self._worker.stream.append(lambda: self._worker.reached(sequence))
        return Fence(FENCE_EVENT, sequence % 64, sequence)

    def handles(self) -> None:
        return None


class Worker:
    """One rank: memory, a stream of launched work, and the connector's worker side."""

    def __init__(self, rank: int, blocks: int, block_tokens: int) -> None:
        self.rank = rank
        self.block_tokens = block_tokens
        self.cells: list[list[bytes]] = [[b"\0" * CELL] * block_tokens for _ in range(blocks)]
        self.stream: deque[Callable[[], None]] = deque()
        self.fence = 0
        self.steps_done = 0
        self.hooks: WorkerHooks | None = None
        self.skip_wait_for_save = False

    def reached(self, sequence: int) -> None:
        self.fence = sequence

    # the sidecar's view of the memory
    def read(self, block: int) -> bytes:
        return b"".join(self.cells[block])

    def write(self, block: int, data: bytes) -> None:
        self.cells[block] = [data[i : i + CELL] for i in range(0, len(data), CELL)]

    def run_stream(self, count: int | None = None) -> None:
        left = len(self.stream) if count is None else min(count, len(self.stream))
        for _ in range(left):
            self.stream.popleft()()

    def launch(self, output: SchedulerOutput, weights: int) -> None:
        """One ``execute_model`` up to the end of the launched forward."""
        assert self.hooks is not None
        self.hooks.begin_step("handle_preemptions", output.meta)
        for tokens, blocks, first, count in output.work:
            self.stream.append(
                functools.partial(self._forward, tokens, blocks, first, count, weights)
            )
        if output.work and not self.skip_wait_for_save:
            self.hooks.wait_for_save()
        self.stream.append(functools.partial(self._step_done, output.number))

    def _step_done(self, number: int) -> None:
        self.steps_done = number

    def finish(self) -> tuple[set[str], set[str], set[int]]:
        """What a step's output says: received, sent, blocks that failed."""
        assert self.hooks is not None
        received = self.hooks.get_finished()
        return received, self.hooks.take_sent(), self.hooks.get_block_ids_with_load_errors()

    def _forward(
        self, tokens: list[int], blocks: list[int], first: int, count: int, weights: int
    ) -> None:
        for position in range(first):
            seen = self.cells[blocks[position // self.block_tokens]][position % self.block_tokens]
            if seen != cell(tokens, position, weights, self.rank):
                raise WrongBytesError(
                    f"rank {self.rank}, block {blocks[position // self.block_tokens]}, "
                    f"token {position} of {len(tokens)}"
                )
        for position in range(first, first + count):
            block = blocks[position // self.block_tokens]
            self.cells[block][position % self.block_tokens] = cell(
                tokens, position, weights, self.rank
            )


class MiniEngine:
    """Scheduler and ranks.  ``step`` runs one whole step; its parts can be called one by one."""

    def __init__(
        self,
        hooks: SchedulerHooks,
        worker_hooks: Sequence[WorkerHooks],
        *,
        blocks: int = 32,
        block_tokens: int = 4,
        budget: int = 64,
        max_running: int = 8,
        by_priority: bool = False,
        older: bool = False,
        workers: Sequence[Worker] | None = None,
    ) -> None:
        """``older``: before 0.16, an abort frees the blocks of an open load unless the connector
        keeps them, and leaves the word "received" of one that has ended; no free waits for a step
        that is in flight, and before 0.23 nothing is kept for whom a load was admitted: who finds
        no room ends the step, whoever comes behind. Before 0.14, a request that holds blocks shows
        those only that it is given now, and one that was preempted runs as new behind a load."""
        self.hooks = hooks
        self.block_tokens = block_tokens
        self.budget = budget
        self.max_running = max_running
        self.by_priority = by_priority
        self.older = older
        self.pool = BlockPool(blocks)
        self.pool_events: list[Any] = []
        self.events: list[Any] = []
        """What was published: the pool's events of a step, then the connector's."""
        hooks.bind_gpu_block_pool(self.pool)
        self.weights = 1
        self.workers = list(workers) if workers is not None else []
        for worker, worker_hook in zip(self.workers, worker_hooks, strict=True):
            worker.hooks = worker_hook
        self.requests: dict[str, Request] = {}
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.received: set[str] = set()
        self.failed: set[str] = set()
        self.finished_ids: set[str] = set()
        self.preempted_ids: set[str] = set()
        self.deferred: list[tuple[int, list[int]]] = []
        self.pending: deque[SchedulerOutput] = deque()
        self.done: dict[str, list[int]] = {}
        self.recving_left: dict[str, int] = {}
        self.sending_left: dict[str, int] = {}
        self.seq = self.processed = self.number = 0
        self.none_answers = self.external_tokens = self.preemptions = 0
        self.reports_at_launch = False
        """Workers look for ended loads when a step is launched, not when its output is taken."""

    # ------------------------------------------------------------------ requests
    def add(self, request_id: str, tokens: Sequence[int], max_new: int = 4, **more: Any) -> Request:
        request = Request(request_id, list(tokens), max_new, self.block_tokens, **more)
        request.update_hashes()
        self.requests[request_id] = request
        self.waiting.append(request)
        self.hooks.on_new_request(request)
        return request

    def abort(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request is None or request.status == FINISHED:
            return
        delay = request.status == LOADING and request_id not in self.received and not self.older
        if not self.older:
            self.received.discard(request_id)
            self.failed.discard(request_id)
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
        self._finish(request, delay_free=delay)

    def _finish(self, request: Request, *, delay_free: bool = False) -> None:
        request.status = FINISHED
        kept = self.hooks.request_finished(request)
        self.finished_ids.add(request.request_id)
        if not delay_free and not kept:
            self._free(request)
            del self.requests[request.request_id]

    def _free(self, request: Request) -> None:
        if request.last_step <= self.processed or self.older:
            self.pool.release(request.blocks)
        else:
            self.deferred.append((self.seq, request.blocks))
        request.blocks = []

    def preempt(self, request: Request) -> None:
        self._free(request)
        request.status = PREEMPTED
        request.num_computed_tokens = 0
        request.draft_tokens = []
        request.placeholders = 0
        request.life += 1
        self.preempted_ids.add(request.request_id)
        self.waiting.insert(0, request)
        self.preemptions += 1

    def reset(
        self, *, running: bool = False, connector: bool = True, weights: bool = False
    ) -> bool:
        """``reset_prefix_cache``; with ``weights`` the model was changed just before."""
        if weights:
            self.weights += 1
        if running:
            for request in reversed(list(self.running)):
                self.running.remove(request)
                self.preempt(request)
        held = any(self.pool.refs)
        if not held:
            self.pool.hash_of.clear()
            self.pool.by_hash.clear()
            self.pool.cached_block_hash_to_block = object()
            self.pool_events.append(CLEARED)
        answer = self.hooks.reset_cache() if connector else True
        return not held and answer is not False

    # ------------------------------------------------------------------ a step
    def schedule(self) -> SchedulerOutput:
        out = SchedulerOutput()
        budget = self.budget
        preemptions = self.preemptions
        new_blocks: dict[str, list[int]] = {}
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            target = request.num_tokens + request.placeholders + len(request.draft_tokens)
            want = min(target - request.num_computed_tokens, budget)
            if want <= 0 or request.generated + request.placeholders >= request.max_new:
                index += 1
                continue
            fresh = self._allocate(request, want)
            while fresh is None:
                victim = (
                    max(self.running, key=lambda r: r.priority)
                    if self.by_priority
                    else self.running[-1]
                )
                place = self.running.index(victim)
                self.running.remove(victim)
                if victim.request_id in out.num_scheduled_tokens:
                    # Scheduled, and given blocks, earlier in this very step.
                    budget += out.num_scheduled_tokens.pop(victim.request_id)
                    new_blocks.pop(victim.request_id)
                if place < index:
                    index -= 1
                self.preempt(victim)
                if victim is request:
                    break
                fresh = self._allocate(request, want)
            if fresh is None:
                break
            out.num_scheduled_tokens[request.request_id] = want
            new_blocks[request.request_id] = fresh
            budget -= want
            index += 1
        for request_id, ids in new_blocks.items():
            out.scheduled_cached_reqs.req_ids.append(request_id)
            out.scheduled_cached_reqs.new_block_ids.append((ids,) if ids else None)
        if preemptions == self.preemptions:
            self._schedule_waiting(out, budget)
        out.preempted_req_ids, self.preempted_ids = self.preempted_ids, set()
        out.finished_req_ids, self.finished_ids = self.finished_ids, set()
        out.meta = self.hooks.build_connector_meta(out)
        if out.num_scheduled_tokens:
            self.seq += 1
        out.seq = self.seq
        self.number += 1
        out.number = self.number
        for request_id, count in out.num_scheduled_tokens.items():
            request = self.requests[request_id]
            tokens = request.tokens + (
                request.draft_tokens or request.next_tokens(request.placeholders)
            )
            out.work.append((tokens, list(request.blocks), request.num_computed_tokens, count))
            out.drafts[request_id] = request.draft_tokens
            out.lives[request_id] = request.life
            request.num_computed_tokens += count
            request.last_step = self.seq
            if request.num_computed_tokens >= request.num_tokens + request.placeholders:
                out.samples.add(request_id)
                request.placeholders += 1
        self.pending.append(out)
        return out

    def _schedule_waiting(self, out: SchedulerOutput, budget: int) -> None:
        # Who holds blocks already goes first; vLLM has reservations against the same deadlock.
        first = (lambda _: 0) if self.older else (lambda r: not r.blocks)
        for request in sorted(self.waiting, key=first):
            if budget <= 0 or len(self.running) >= self.max_running:
                return
            if request.status == LOADING:
                if request.request_id not in self.received:
                    continue
                self._loaded(request)
            external, asynchronous = 0, False
            if request.num_computed_tokens == 0 and not request.blocks:
                hit = self._local_hit(request)
                local = len(hit) * self.block_tokens
                answer, asynchronous = self.hooks.get_num_new_matched_tokens(request, local)
                if answer is None:
                    self.none_answers += 1
                    continue
                external = answer
                assert asynchronous == (external > 0)
                if self.older and asynchronous and request.life:
                    raise EngineDiedError(f"{request.request_id} would run as new: its output lost")
                assert local + external < request.num_tokens
                fill = 0 if asynchronous else min(request.num_tokens - local, budget)
                if asynchronous and not self.older and not self._load_fits(request, len(hit)):
                    continue
                need = -(-(local + external + fill) // self.block_tokens) - len(hit)
                if need > len(self.pool.free) - sum(self.pool.refs[b] == 0 for b in hit):
                    if self.running or self.older:
                        return
                    continue
                for block in hit:
                    self.pool.touch(block)
                request.blocks = hit + (self.pool.new(need) or [])
                request.num_computed_tokens = local
                shown, scheduled = request.blocks, fill
            else:
                scheduled = min(request.num_tokens - request.num_computed_tokens, budget)
                fresh = self._allocate(request, scheduled)
                shown = request.blocks if not self.older else fresh or []
                if fresh is None:
                    # vLLM reserves for what loads; here the others get their turn.
                    if self.running or self.older:
                        return
                    continue
            if not asynchronous:
                self._cache(request, request.num_computed_tokens + scheduled)
            self.hooks.update_state_after_alloc(request, Blocks(shown), external)
            if asynchronous:
                request.status = LOADING
                request.num_computed_tokens += external
                self.external_tokens += external
                continue
            self.waiting.remove(request)
            request.status = RUNNING
            self.running.append(request)
            out.num_scheduled_tokens[request.request_id] = scheduled
            budget -= scheduled

    def _load_fits(self, request: Request, hits: int) -> bool:
        """Admission of a load: its whole sequence, beside what other loads still need."""

        def missing(other: Request, held: int) -> int:
            most = other.num_tokens + other.max_new - other.generated
            return -(-most // self.block_tokens) - held

        reserved = sum(missing(r, len(r.blocks)) for r in self.waiting if r.blocks)
        return missing(request, hits) + reserved + hits <= len(self.pool.free)

    def _local_hit(self, request: Request) -> list[int]:
        hit: list[int] = []
        if request.skip_reading_prefix_cache:
            return hit
        for digest in request.block_hashes[: (request.num_tokens - 1) // self.block_tokens]:
            block = self.pool.by_hash.get(digest)
            if block is None:
                break
            hit.append(block)
        return hit

    def _allocate(self, request: Request, count: int) -> list[int] | None:
        need = -(-(request.num_computed_tokens + count) // self.block_tokens) - len(request.blocks)
        fresh = self.pool.new(max(0, need))
        if fresh is None:
            return None
        request.blocks += fresh
        self._cache(request, min(request.num_computed_tokens + count, request.num_tokens))
        return fresh

    def _cache(self, request: Request, upto: int) -> None:
        """Hashes full blocks at allocation: their bytes come with the forward."""
        for index in range(min(upto // self.block_tokens, len(request.block_hashes))):
            self.pool.cache(request.blocks[index], request.block_hashes[index])

    def _loaded(self, request: Request) -> None:
        self.received.discard(request.request_id)
        if request.request_id in self.failed:
            self.failed.discard(request.request_id)
            if request.num_computed_tokens:
                self._cache(request, request.num_computed_tokens)
            else:
                self.pool.release(request.blocks)
                request.blocks = []
        else:
            self._cache(request, request.num_computed_tokens)
        request.status = WAITING

    def execute(self, out: SchedulerOutput) -> None:
        for worker in self.workers:
            worker.launch(out, self.weights)
        if self.reports_at_launch:
            out.reports = [worker.finish() for worker in self.workers]

    def update(self) -> None:
        """Takes the oldest step's output: its forward is over on every rank."""
        out = self.pending.popleft()
        received: set[str] = set()
        sent: set[str] = set()
        invalid: set[int] = set()
        reports = out.reports or [worker.finish() for worker in self.workers]
        for names, sent_names, blocks in reports:
            invalid |= blocks
            self._count(names, self.recving_left, received)
            self._count(sent_names, self.sending_left, sent)
        if out.num_scheduled_tokens:
            self.processed = out.seq
            for seq, blocks_freed in [d for d in self.deferred if d[0] <= self.processed]:
                self.deferred.remove((seq, blocks_freed))
                self.pool.release(blocks_freed)
        self._invalid(invalid)
        for request_id in out.num_scheduled_tokens:
            request = self.requests.get(request_id)
            if request is None or request.status == FINISHED:
                continue
            if request.life == out.lives[request_id] and request_id in out.samples:
                self._sampled(request, out.drafts[request_id])
        output = ConnectorOutput(received or None, invalid, sent)
        self.hooks.update_connector_output(output)
        self.events += [*self.pool_events, *self.hooks.take_events()]
        self.pool_events.clear()
        for name in sent:
            self._free(self.requests[name])
            del self.requests[name]
        for name in output.finished_recving or ():
            request = self.requests.get(name)
            if self.older:
                self.received.add(name)
                continue
            if request is None:
                raise EngineDiedError(f"{name} was reported as received twice, or without need")
            if request.status == LOADING:
                self.received.add(name)
            elif request.status == FINISHED:
                self._free(request)
                del self.requests[name]
            else:
                raise EngineDiedError(f"{name} was reported as received while {request.status}")

    def _count(self, names: set[str], left: dict[str, int], all_named: set[str]) -> None:
        """A name counts once every rank has given it."""
        for name in names:
            left[name] = left.get(name, len(self.workers)) - 1
            if left[name] == 0:
                del left[name]
                all_named.add(name)

    def _sampled(self, request: Request, drafts: list[int]) -> None:
        request.placeholders -= 1
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == request.next_tokens(1)[0] + accepted:
            accepted += 1
        request.num_computed_tokens -= len(drafts) - accepted
        request.draft_tokens = []
        count = min(1 + accepted, request.max_new - request.generated)
        request.tokens += request.next_tokens(count)
        request.generated += count
        request.update_hashes()
        if request.generated >= request.max_new:
            self.running.remove(request)
            self.done[request.request_id] = request.tokens[-request.generated :]
            self._finish(request)

    def _invalid(self, invalid: set[int]) -> None:
        for request in self.waiting:
            if request.status != LOADING:
                continue
            computed = -(-request.num_computed_tokens // self.block_tokens)
            for index in range(computed):
                if request.blocks[index] in invalid:
                    request.num_computed_tokens = index * self.block_tokens
                    self.failed.add(request.request_id)
                    break
        for request in self.running:
            if invalid & set(request.blocks):
                raise EngineDiedError(
                    f"blocks of running {request.request_id} were reported as failed"
                )

    def step(self) -> SchedulerOutput:
        """Synchronous scheduling: schedule, run, update."""
        out = self.schedule()
        self.execute(out)
        for worker in self.workers:
            worker.run_stream()
        self.update()
        return out

    def has_requests(self) -> bool:
        return bool(self.requests or self.finished_ids or self.hooks.has_pending_push_work())

    def leaked(self) -> int:
        """Blocks that are neither free nor null while nothing runs."""
        return len(self.pool.refs) - 1 - len(self.pool.free)
