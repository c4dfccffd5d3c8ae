"""A listener to vLLM's KV events, over the real ZeroMQ stream, and what a router makes of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq

from harness import processes

_ANSWER_MS = 2000
_END = -1
_ARRAY_FIELDS = {
    "BlockStored": (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name", "extra_keys", "group_idx",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """What a store said of one block."""

    parent: int | None
    token_ids: tuple[int, ...]
    lora_name: str | None = None


@dataclass(slots=True)
class Residency:
    """Blocks by medium, strictly: a block is stored once and removed once a residency."""

    media: dict[str, dict[int, Block]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    cleared: int = 0

    def apply(self, event: dict[str, Any]) -> None:
        """One event, as a map."""
        kind = event["type"]
        if kind == "AllBlocksCleared":
            self.cleared += 1
            self.media.clear()
            return
        medium = event["medium"]
        self.events[f"{medium} {kind}"] += 1
        blocks = self.media.setdefault(medium, {})
        if kind == "BlockStored":
            self._stored(medium, blocks, event)
            return
        for block in event["block_hashes"]:
            if blocks.pop(block, None) is None and medium != "GPU":
                self.faults.append(f"{block:x} left {medium} and was not there")

    def _stored(self, medium: str, blocks: dict[int, Block], event: dict[str, Any]) -> None:
        size = event["block_size"]
        parent = event["parent_block_hash"]
        hashes = event["block_hashes"]
        if medium != "GPU" and len(hashes) != 1:
            self.faults.append(f"{len(hashes)} blocks in one {medium} event")
        if len(event["token_ids"]) != size * len(hashes):
            self.faults.append(f"{len(event['token_ids'])} tokens for {len(hashes)} blocks")
        for i, block in enumerate(hashes):
            if block in blocks and medium != "GPU":
                self.faults.append(f"{block:x} entered {medium} twice")
            ids = tuple(event["token_ids"][i * size : (i + 1) * size])
            blocks[block] = Block(parent, ids, event.get("lora_name"))
            parent = block

    def of(self, medium: str) -> dict[int, Block]:
        """The blocks of a medium."""
        return self.media.get(medium, {})


def _as_map(event: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """Before vLLM 0.24 an event travels as an array: its kind, then its fields in order."""
    if isinstance(event, dict):
        return event
    kind, *values = event
    fields = _ARRAY_FIELDS[kind]
    return {"type": kind, **dict(zip(fields, values, strict=False))}


class EventLog:
    """All that an engine has published, asked for again from the beginning each time.

    vLLM keeps its last 10,000 batches for whoever missed some: asking for them needs no luck with
    the moment of subscription.
    """

    def __init__(self) -> None:
        self._port, self._replay_port = processes.free_port(), processes.free_port()

    @property
    def config(self) -> dict[str, Any]:
        """The value of `--kv-events-config`."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "topic": "kv-events",
            "endpoint": f"tcp://*:{self._port}",
            "replay_endpoint": f"tcp://127.0.0.1:{self._replay_port}",
        }

    def events(self) -> list[dict[str, Any]]:
        """Every event so far, in order."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(f"tcp://127.0.0.1:{self._replay_port}")
            socket.send_multipart([b"", (0).to_bytes(8, "big")])
            found: list[dict[str, Any]] = []
            while socket.poll(_ANSWER_MS):
                *_, sequence, payload = socket.recv_multipart()
                if int.from_bytes(sequence, "big", signed=True) == _END:
                    return found
                found += [_as_map(event) for event in msgspec.msgpack.decode(payload)[1]]
        raise TimeoutError(f"no end of the replay within {_ANSWER_MS} ms")

    def residency(self) -> Residency:
        """What is where, by all events so far."""
        made = Residency()
        for event in self.events():
            made.apply(event)
        return made

    def wait(
        self, condition: Callable[[Residency], bool], what: str, timeout_s: float = 15.0
    ) -> Residency:
        """The residency once `condition` holds of it; nobody steps the engine for it here."""
        deadline = time.monotonic() + timeout_s
        while not condition(found := self.residency()):
            if time.monotonic() > deadline:
                sizes = {medium: len(blocks) for medium, blocks in found.media.items()}
                raise TimeoutError(f"{what}: not within {timeout_s:g} s; blocks {sizes}")
            time.sleep(0.05)
        return found
