"""An engine is killed in the middle of a forward whose blocks are to be saved behind it.

    python tests/gpu/dead_forward.py --out records.json
    python tests/gpu/dead_forward.py --device cpu --rounds 3 --out records.json   (without a GPU)

A worker in a process of its own keeps its GPU busy for about a second and writes the blocks then;
the save of them is behind an event that it records after that. It is killed meanwhile, at a drawn
moment, while its scheduler lives: so the blocks' counters stay what they were, and nothing but the
event keeps what lies in the blocks from being saved under hashes of what was to be written. CUDA
does not say what an event of a dead process answers. Not one block may be committed. A worker that
lives shows first that the blocks would be. Without a GPU the worker sleeps where a forward would
run, and says "go" after it.

Exit status 1 if a block was committed, or none where it should.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from harness import processes
from harness.records import Records
from harness.sidecar import Sidecar

from flexkv import protocol as p
from flexkv.client import Link, Session
from flexkv.config import Settings
from flexkv.fences import EventFences, NoFences, cuda_fences
from flexkv.layout import derive_layout
from flexkv.registration import Registration
from gpu.engine import has_gpu
from gpu.session import NO_GPU, say, skip

LAYERS, PAGE = 32, 65536
OLD, NEW = 0x11, 0xEE
CYCLES = int(1.0 * 1.7e9)  # of the GPU's clock: about a second
TIMEOUT_S = 30.0
REQUEST = 1


def hello(role: int, instance: str) -> p.Hello:
    """Who a process is."""
    return p.Hello(
        role, pid=os.getpid(), instance=instance, namespace="dead-forward", block_tokens=16
    )


def worker(orders: Connection, device: str, blocks: int, instance: str) -> None:
    """Registers, and says so; then saves its blocks behind a forward, as the job that it is told.

    Says "sent" once that is on its way, and does nothing more.
    """
    processes.die_with_parent()
    shape = (blocks + 1, PAGE)
    layers = {
        f"layer.{i}": torch.full(shape, OLD, dtype=torch.uint8, device=device)
        for i in range(LAYERS)
    }
    fences: EventFences | NoFences = cuda_fences() if device == "cuda" else NoFences()
    registration = Registration()
    link = Link(
        Settings.load({}), lambda: hello(p.ROLE_WORKER, instance), on_attach=registration.again
    )
    link.start()
    layout = derive_layout(layers, num_blocks=blocks + 1, block_tokens=16)
    session = link.wait(TIMEOUT_S)
    if session is None or not registration.first(layout, fences, link, TIMEOUT_S):
        raise SystemExit("the layout could not be registered")
    for layer in layers.values():
        layer.fill_(OLD)  # the proof has left zeros in some blocks
    if device == "cuda":
        torch.cuda.synchronize()
    orders.send("ready")
    job = orders.recv()
    if device == "cuda":
        torch.cuda._sleep(CYCLES)
        for layer in layers.values():
            layer.fill_(NEW)
    fence = fences.record(session)
    if fence is None:
        raise SystemExit("no fence event is free")
    go = p.Go(job, fence.sequence, fence.index, p.NO_INDEX, 60_000, p.KIND_SAVE, fence.kind)
    if device == "cuda":
        session.send(go)
        orders.send("sent")
    else:
        orders.send("sent")
        time.sleep(1)
        session.send(go)
    orders.recv()


class Scheduler:
    """The scheduler of an engine with one rank, which it outlives."""

    def __init__(self, instance: str, blocks: int) -> None:
        self.blocks = blocks
        self.link = Link(
            Settings.load({}), lambda: hello(p.ROLE_SCHEDULER, instance),
            generation_entries=blocks + 1,
        )  # fmt: skip
        self.link.start()

    def session(self) -> Session:
        """Of an engine that is ready."""
        session = self.link.wait(TIMEOUT_S)
        limit = time.monotonic() + TIMEOUT_S
        query = 0
        while session is not None and time.monotonic() < limit:
            query += 1
            session.send(p.Lookup(query, 1 << 40, 0, 0, self.blocks))
            answer = session.wait_for(query, 1_000_000)
            if isinstance(answer, p.LookupAnswer) and answer.status != p.LOOKUP_NOT_READY:
                return session
            time.sleep(0.01)
        raise SystemExit("the engine is not ready")

    def plan(self, session: Session, tag: int) -> int:
        """Names blocks that nobody has saved, and wants them saved; the job."""
        keys = b"".join(
            bytes(24) + (tag << 32 | i).to_bytes(8, "little") for i in range(self.blocks)
        )
        session.send(p.Extend(REQUEST, 0, 32, keys))
        job = p.job_id(session.session_id, 1)
        blocks = tuple(range(1, 1 + self.blocks))
        session.send(p.PlanSave(job, REQUEST, 0, blocks, (0,) * self.blocks))
        return job

    def ended(self, session: Session, job: int, within_s: float) -> p.SaveDone | None:
        """What became of the save, None if it has not ended by then."""
        limit = time.monotonic() + within_s
        while True:
            for record in session.poll():
                if isinstance(record, p.SaveDone) and record.job_id == job:
                    return record
            if time.monotonic() >= limit:
                return None
            time.sleep(0.001)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one save: its blocks that count, and when it had ended, since its `Go`."""

    committed: int
    ended_s: float
    in_time: bool = True
    after_kill_s: float = 0.0


def one_round(args: argparse.Namespace, number: int, kill_after_s: float | None) -> Seen:
    """One engine; its worker is killed so long after its save was sent, or lives."""
    instance = f"dead-forward-{os.getpid()}-{number}"
    scheduler = Scheduler(instance, args.blocks)
    context = multiprocessing.get_context("forkserver")
    orders, theirs = context.Pipe()
    child = context.Process(target=worker, args=(theirs, args.device, args.blocks, instance))
    child.start()
    theirs.close()
    try:
        orders.recv()
        session = scheduler.session()
        job = scheduler.plan(session, number)
        orders.send(job)
        orders.recv()
        begun = time.monotonic()
        early = None
        if kill_after_s is not None:
            early = scheduler.ended(session, job, kill_after_s)
            child.kill()
        killed = time.monotonic()
        done = early or scheduler.ended(session, job, TIMEOUT_S)
        now = time.monotonic()
    finally:
        orders.close()
        child.kill()
        child.join()
        scheduler.link.close()
    if done is None:
        raise SystemExit(f"the save did not end within {TIMEOUT_S:.0f} s")
    return Seen(done.committed, now - begun, early is None, now - killed)


def measure(args: argparse.Namespace, records: Records, sidecar: Sidecar) -> None:
    """A worker that lives, then those that are killed."""
    rng = random.Random(args.seed)
    lived = one_round(args, 0, None)
    say(f"a worker that lives: {lived}")
    records.add("save behind a forward whose engine lives: blocks committed", lived.committed,
                "blocks", limit=args.blocks, bar=args.blocks,
                met=lived.committed == args.blocks and lived.ended_s > 0.5)  # fmt: skip
    before = int(sidecar.counters()["saved_blocks"])
    in_time, committed, slowest = 0, 0, 0.0
    for number in range(1, args.rounds + 1):
        kill_after_s = rng.uniform(0.02, 0.8) * lived.ended_s
        seen = one_round(args, number, kill_after_s)
        say(f"round {number}: killed after {kill_after_s:.2f} s: {seen}")
        in_time += seen.in_time
        committed += seen.committed
        slowest = max(slowest, seen.after_kill_s)
    time.sleep(1)
    committed = max(committed, int(sidecar.counters()["saved_blocks"]) - before)
    records.add("engine killed in a forward: rounds in which the forward ran", in_time, "rounds",
                bar=args.rounds, met=in_time == args.rounds)  # fmt: skip
    records.add("engine killed in a forward: blocks committed", committed, "blocks",
                limit=args.rounds * args.blocks, bar=0, met=committed == 0)  # fmt: skip
    records.add("engine killed in a forward: from the kill to the end of its save, longest",
                slowest, "s", bar=10, met=slowest < 10)  # fmt: skip


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=32, help="of 2 MiB")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    if args.device == "cuda" and not has_gpu():
        return skip(out, f"{NO_GPU}; --device cpu rehearses")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__"])
    records = Records()
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        sidecar = Sidecar(
            pathlib.Path(folder), FLEXKV_CPU_CACHE_GB=os.environ.get("FLEXKV_CPU_CACHE_GB", "2")
        )
        os.environ.update(sidecar.environment)
        served = sidecar.start(pathlib.Path(folder) / "serve.log")
        try:
            measure(args, records, sidecar)
        finally:
            served.terminate()
            served.wait(TIMEOUT_S)
    records.write(out)
    return 1 if records.missed else 0


if __name__ == "__main__":
    sys.exit(main())
