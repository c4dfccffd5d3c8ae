"""What KV events cost the engine's process, a block, beside vLLM's own block events.

With vLLM's event classes and its encoder: what the scheduler's thread does to tell the sidecar the
tokens of a saved block, what it does to make an event of a notice, and what the publisher's thread
does to encode it. Then how much longer a step is while 4,000 events wait.

    python tests/bench/events.py [--out build/bench/events.json]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.records import Records, table

from flexkv import protocol as p
from flexkv.events import EventFeed
from flexkv.requests import RequestState
from flexkv.ring import encode
from flexkv.vllm_events import VllmEvents

TOKENS = 16
BLOCKS = 4000
A_NOTICE = 64
ROUNDS = 15


def main() -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/events.json"))
    options = parser.parse_args()
    import msgspec
    from vllm.distributed.kv_events import BlockStored, KVEventBatch

    encoder = msgspec.msgpack.Encoder()
    hashes = [hashlib.sha256(str(i).encode()).digest() for i in range(BLOCKS)]
    tokens = [(i * 7919) % 128_000 for i in range(BLOCKS * TOKENS)]
    request = SimpleNamespace(block_hashes=hashes, all_token_ids=tokens)
    records = Records()

    def feed() -> EventFeed:
        return EventFeed(TOKENS, VllmEvents(TOKENS, "CPU"), time.monotonic)

    def told() -> None:
        state = RequestState(1, "r", request)
        one = feed()
        step = one.blocks_a_plan(32)
        for first in range(0, BLOCKS, step):
            for record in one.facts(state, first, min(first + step, BLOCKS)):
                encode(record)

    wire = [n.encode() for n in notices(hashes, tokens)]
    taken: list[Any] = []

    def made() -> None:
        one = feed()
        for notice in wire:
            record = p.decode_record(notice)
            assert isinstance(record, p.KvNotice)
            one.heard(record)
        taken.clear()
        while one.waiting:
            taken.append(one.take())

    def encoded() -> None:
        for events in taken:
            encoder.encode(KVEventBatch(ts=0.0, events=events, data_parallel_rank=0))

    def engine_own() -> None:
        """What vLLM does for a block of its own: an event, and its encoding."""
        for i, block in enumerate(hashes):
            event = BlockStored(
                block_hashes=[int.from_bytes(block, "big") & ((1 << 64) - 1)],
                parent_block_hash=None,
                token_ids=tokens[i * TOKENS : (i + 1) * TOKENS],
                block_size=TOKENS, lora_id=None, medium="GPU", lora_name=None,
            )  # fmt: skip
            encoder.encode(KVEventBatch(ts=0.0, events=[event], data_parallel_rank=0))

    own = best(engine_own)
    parts = {"tokens to the sidecar": best(told), "notice to event": best(made),
             "encoding": best(encoded)}  # fmt: skip
    for name, seconds in parts.items():
        records.add(f"events, {name}", seconds / BLOCKS * 1e6, "us a block")
    whole = sum(parts.values()) / BLOCKS * 1e6
    records.add(
        "events, all of it in the engine's process", whole, "us a block",
        limit=own / BLOCKS * 1e6, bar=3.0, met=whole <= 3.0,
    )  # fmt: skip
    longest = longest_steps(feed, wire)
    for name, seconds in longest.items():
        records.add(
            f"events, a step with {BLOCKS:,} waiting, {name}", seconds * 1e3, "ms longer",
            bar=1.0, met=seconds <= 1e-3,
        )  # fmt: skip
    records.write(options.out)
    print(table(records.all))
    return 0


def notices(hashes: list[bytes], tokens: list[int]) -> list[p.KvNotice]:
    """The blocks as the sidecar tells them: chains of some blocks."""
    found = []
    for first in range(0, len(hashes), A_NOTICE):
        some = hashes[first : first + A_NOTICE]
        ids = array("I", tokens[first * TOKENS : (first + len(some)) * TOKENS])
        parent = hashes[first - 1] if first else b""
        found.append(
            p.KvNotice(p.NOTICE_STORED, p.TIER_HOST, 0, 32, b"".join(some), parent, ids.tobytes())
        )
    return found


def longest_steps(feed: Any, wire: list[bytes]) -> dict[str, float]:
    """The longest `take` of each kind of work, the best of some runs."""
    found = {"stores": 1.0, "removes": 1.0}
    for _ in range(ROUNDS):
        one = feed()
        for notice in wire:
            record = p.decode_record(notice)
            assert isinstance(record, p.KvNotice)
            one.heard(record)
        found["stores"] = min(found["stores"], longest(one))
        one.lost()
        found["removes"] = min(found["removes"], longest(one))
    return found


def longest(feed: EventFeed) -> float:
    """Seconds of the processor in the longest step until nothing waits."""
    most = 0.0
    while feed.waiting:
        began = time.thread_time()
        feed.take()
        most = max(most, time.thread_time() - began)
    return most


def best(work: Any) -> float:
    """Seconds of the processor in the fastest of some rounds: a busy core adds to any clock."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        work()
        fastest = min(fastest, time.thread_time() - began)
    return fastest


if __name__ == "__main__":
    sys.exit(main())
