"""KV memory and the two sessions of an engine with one rank: the real protocol without vLLM."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import torch

from flexkv import protocol as p
from flexkv.client import Link, Session
from flexkv.config import Settings
from flexkv.fences import EventFences, NoFences, cuda_fences
from flexkv.layout import derive_layout
from flexkv.registration import Registration

LAYERS = 32
PAGE = 65536
BLOCK_BYTES = LAYERS * PAGE


class Rank:
    """Memory of 2 n + 1 blocks: the null block, n that are saved, n that are loaded into.

    `scattered` hands the blocks out in random order, so that no two neighbours can be copied as
    one. A layer's share of a block has `page` bytes; with `one_buffer` all layers lie in one
    allocation, else each in its own.
    """

    def __init__(
        self, device: str, blocks: int, *, scattered: bool = False, seed: int = 1,
        page: int = PAGE, one_buffer: bool = False,
    ) -> None:  # fmt: skip
        self.blocks = blocks
        self.total = 2 * blocks + 1
        buffers = 1 if one_buffer else LAYERS
        memory = [
            torch.zeros((LAYERS // buffers, self.total, page), dtype=torch.uint8, device=device)
            for _ in range(buffers)
        ]
        rows = [layer for buffer in memory for layer in buffer]
        self.layers = {f"layer.{i}": layer for i, layer in enumerate(rows)}
        self.source_ids = list(range(1, 1 + blocks))
        self.target_ids = list(range(1 + blocks, 1 + 2 * blocks))
        if scattered:
            rng = random.Random(seed)
            rng.shuffle(self.source_ids)
            rng.shuffle(self.target_ids)
        layout = derive_layout(self.layers, num_blocks=self.total, block_tokens=16)
        self.fences: EventFences | NoFences = cuda_fences() if device == "cuda" else NoFences()
        settings = Settings.load({})
        instance = f"rank-test-{os.getpid()}"
        hello: dict[str, Any] = dict(
            pid=os.getpid(), instance=instance, namespace="rank-test", block_tokens=16
        )
        registration = Registration()
        self.scheduler = Link(
            settings, lambda: p.Hello(p.ROLE_SCHEDULER, **hello), generation_entries=self.total
        )
        self.worker = Link(
            settings, lambda: p.Hello(p.ROLE_WORKER, **hello), on_attach=registration.again
        )
        self.worker.start()
        if not registration.first(layout, self.fences, self.worker, 60):
            raise SystemExit("the layout could not be registered")
        self.scheduler.start()
        self.counter = 0
        self._ended: dict[int, p.JobDone] = {}

    def close(self) -> None:
        """Ends both sessions."""
        self.scheduler.close()
        self.worker.close()

    def sessions(self) -> tuple[Session, Session]:
        """A scheduler and a worker session of one sidecar life, ready to serve; bounded."""
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            one, two = self.scheduler.session(), self.worker.session()
            same_life = one and two and one.boot_epoch == two.boot_epoch
            if one and two and same_life and one.alive() and two.alive() and self._ready(one):
                return one, two
            time.sleep(0.01)
        raise SystemExit("no sidecar within 30 s")

    def _ready(self, session: Session) -> bool:
        return self.lookup(session, 1 << 40).status != p.LOOKUP_NOT_READY

    def synchronize(self) -> None:
        """Until the GPU has done what it was told."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def fill(self, first: int, value: int) -> None:
        """One value in the `blocks` blocks from this one on."""
        for layer in self.layers.values():
            layer[first : first + self.blocks] = value
        self.synchronize()

    def fill_source(self, seed: int) -> torch.Tensor:
        """Distinct content a block in blocks 1..n; returns the expected first bytes."""
        values = (torch.arange(self.blocks, device=self.device) * 7 + seed) % 251
        for layer in self.layers.values():
            layer[1 : 1 + self.blocks] = values[:, None].to(torch.uint8)
        self.synchronize()
        return values.to(torch.uint8)

    def expected(self, seed: int) -> torch.Tensor:
        """What `fill_source` wrote, in the order in which the source blocks are saved."""
        numbers = torch.tensor(self.source_ids, device=self.device) - 1
        return ((numbers * 7 + seed) % 251).to(torch.uint8)

    @property
    def device(self) -> Any:
        """Where the memory lies."""
        return next(iter(self.layers.values())).device

    def target(self) -> slice:
        """The blocks that are loaded into."""
        return slice(1 + self.blocks, 1 + 2 * self.blocks)

    def lookup(self, session: Session, request: int, chain: int = 0) -> p.LookupAnswer:
        """Asks, and waits for the answer."""
        self.counter += 1
        query = self.counter
        session.send(p.Lookup(query, request, chain, 0, self.blocks))
        limit = time.monotonic() + 5
        while time.monotonic() < limit:
            answer = session.wait_for(query, 1000)
            if isinstance(answer, p.LookupAnswer):
                return answer
        raise SystemExit("no answer to a lookup within 5 s")

    def extend(self, session: Session, request: int, tag: int) -> None:
        """Tells the request's keys."""
        keys = b"".join(
            bytes(24) + (tag << 32 | i).to_bytes(8, "little") for i in range(self.blocks)
        )
        session.send(p.Extend(request, 0, 32, keys))

    def save(self, scheduler: Session, worker: Session, request: int) -> None:
        """Saves the source blocks and waits for the end."""
        job = self.start_save(scheduler, worker, request)
        done = self.wait_done(worker, job)
        if done.status != p.STATUS_OK:
            raise SystemExit(f"the save ended as {p.STATUS_NAMES.get(done.status)}")

    def start_save(self, scheduler: Session, worker: Session, request: int) -> int:
        """Plans a save and lets it go; returns the job."""
        self.counter += 1
        job = p.job_id(scheduler.session_id, self.counter)
        ids = tuple(self.source_ids)
        scheduler.send(p.PlanSave(job, request, 0, ids, tuple(0 for _ in ids)))
        self._go(worker, job, p.KIND_SAVE, p.NO_INDEX)
        return job

    def start_load(self, scheduler: Session, worker: Session, request: int) -> int:
        """Plans a load of all blocks and lets it go; returns the job."""
        answer = self.lookup(scheduler, request, self.blocks)
        if answer.servable != self.blocks:
            raise SystemExit(f"{answer.servable} of {self.blocks} blocks are servable")
        self.counter += 1
        job = p.job_id(scheduler.session_id, self.counter)
        ids = tuple(self.target_ids)
        scheduler.send(p.PlanLoad(job, request, answer.lease_id, answer.generation, 0, ids))
        self._go(worker, job, p.KIND_LOAD, 0)
        return job

    def _go(self, worker: Session, job: int, kind: int, word: int) -> None:
        fence = self.fences.record(worker)
        if fence is None:
            raise SystemExit("no fence event is free")
        worker.send(p.Go(job, fence.sequence, fence.index, word, 60_000, kind, fence.kind))

    def wait_done(self, worker: Session, job: int) -> p.JobDone:
        """The end of this job."""
        limit = time.monotonic() + 60
        while job not in self._ended:
            if time.monotonic() > limit:
                raise SystemExit("a job did not end within 60 s")
            for record in worker.poll():
                if isinstance(record, p.JobDone):
                    self._ended[record.job_id] = record
            time.sleep(0.0002)
        return self._ended.pop(job)
