"""A whole instance without vLLM: one scheduler session and one worker session over plain memory.

The worker's "KV cache" is an anonymous mapping of this process, which the sidecar reads and writes
by the process backend.  For tests and benches against the real sidecar; standard library only.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from flexkv import protocol as p
from flexkv.ring import GenerationTable
from flexkv.session import Session, open_session

_PR_SET_PTRACER = 0x59616D61
CONTROL_TIMEOUT_S = 10.0
#: Short, since what is waited for needs the cores of a small machine itself.
_SPIN_US = 50.0


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot (field 22 of ``/proc/<pid>/stat``)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split()[19])


def random_hashes(seed: int, count: int, width: int = 32) -> bytes:
    """``count`` block hashes joined."""
    return random.Random(seed).randbytes(count * width)


class PlainInstance:
    """Attached, registered and proved when the constructor returns."""

    def __init__(
        self,
        socket_path: str,
        *,
        blocks: int = 64,
        block_bytes: int = 4096,
        rings: bool = True,
        namespace: str = "ab" * 32,
        events: bool = False,
        block_tokens: int = 16,
    ) -> None:
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.block_tokens = block_tokens
        self.memory = mmap.mmap(-1, blocks * block_bytes)
        self.generations = GenerationTable(blocks)
        self._counter = 0
        name = f"plain-{uuid.uuid4()}"
        common = {
            "instance": name, "namespace": namespace, "block_tokens": block_tokens, "rings": rings,
        }  # fmt: skip
        self.scheduler = open_session(
            socket_path,
            p.Hello(role=p.ROLE_SCHEDULER, pid=0, events=events, **common),  # type: ignore[arg-type]
            self.generations,
        )
        self.worker = open_session(
            socket_path,
            p.Hello(role=p.ROLE_WORKER, pid=0, **common),  # type: ignore[arg-type]
            None,
        )
        self._register()

    def close(self) -> None:
        self.worker.close()
        self.scheduler.close()

    # ------------------------------------------------------------------ registration
    def _register(self) -> None:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(self.worker.server_pid), 0, 0, 0)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        size = self.blocks * self.block_bytes
        fingerprint = hashlib.sha256(f"{self.blocks} {self.block_bytes}".encode()).hexdigest()
        layout = {
            "block_tokens": self.block_tokens,
            "num_blocks": self.blocks,
            "fingerprint": fingerprint,
            "allocations": [
                {
                    "kind": "process",
                    "pid": os.getpid(),
                    "start_ticks": start_ticks(os.getpid()),
                    "address": address,
                    "length": size,
                }
            ],
            "regions": [[0, 0, self.block_bytes, self.block_bytes, self.blocks]],
        }
        session: dict[str, object] = {"session_id": self.worker.session_id}
        self._ask("register", {**session, "layout": layout, "fences": None, "proved": False})
        places = sorted({0, 1, self.blocks // 2, self.blocks - 1})
        for block in places:
            self.write_block(block, p.proof_bytes(11, 0, block, self.block_bytes))
        session["expires_ns"] = time.monotonic_ns() + 8_000_000_000
        answer = self._ask("prove_read", {**session, "seed": 11, "blocks": places})
        assert answer["equal"] is True, answer
        self._ask("prove_write", {**session, "seed": 12, "blocks": places})
        for block in places:
            assert self.read_block(block) == p.proof_bytes(12, 0, block, self.block_bytes)
            self.write_block(block, bytes(self.block_bytes))
        self._ask("confirm", session)

    def _ask(self, op: str, args: dict[str, object]) -> dict[str, object]:
        return self.worker.control(op, args, CONTROL_TIMEOUT_S)

    def write_block(self, block: int, data: bytes) -> None:
        self.memory[block * self.block_bytes : (block + 1) * self.block_bytes] = data

    def read_block(self, block: int) -> bytes:
        return self.memory[block * self.block_bytes : (block + 1) * self.block_bytes]

    # ------------------------------------------------------------------ jobs
    def _next_job(self) -> int:
        self._counter += 1
        return p.job_id(self.scheduler.session_id, self._counter)

    def lookup(self, request: int, hashes: bytes, timeout_s: float = 5.0) -> p.LookupAnswer:
        """Sends the whole chain and asks for its depth until the sidecar has an answer."""
        count = len(hashes) // 32
        deadline = time.monotonic() + timeout_s
        while True:
            self._counter += 1
            query = self._counter
            assert self.scheduler.send(
                p.Extend(request, 0, 32, hashes), p.Lookup(query, request, count, 0, count)
            )
            answer = self.scheduler.wait_for(query, 2_000_000)
            assert isinstance(answer, p.LookupAnswer), f"no answer: {answer}"
            if answer.status == p.LOOKUP_OK or time.monotonic() > deadline:
                return answer
            time.sleep(0.001)

    def save(
        self,
        request: int,
        hashes: bytes,
        block_ids: list[int],
        facts: Sequence[p.Record] = (),
    ) -> p.SaveDone:
        """Saves one chain from these blocks and waits for it; ``facts`` are what events need."""
        job = self._next_job()
        counters = tuple(self.generations[b] for b in block_ids)
        assert self.scheduler.send(
            p.Extend(request, 0, 32, hashes),
            *facts,
            p.PlanSave(job, request, 0, tuple(block_ids), counters),
        )
        assert self.worker.send(p.Go(job, 0, p.NO_INDEX, p.NO_INDEX, 5000, p.KIND_SAVE))
        done = _await(self.worker, p.JobDone, job)
        assert isinstance(done, p.JobDone)
        assert done.status == p.STATUS_OK, done
        saved = _await(self.scheduler, p.SaveDone, job)
        assert isinstance(saved, p.SaveDone)
        return saved

    def load(
        self, answer: p.LookupAnswer, block_ids: list[int], deadline_ms: int = 5000
    ) -> p.JobDone:
        """Loads the first blocks of a chain under the lease of ``answer`` and waits for it."""
        job = self._next_job()
        plan = p.PlanLoad(
            job, answer.request_id, answer.lease_id, answer.generation, 0, tuple(block_ids)
        )
        assert self.scheduler.send(plan)
        assert self.worker.send(p.Go(job, 0, p.NO_INDEX, 0, deadline_ms, p.KIND_LOAD))
        done = _await(self.worker, p.JobDone, job)
        assert isinstance(done, p.JobDone)
        return done


def _await(session: Session, kind: type[object], job: int, timeout_s: float = 10.0) -> p.Record:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = session.wait_for(
            lambda r: isinstance(r, kind) and getattr(r, "job_id", None) == job, _SPIN_US
        )
        if found is not None:
            return found
        assert session.alive(), "the sidecar has gone"
        time.sleep(0.0005)
    raise AssertionError(f"no {kind.__name__} of job {job:#x} within {timeout_s} s")
