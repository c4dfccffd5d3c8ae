"""An engine without a model: a real sidecar, our event feed, vLLM's own publisher.

What it leaves out of vLLM is the model and the scheduler: it decides itself which chains to save.
Everything from the save plan to the bytes on the ZeroMQ stream is what a real engine runs.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python-shim" / "tests"))


from flexkv import protocol as p
from flexkv.events import EventFeed
from flexkv.requests import RequestState
from flexkv.vllm_events import VllmEvents
from harness import processes

#: A scheduler and a worker session over plain memory, which the shim's tests use as well.
PlainInstance: Any = importlib.import_module("plain_instance").PlainInstance

BLOCK_TOKENS = 16
_SETTLE_S = 20.0


@dataclass(slots=True)
class Chain:
    """A prompt of whole blocks: what the feed reads of a request."""

    all_token_ids: list[int]
    block_hashes: list[bytes]
    lora_request: None = None
    cache_salt: None = None

    @staticmethod
    def of(tokens: Sequence[int]) -> Chain:
        """Hashes are chained over the tokens, as vLLM's are."""
        hashes: list[bytes] = []
        for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
            parent = hashes[-1] if hashes else b""
            block = repr(list(tokens[end - BLOCK_TOKENS : end])).encode()
            hashes.append(hashlib.sha256(parent + block).digest())
        return Chain(list(tokens), hashes)

    def wire(self, index: int) -> int:
        """A block's hash as events carry it."""
        return int.from_bytes(self.block_hashes[index][-8:], "big")


class ModellessEngine:
    """One worker of a router; steps when it is told to."""

    def __init__(self, socket_path: str, *, blocks: int = 64, block_bytes: int = 4096) -> None:
        from vllm.distributed.kv_events import KVEventBatch, ZmqEventPublisher

        self._path, self._blocks, self._block_bytes = socket_path, blocks, block_bytes
        self._batch = KVEventBatch
        port, replay = processes.free_port(), processes.free_port()
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.replay_endpoint = f"tcp://127.0.0.1:{replay}"
        self._publisher = ZmqEventPublisher(
            0, endpoint=f"tcp://*:{port}", replay_endpoint=self.replay_endpoint, topic="kv-events",
            buffer_steps=1_000_000,
        )  # fmt: skip
        self.maker = VllmEvents(BLOCK_TOKENS, "CPU")
        self.feed = EventFeed(BLOCK_TOKENS, self.maker, time.monotonic)
        self.announced: dict[str, dict[int, int | None]] = {"CPU": {}, "DISK": {}}
        """By medium, each block that was announced and not taken back, with its parent."""
        self._number = 0
        self.instance: Any
        self.attach()

    def attach(self) -> None:
        """Joins the present sidecar."""
        self.instance = PlainInstance(
            self._path, blocks=self._blocks, block_bytes=self._block_bytes, events=True
        )
        self.feed.attached()

    def lost(self) -> None:
        """The sidecar has died: what it held is taken back."""
        self.feed.lost()
        self.step()

    def save(self, chain: Chain) -> int:
        """Saves a chain from its first block on; how many blocks were new."""
        self._number += 1
        request = self._number
        count = len(chain.block_hashes)
        facts = self.feed.facts(RequestState(request, "r", chain), 0, count)
        places = [1 + i % (self._blocks - 1) for i in range(count)]
        done = self.instance.save(request, b"".join(chain.block_hashes), places, facts=facts)
        self.instance.scheduler.send(p.EndRequest(request))
        return int(done.committed)

    def lookup_us(self, chain: Chain, blocks: int) -> float:
        """Microseconds until the sidecar has answered a request's first question."""
        self._number += 1
        session, hashes = self.instance.scheduler, chain.block_hashes[:blocks]
        began = time.perf_counter_ns()
        session.ask(p.Lookup(self._number, self._number, blocks, 0, blocks), hashes, 0)
        answer = session.wait_for(self._number, 5_000_000)
        took = (time.perf_counter_ns() - began) / 1000
        assert isinstance(answer, p.LookupAnswer), answer
        assert session.send(p.EndRequest(self._number))
        return took

    def reset(self) -> None:
        """What ``reset_prefix_cache(reset_connector=True)`` asks of the sidecar."""
        self._number += 1
        self.instance.scheduler.send(p.Reset(self._number))
        assert self.instance.scheduler.wait_for(self._number, 5_000_000) is not None

    def forget(self) -> None:
        """vLLM dropped its own prefix cache: routers forget everything of this worker."""
        from vllm.distributed.kv_events import AllBlocksCleared

        self.publish([AllBlocksCleared()])
        self.feed.forgotten()

    def step(self) -> int:
        """Hears the sidecar and publishes what there is; how many events."""
        session = self.instance.scheduler
        for record in session.poll():
            if isinstance(record, p.KvNotice):
                self.feed.heard(record)
        events = self.feed.take()
        self.publish(events)
        if session.alive():
            self.feed.tell(session.send)
        return len(events)

    def settle(self) -> None:
        """Steps until the sidecar has nothing more to say."""
        self._number += 1
        deadline = time.monotonic() + _SETTLE_S
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.1:
            if self.step() or self.feed.waiting:
                quiet_since = time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"events still come after {_SETTLE_S:g} s")

    def publish(self, events: list[Any]) -> None:
        """As the scheduler does at the end of a step."""
        for event in events:
            self._note(event)
        if events:
            self._publisher.publish(self._batch(ts=time.time(), events=events))

    def _note(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "AllBlocksCleared":
            for blocks in self.announced.values():
                blocks.clear()
        elif event.medium in self.announced:
            blocks = self.announced[event.medium]
            if kind == "BlockStored":
                blocks[event.block_hashes[0]] = event.parent_block_hash
            else:
                del blocks[event.block_hashes[0]]

    def gpu(self, chain: Chain, first: int, end: int) -> None:
        """vLLM's own event of blocks in its pool."""
        from vllm.distributed.kv_events import BlockStored

        tokens = chain.all_token_ids[first * BLOCK_TOKENS : end * BLOCK_TOKENS]
        self.publish(
            [
                BlockStored(
                    block_hashes=[chain.wire(i) for i in range(first, end)],
                    parent_block_hash=chain.wire(first - 1) if first else None,
                    token_ids=tokens, block_size=BLOCK_TOKENS, lora_id=None, medium="GPU",
                    lora_name=None, group_idx=0, kv_cache_spec_kind="full_attention",
                )
            ]
        )  # fmt: skip

    def gpu_evicts(self, chain: Chain, first: int, end: int) -> None:
        """vLLM's own event of blocks that left its pool."""
        from vllm.distributed.kv_events import BlockRemoved

        blocks = [chain.wire(i) for i in range(first, end)]
        self.publish([BlockRemoved(block_hashes=blocks, medium="GPU", group_idx=0)])

    def close(self) -> None:
        """Ends the sessions and the stream."""
        self.instance.close()
        self._publisher.shutdown()
