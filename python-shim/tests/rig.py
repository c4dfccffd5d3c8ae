"""A scripted engine, its connector and an in-memory sidecar, wired together for one test."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

from memory_sidecar import FakeGenerations, FakeLink, FakeSidecar
from mini_vllm import LOADING, MiniEngine, Request, StreamFences, Worker, block_hash, cell

from flexkv.events import EventFeed, EventMaker
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.lookups import LookupLimits
from flexkv.protocol import KIND_LOAD, KIND_SAVE
from flexkv.scheduler import SchedulerFacts, SchedulerSide
from flexkv.worker import WorkerLimits, WorkerSide

BLOCK = 4


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """See the module.  ``steps`` runs whole steps with the sidecar doing everything at once."""

    def __init__(
        self,
        *,
        ranks: int = 1,
        blocks: int = 32,
        attach: bool = True,
        limits: WorkerLimits | None = None,
        sidecar: FakeSidecar | None = None,
        events: EventMaker | None = None,
        load_wait_ms: float = 0.0,
        lockstep: bool = False,
        reads_ahead: bool = False,
        **engine: Any,
    ) -> None:
        self.clock = Clock()
        feed = None if events is None else EventFeed(BLOCK, events, self.clock)
        self.generations = FakeGenerations(blocks)
        self.link = FakeLink(self.generations)
        self.side = SchedulerSide(
            SchedulerFacts(
                BLOCK,
                blocks,
                ranks=ranks,
                lockstep=lockstep,
                reads_ahead=reads_ahead,
                by_priority=engine.get("by_priority", False),
                admits_without_room=engine.get("older", False),
                shows_new_blocks_only=engine.get("older", False),
                resumes_loads_as_new=engine.get("older", False),
            ),
            self.link,
            LookupLimits(asks_max=50, silent_s=0.3),
            self.clock,
            events=feed,
            load_wait_ms=load_wait_ms,
            sleep=self._sleep,
        )
        self.slept = 0
        self.while_asleep: Callable[[], None] = lambda: None
        """What the rest of the world does each time the scheduler sleeps."""
        self.hooks = SchedulerHooks(lambda: self.side, frees_open_loads=engine.get("older", False))
        self.workers = [Worker(rank, blocks, BLOCK) for rank in range(ranks)]
        self.worker_links = [FakeLink() for _ in range(ranks)]
        self.worker_sides = [
            WorkerSide(link, StreamFences(worker), limits, self.clock)
            for link, worker in zip(self.worker_links, self.workers, strict=True)
        ]
        worker_hooks = []
        for side in self.worker_sides:
            hook = WorkerHooks(functools.partial(_made, side))
            hook.register_kv_caches({})
            worker_hooks.append(hook)
        self.engine = MiniEngine(
            self.hooks, worker_hooks, blocks=blocks, block_tokens=BLOCK, workers=self.workers,
            **engine,
        )  # fmt: skip
        self.sidecar = sidecar or FakeSidecar(world_size=ranks)
        self.prompts: list[list[int]] = []
        if attach:
            self.attach(self.sidecar)

    def _sleep(self, seconds: float) -> None:
        self.slept += 1
        self.clock.now += seconds
        self.while_asleep()

    # ------------------------------------------------------------------ sidecars
    def attach(self, sidecar: FakeSidecar) -> None:
        """Every process of the engine has a session with this life of the sidecar."""
        self.sidecar = sidecar
        self.attach_scheduler(sidecar)
        for rank in range(len(self.workers)):
            self.attach_worker(rank, sidecar)

    def attach_scheduler(self, sidecar: FakeSidecar) -> None:
        self.link.present = sidecar.open_scheduler(self.generations)

    def attach_worker(self, rank: int, sidecar: FakeSidecar) -> None:
        worker = self.workers[rank]
        session = sidecar.open_worker(rank, worker)
        session.fence_reached = lambda index, sequence: worker.fence >= sequence
        self.worker_links[rank].present = session

    def restart(self) -> FakeSidecar:
        """The sidecar is dead, another one serves everybody: empty, with a new epoch."""
        self.sidecar.kill()
        self.attach(FakeSidecar(world_size=len(self.workers)))
        return self.sidecar

    # ------------------------------------------------------------------ steps
    def add(self, request_id: str, prompt: list[int], max_new: int = 2, **more: Any) -> Request:
        request = self.engine.add(request_id, prompt, max_new, **more)
        self.prompts.append(request.tokens)  # grows with what is generated
        return request

    def steps(self, count: int = 1, *, copies: bool = True) -> None:
        for _ in range(count):
            self.engine.step()
            self.clock.now += 0.01
            if copies:
                self.sidecar.run_copies()

    def run(self, limit: int = 400, *, copies: bool = True) -> None:
        """Until no request is left."""
        for _ in range(limit):
            if not self.engine.has_requests():
                return
            self.steps(1, copies=copies)
        left = [(r.request_id, r.status) for r in self.engine.requests.values()]
        raise AssertionError(f"stuck: {left}")

    def serve(self, request_id: str, prompt: list[int], max_new: int = 2, **more: Any) -> int:
        """One request alone, to its end; the external tokens that it was granted."""
        before = self.engine.external_tokens
        self.add(request_id, prompt, max_new, **more)
        self.run()
        return self.engine.external_tokens - before

    def drop_engine_cache(self) -> None:
        """The engine's own prefix cache forgets everything; ours keeps it."""
        assert self.engine.reset(connector=False)

    def start_load(self, request_id: str, prompt: list[int], max_new: int = 2) -> Request:
        """A request whose blocks are all in the sidecar, up to its open load (nothing copied)."""
        request = self.add(request_id, prompt, max_new)
        self.steps(1, copies=False)
        assert request.status == LOADING
        return request

    def jobs(self, kind: int) -> list[int]:
        """Jobs of this kind that the sidecar has, in order."""
        wanted = {KIND_LOAD: "PlanLoad", KIND_SAVE: "PlanSave"}[kind]
        return [i for i, j in self.sidecar.jobs.items() if type(j.record).__name__ == wanted]

    # ------------------------------------------------------------------ oracles
    def check_clean(self) -> None:
        """Nothing is left that belongs to a request."""
        if self.side.arrivals.remembers:
            self.steps(2)  # the workers' word on a load that vLLM was told of comes with a step
        assert not self.engine.requests
        assert self.engine.leaked() == 0
        for name in self.engine.received:
            assert name in self.side.barred, "received, and gone: the next of that id is not"
        assert not self.engine.recving_left
        assert not self.engine.sending_left
        assert len(self.side.loads) == 0
        assert not self.side._states
        assert all(side.open_loads == 0 for side in self.worker_sides)
        assert not self.side.arrivals.remembers
        assert not self.hooks.guard.errors
        assert not any(w.hooks.guard.errors for w in self.workers if w.hooks)
        self.check_cache()

    def check_held(self) -> int:
        """Every block that a running request has computed is its own to save; how many there are.

        Holds from one reset of the cache to the next, whose holes are meant.
        """
        checked = 0
        for request in self.engine.running:
            state = self.side._states[request.request_id]
            count = request.num_computed_tokens // BLOCK
            held = self.side._table.intact_prefix(state.blocks, state.held_at, 0, count)
            assert held == count, f"{request.request_id} lost its block {held} of {count}"
            checked += count
        return checked

    def check_cache(self) -> int:
        """Every block that could be served holds what its tokens say; how many there are."""
        owners = {}
        for prompt in self.prompts:
            for end in range(BLOCK, len(prompt) + 1, BLOCK):
                owners[block_hash(prompt, end)] = (prompt, end)
        if self.side._reset.owed:
            return 0  # the sidecar has not heard of the reset yet, and is not asked for anything
        checked = 0
        for (generation, key), entry in self.sidecar.cache.items():
            if generation != self.sidecar.generation:
                continue
            prompt, end = owners[key]
            for rank, data in entry.parts.items():
                wanted = b"".join(
                    cell(prompt, i, self.engine.weights, rank) for i in range(end - BLOCK, end)
                )
                assert data == wanted, f"the cache holds wrong bytes of tokens {end - BLOCK}…{end}"
            checked += 1
        return checked


def _made(side: WorkerSide, kv_caches: Mapping[str, Any]) -> WorkerSide:
    return side


def prompt(count: int, seed: int = 0) -> list[int]:
    """Tokens of a prompt."""
    return random.Random(seed * 7919 + 1).choices(range(900), k=count)
