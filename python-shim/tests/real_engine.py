"""The scripted engine over the real sidecar: its KV memory is a mapping of this process."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from mini_vllm import CELL, MiniEngine, Request, Worker

from flexkv import protocol as p
from flexkv.client import Link, Session
from flexkv.config import Settings
from flexkv.fences import NoFences
from flexkv.handles import allow_tracing_by, process_handles
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.layout import Storage
from flexkv.proof import expires_ns, proof_blocks
from flexkv.scheduler import SchedulerFacts, SchedulerSide
from flexkv.worker import WorkerLimits, WorkerSide

BLOCK = 4
TIMEOUT_S = 20.0


class Row:
    """The cells of one block, in the mapping."""

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        self._memory, self._start = memory, start

    def __getitem__(self, index: int) -> bytes:
        at = self._start + index * CELL
        return self._memory[at : at + CELL]

    def __setitem__(self, index: int, data: bytes) -> None:
        at = self._start + index * CELL
        self._memory[at : at + CELL] = data


class Immediate:
    """A stream whose work is over when it is launched: a CPU engine."""

    def append(self, work: Callable[[], None]) -> None:
        work()

    def __len__(self) -> int:
        return 0


class MappedWorker(Worker):
    """A rank whose blocks the sidecar reads and writes by the process backend."""

    def __init__(self, rank: int, blocks: int) -> None:
        super().__init__(rank, 0, BLOCK)
        self.blocks = blocks
        self.block_bytes = BLOCK * CELL
        self.memory = mmap.mmap(-1, blocks * self.block_bytes)
        self.cells = [Row(self.memory, b * self.block_bytes) for b in range(blocks)]  # type: ignore[misc]
        self.stream = Immediate()  # type: ignore[assignment]
        self.proved = False
        self._lock = threading.Lock()

    def register(self, session: Session) -> bool:
        """``on_attach``: proves the layout the first time, then only names it."""
        with self._lock:
            allow_tracing_by(session.server_pid)
            size = self.blocks * self.block_bytes
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            layout = {
                "block_tokens": BLOCK,
                "num_blocks": self.blocks,
                "fingerprint": hashlib.sha256(f"{self.block_bytes}".encode()).hexdigest(),
                "allocations": process_handles([Storage(address, size, None)]),
                "regions": [[0, 0, self.block_bytes, self.block_bytes, self.blocks]],
            }
            who: dict[str, object] = {"session_id": session.session_id}
            about = {"layout": layout, "fences": None, "proved": self.proved}
            session.control("register", {**who, **about}, TIMEOUT_S)
            if not self.proved:
                self._prove(session, who)
            session.control("confirm", who, TIMEOUT_S)
            self.proved = True
        return True

    def _prove(self, session: Session, who: dict[str, object]) -> None:
        places = proof_blocks(self.blocks)
        for block in places:
            self._put(block, p.proof_bytes(5, 0, block, self.block_bytes))
        seeds: dict[str, object] = {**who, "blocks": places, "expires_ns": expires_ns()}
        answer = session.control("prove_read", {**seeds, "seed": 5}, TIMEOUT_S)
        assert answer["equal"] is True, answer
        session.control("prove_write", {**seeds, "seed": 6}, TIMEOUT_S)
        for block in places:
            assert self._get(block) == p.proof_bytes(6, 0, block, self.block_bytes)
            self._put(block, bytes(self.block_bytes))

    def _put(self, block: int, data: bytes) -> None:
        self.memory[block * self.block_bytes : (block + 1) * self.block_bytes] = data

    def _get(self, block: int) -> bytes:
        return self.memory[block * self.block_bytes : (block + 1) * self.block_bytes]


class RealEngine:
    """One instance, attached and ready when the constructor returns."""

    def __init__(self, settings: Settings, *, ranks: int = 1, blocks: int = 32, **engine: Any):
        name = f"scripted-{uuid.uuid4()}"

        def hello(role: int, rank: int = 0) -> p.Hello:
            return p.Hello(
                role=role, pid=0, instance=name, rank=rank, world_size=ranks,
                namespace="cd" * 32, block_tokens=BLOCK,
            )  # fmt: skip

        self.workers = [MappedWorker(rank, blocks) for rank in range(ranks)]
        self.link = Link(settings, lambda: hello(p.ROLE_SCHEDULER), generation_entries=blocks)
        self.links = [
            Link(settings, lambda r=w.rank: hello(p.ROLE_WORKER, r), on_attach=w.register)  # type: ignore[misc]
            for w in self.workers
        ]
        self.side = SchedulerSide(SchedulerFacts(BLOCK, blocks), self.link)
        self.sides = [WorkerSide(link, NoFences(), WorkerLimits(3000, 2000)) for link in self.links]
        self.hooks = SchedulerHooks(lambda: self.side)
        worker_hooks = []
        for side in self.sides:
            hook = WorkerHooks(lambda _, s=side: s)  # type: ignore[misc]
            hook.register_kv_caches({})
            worker_hooks.append(hook)
        self.engine = MiniEngine(
            self.hooks, worker_hooks, blocks=blocks, block_tokens=BLOCK, workers=self.workers,
            **engine,
        )  # fmt: skip
        for link in (self.link, *self.links):
            link.start()
        for link in (self.link, *self.links):
            assert link.wait(30.0) is not None, "no sidecar"

    def close(self) -> None:
        for link in (self.link, *self.links):
            link.close()

    def add(self, request_id: str, prompt: list[int], max_new: int = 2, **more: Any) -> Request:
        return self.engine.add(request_id, prompt, max_new, **more)

    def run(self, timeout_s: float = 30.0) -> None:
        """Steps until no request is left; an idle engine polls about once a millisecond."""
        deadline = time.monotonic() + timeout_s
        while self.engine.has_requests():
            assert time.monotonic() < deadline, f"stuck: {self.engine.requests}"
            if not self.engine.step().num_scheduled_tokens:
                time.sleep(0.001)

    def settle(self, timeout_s: float = 10.0) -> None:
        """Until the sidecar has no save in hand that this engine has planned."""
        deadline = time.monotonic() + timeout_s
        session = self.link.session()
        idle = 0
        while session is not None and session.alive() and time.monotonic() < deadline and idle < 3:
            status = session.control("status", {}, TIMEOUT_S)
            idle = idle + 1 if status["cache"]["save_jobs"] == 0 else 0  # type: ignore[index]
            time.sleep(0.02)  # the status may be older than the last plan

    def wait_for_sessions(self, count: int, timeout_s: float = 10.0) -> None:
        """Until the sidecar has seen the end of all but ``count`` sessions of engines."""
        deadline = time.monotonic() + timeout_s
        session = self.link.session()
        assert session is not None
        while session.control("status", {}, TIMEOUT_S)["clients"] != count:
            assert time.monotonic() < deadline, "an ended session is still served"
            time.sleep(0.005)

    def check_clean(self) -> None:
        assert not self.engine.requests
        assert self.engine.leaked() == 0
        assert len(self.side.loads) == 0
        assert all(side.open_loads == 0 for side in self.sides)
        assert not self.hooks.guard.errors
        assert not any(w.hooks.guard.errors for w in self.workers if w.hooks)
