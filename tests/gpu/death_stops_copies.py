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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch

from flexkv import protocol as p
from gpu.rank import BLOCK_BYTES, Rank

MARK, CANARY = 0xFE, 0xFD  # values that no source block has


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:7.2f} s] {text}", flush=True)


START = time.monotonic()


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
    rank.close()
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
