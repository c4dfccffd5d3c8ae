"""Are the fences needed, and are they enough?  The same jobs with them and without.

One process owns KV-like memory and plays both halves of an engine over the real protocol.

* Save: the stream is busy for a while and writes the blocks then; the job is sent at once.  With
  the fence the saved bytes are the new ones; without it the sidecar saves what was there before.
* Load: the stream is busy and reads the target's blocks then (as the step before a forward does);
  the load into them is sent at once.  With the fence the reader sees the old bytes; without it the
  load has overtaken it.

    python tests/gpu/fences.py --out records.json

Exit status 1 if a byte is wrong with the fence, or if none is without it: then the test shows
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch

from flexkv import protocol as p
from flexkv.client import Session
from flexkv.fences import Fence
from gpu.engine import has_gpu
from gpu.rank import Rank
from gpu.session import NO_GPU, say, skip

BLOCKS = 32
MARK = 0xFE  # a value that no source block has
BUSY_S = 0.15
CYCLES = int(BUSY_S * 1.7e9)  # of the GPU's clock


class Fenced(Rank):
    """A rank whose jobs may go without a fence."""

    fenced = True

    def _go(self, worker: Session, job: int, kind: int, word: int) -> None:
        if self.fenced:
            super()._go(worker, job, kind, word)
            return
        none = Fence()
        worker.send(p.Go(job, none.sequence, none.index, word, 60_000, kind, none.kind))

    def values(self, seed: int) -> torch.Tensor:
        blocks = torch.arange(self.blocks, device=self.device)
        return ((blocks * 7 + seed) % 251).to(torch.uint8)

    def write_later(self, seed: int) -> None:
        """Enqueues: busy, then the source's new content.  Does not wait."""
        torch.cuda._sleep(CYCLES)
        for layer in self.layers.values():
            layer[1 : 1 + self.blocks] = self.values(seed)[:, None]

    def read_later(self) -> list[torch.Tensor]:
        """Enqueues: busy, then a look at the target.  Does not wait."""
        torch.cuda._sleep(CYCLES)
        return [layer[self.target()].clone() for layer in self.layers.values()]

    def wrong_blocks(self, wanted: torch.Tensor, layers: list[torch.Tensor]) -> int:
        differs = torch.zeros(self.blocks, dtype=torch.bool, device=self.device)
        for layer in layers:
            differs |= (layer != wanted[:, None]).any(dim=1)
        return int(differs.sum())


def save_case(rank: Fenced, seed: int, request: int) -> int:
    """Blocks that were saved with other bytes than the stream wrote before the fence."""
    scheduler, worker = rank.sessions()
    rank.fill_source(seed)
    rank.extend(scheduler, request, request)
    rank.write_later(seed + 100)
    rank.save(scheduler, worker, request)
    rank.synchronize()
    rank.fill(1 + rank.blocks, MARK)
    fenced, rank.fenced = rank.fenced, True
    done = rank.wait_done(worker, rank.start_load(scheduler, worker, request))
    rank.fenced = fenced
    rank.synchronize()
    if done.status != p.STATUS_OK:
        raise SystemExit("the load that looks at the saved bytes failed")
    seen = [layer[rank.target()] for layer in rank.layers.values()]
    return rank.wrong_blocks(rank.values(seed + 100), seen)


def load_case(rank: Fenced, seed: int, request: int) -> int:
    """Blocks that a reader before the fence saw with the bytes of the load behind it."""
    scheduler, worker = rank.sessions()
    rank.fill_source(seed)
    rank.extend(scheduler, request, request)
    fenced, rank.fenced = rank.fenced, True
    rank.save(scheduler, worker, request)
    rank.fenced = fenced
    rank.fill(1 + rank.blocks, MARK)
    seen = rank.read_later()
    done = rank.wait_done(worker, rank.start_load(scheduler, worker, request))
    rank.synchronize()
    if done.status != p.STATUS_OK:
        raise SystemExit("a load failed")
    wanted = torch.full((rank.blocks,), MARK, dtype=torch.uint8, device=rank.device)
    arrived = [layer[rank.target()] for layer in rank.layers.values()]
    if rank.wrong_blocks(rank.values(seed), arrived):
        raise SystemExit("a load said ok and its bytes are wrong")
    return rank.wrong_blocks(wanted, seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    if not has_gpu():
        return skip(pathlib.Path(args.out), f"{NO_GPU}, and fences are events of one")
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", "2")
    rank = Fenced("cuda", BLOCKS)
    command = "python " + " ".join(sys.argv)
    machine = torch.cuda.get_device_name(0)
    rows: list[dict[str, Any]] = []
    request = 0
    for name, case in (("save", save_case), ("load", load_case)):
        for fenced in (True, False):
            rank.fenced = fenced
            wrong = 0
            for number in range(args.rounds):
                request += 1
                wrong += case(rank, number * 3, request)
            total = args.rounds * rank.blocks
            rows.append(
                dict(
                    name=f"{name} {'behind its fence' if fenced else 'with the fence removed'}: "
                    "blocks with wrong bytes",
                    value=wrong, unit="blocks", limit=total, ratio=wrong / total,
                    bar=0 if fenced else None, met=wrong == 0 if fenced else wrong > 0,
                    command=command, machine=machine,
                )
            )  # fmt: skip
            say(f"{rows[-1]['name']}: {wrong} of {total}")
    rank.close()
    pathlib.Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
