"""Does the sidecar's death stop its copies?  Kills it in the middle of loads and looks.

One process owns KV-like memory (32 layers) and plays both halves of an engine over the real
protocol.  It saves blocks, then again and again: loads them into other blocks, kills the sidecar
with SIGKILL in mid-load, waits until its pidfd is readable, writes a canary over the blocks (as
vLLM would after handing them to another request), and looks for a second whether any byte of the
canary changes.

    python tests/gpu/death_stops_copies.py --out records.json --rounds 12 --gib 1
    python tests/gpu/death_stops_copies.py --device cpu --gib 0.06 --rounds 3 --out r.json
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import signal
import sys
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
MARK, CANARY = 0xFE, 0xFD  # values that no source block has


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:7.2f} s] {text}", flush=True)


START = time.monotonic()


class Rank:
    """KV memory, and the two sessions an engine of one rank has."""

    def __init__(self, device: str, blocks: int) -> None:
        self.blocks = blocks  # blocks of one load; as many again are its source
        self.total = 2 * blocks + 1
        self.layers = {
            f"layer.{i}": torch.zeros((self.total, PAGE), dtype=torch.uint8, device=device)
            for i in range(LAYERS)
        }
        self.layout = derive_layout(self.layers, num_blocks=self.total, block_tokens=16)
        self.fences: EventFences | NoFences = cuda_fences() if device == "cuda" else NoFences()
        settings = Settings.load({})
        instance = f"death-test-{os.getpid()}"
        hello: dict[str, Any] = dict(
            pid=os.getpid(), instance=instance, namespace="death", block_tokens=16
        )
        self.registration = Registration()
        self.scheduler = Link(
            settings, lambda: p.Hello(p.ROLE_SCHEDULER, **hello), generation_entries=self.total
        )
        self.worker = Link(
            settings, lambda: p.Hello(p.ROLE_WORKER, **hello), on_attach=self.registration.again
        )
        self.worker.start()
        if not self.registration.first(self.layout, self.fences, self.worker, 60):
            raise SystemExit("the layout could not be registered")
        self.scheduler.start()
        self.counter = 0
        self.epoch = -1

    def sessions(self) -> tuple[Session, Session]:
        """A scheduler and a worker session of one sidecar life, ready to serve; bounded."""
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            one, two = self.scheduler.session(), self.worker.session()
            same_life = one and two and one.boot_epoch == two.boot_epoch
            if one and two and same_life and one.alive() and two.alive() and self.ready(one):
                return one, two
            time.sleep(0.01)
        raise SystemExit("no sidecar within 30 s")

    def ready(self, session: Session) -> bool:
        return self.lookup(session, 1 << 40).status != p.LOOKUP_NOT_READY

    def synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def fill(self, first: int, value: int) -> None:
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

    @property
    def device(self) -> Any:
        return next(iter(self.layers.values())).device

    def target(self) -> slice:
        return slice(1 + self.blocks, 1 + 2 * self.blocks)

    def lookup(self, session: Session, request: int, chain: int = 0) -> p.LookupAnswer:
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
        keys = b"".join(
            bytes(24) + (tag << 32 | i).to_bytes(8, "little") for i in range(self.blocks)
        )
        session.send(p.Extend(request, 0, 32, keys))

    def save(self, scheduler: Session, worker: Session, request: int) -> None:
        self.counter += 1
        job = p.job_id(scheduler.session_id, self.counter)
        ids = tuple(range(1, 1 + self.blocks))
        scheduler.send(p.PlanSave(job, request, 0, ids, tuple(0 for _ in ids)))
        self.go(worker, job, p.KIND_SAVE, p.NO_INDEX)
        done = self.wait_done(worker, job)
        if done.status != p.STATUS_OK:
            raise SystemExit(f"the save ended as {p.STATUS_NAMES.get(done.status)}")

    def start_load(self, scheduler: Session, worker: Session, request: int) -> int:
        answer = self.lookup(scheduler, request, self.blocks)
        if answer.servable != self.blocks:
            raise SystemExit(f"{answer.servable} of {self.blocks} blocks are servable")
        self.counter += 1
        job = p.job_id(scheduler.session_id, self.counter)
        ids = tuple(range(1 + self.blocks, 1 + 2 * self.blocks))
        scheduler.send(p.PlanLoad(job, request, answer.lease_id, answer.generation, 0, ids))
        self.go(worker, job, p.KIND_LOAD, 0)
        return job

    def go(self, worker: Session, job: int, kind: int, word: int) -> None:
        fence = self.fences.record(worker)
        if fence is None:
            raise SystemExit("no fence event is free")
        worker.send(p.Go(job, fence.sequence, fence.index, word, 60_000, kind, fence.kind))

    def wait_done(self, worker: Session, job: int) -> p.JobDone:
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            for record in worker.poll():
                if isinstance(record, p.JobDone) and record.job_id == job:
                    return record
            time.sleep(0.0005)
        raise SystemExit("a job did not end within 60 s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", str(max(0.2, 2 * args.gib)))
    rng = random.Random(args.seed)
    rank = Rank(args.device, int(args.gib * (1 << 30)) // BLOCK_BYTES)
    say(f"{rank.blocks} blocks of {BLOCK_BYTES} bytes; seed {args.seed}")
    partial = touched = late_writes = 0
    seconds_to_death, rates = [], []
    for number in range(args.rounds + 1):
        scheduler, worker = rank.sessions()
        expected = rank.fill_source(number)
        rank.extend(scheduler, number + 1, number)
        rank.save(scheduler, worker, number + 1)
        rank.fill(1 + rank.blocks, MARK)
        begin = time.perf_counter()
        job = rank.start_load(scheduler, worker, number + 1)
        if number == 0:  # an undisturbed load: how long it takes, and that its bytes are right
            done = rank.wait_done(worker, job)
            load_s = time.perf_counter() - begin
            rank.synchronize()
            wrong = sum(
                int((layer[rank.target()] != expected[:, None]).sum())
                for layer in rank.layers.values()
            )
            rates.append(done.bytes_moved / load_s / 1e9)
            say(f"a whole load: {load_s * 1000:.1f} ms, {rates[0]:.1f} GB/s, {wrong} wrong bytes")
            if wrong or done.status != p.STATUS_OK:
                raise SystemExit("the undisturbed load is wrong")
            continue
        time.sleep(rng.uniform(0.1, 0.9) * load_s)
        os.kill(worker.server_pid, signal.SIGKILL)
        killed = time.perf_counter()
        while not worker.server_dead():
            if time.perf_counter() - killed > 10:
                raise SystemExit("the killed sidecar is not dead after 10 s")
            time.sleep(0.0005)
        seconds_to_death.append(time.perf_counter() - killed)
        rank.synchronize()
        arrived = int((rank.layers["layer.31"][rank.target()][:, 0] == expected).sum())
        partial += 0 < arrived < rank.blocks
        touched += arrived
        rank.fill(1 + rank.blocks, CANARY)
        looked = time.monotonic()
        changed = 0
        while time.monotonic() - looked < 1.0:
            changed = max(
                changed,
                sum(int((layer[rank.target()] != CANARY).sum()) for layer in rank.layers.values()),
            )
        late_writes += changed > 0
        say(f"round {number}: {arrived} of {rank.blocks} blocks had arrived, dead after "
            f"{seconds_to_death[-1] * 1000:.0f} ms, {changed} canary bytes changed")  # fmt: skip
    rank.scheduler.close()
    rank.worker.close()
    command = "python " + " ".join(sys.argv)
    machine = torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu"
    rows = [
        dict(name="kill in mid-load: rounds with a byte written after death", value=late_writes,
             unit="rounds", limit=args.rounds, ratio=late_writes / args.rounds, bar=0,
             met=late_writes == 0),
        dict(name="kill in mid-load: rounds in which the load was half way", value=partial,
             unit="rounds", limit=args.rounds, ratio=partial / args.rounds, bar=None, met=None),
        dict(name="SIGKILL to readable pidfd, longest", value=max(seconds_to_death), unit="s",
             limit=None, ratio=None, bar=5, met=max(seconds_to_death) < 5),
        dict(name="undisturbed load", value=rates[0], unit="GB/s", limit=None, ratio=None,
             bar=None, met=None),
    ]  # fmt: skip
    for row in rows:
        row.update(command=command, machine=machine)
    pathlib.Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")
    say(f"{args.rounds} kills, {partial} in mid-load, {late_writes} late writes")
    return 1 if late_writes else 0


if __name__ == "__main__":
    sys.exit(main())
