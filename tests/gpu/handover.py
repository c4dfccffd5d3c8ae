"""What a load waits for beside its copies: the sidecar's answers and its threads' waking up.

    python tests/gpu/handover.py --out build/bench/gpu/handover.json
    python tests/gpu/handover.py --out records.json --device cpu --layers 2      (without a GPU)

An engine over the real protocol, as idle as the only request of an idle engine leaves it: a lookup,
a plan when vLLM would have allocated the blocks, a go when its worker would have come to it, then
ears open until the scheduler knows that the load has ended. Medians over many loads, in µs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from harness.records import Records, table

from flexkv import protocol as p
from gpu.geometries import Case, Ranks

#: What vLLM does between the hooks, as measured in real engines (docs/performance).
_ALLOCATE_S = 0.0003
_STEP_S = 0.0005
_IDLE_S = 0.02
_WAIT_S = 10.0
_FIRST = 10
STAGES = (
    "lookup answered", "go to the mover", "fence reached", "first slice on its way",
    "last slice on its way to the end", "end to the scheduler",
)  # fmt: skip


def busy(seconds: float) -> None:
    """As an engine's thread is: not asleep."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Loads:
    """Loads of one chain, one after another, each into the same blocks."""

    def __init__(self, ranks: Ranks, blocks: int) -> None:
        self._ranks = ranks
        self._ids = tuple(range(1, blocks + 1))
        self.sidecar, (self._worker, *_) = ranks.sessions()
        ranks.save(1, list(self._ids))
        ranks.load(1, list(self._ids))
        self._number = 1 << 20

    def one(self) -> dict[str, float]:
        """Stages of one load in µs."""
        self._number += 1
        scheduler, worker, ids = self.sidecar, self._worker, self._ids
        asked = time.monotonic_ns()
        scheduler.send(p.Lookup(self._number, 1, 0, 0, len(ids)))
        answer = scheduler.wait_for(self._number, _WAIT_S * 1e6)
        answered = time.monotonic_ns()
        assert isinstance(answer, p.LookupAnswer)
        assert answer.servable == len(ids), answer
        busy(_ALLOCATE_S)
        job = p.job_id(scheduler.session_id, self._number)
        scheduler.send(p.PlanLoad(job, 1, answer.lease_id, answer.generation, 0, ids))
        busy(_STEP_S)
        with self._ranks.on(0):
            fence = self._ranks.fences[0].record(worker)
        said = time.monotonic_ns()
        worker.send(p.Go(job, fence.sequence, fence.index, 0, 60_000, p.KIND_LOAD, fence.kind))
        done = scheduler.wait_for(lambda record: getattr(record, "job_id", 0) == job, _WAIT_S * 1e6)
        told = time.monotonic_ns()
        assert isinstance(done, p.JobDone)
        assert done.status == p.STATUS_OK, done
        worker.poll()
        status = worker.control("status", {}, _WAIT_S)
        (instance,) = [i for i in status["instances"] if i["ready"]]  # type: ignore[attr-defined]
        last = instance["ranks"][0]["load"]["last_job"]
        assert last["job_id"] == job
        points = (said, last["arrived_ns"], last["fence_reached_ns"], last["first_slice_ns"])
        ends = (last["last_slice_ns"], last["ended_ns"], told)
        spans = [answered - asked]
        spans += [b - a for a, b in itertools.pairwise(points)]
        spans += [b - a for a, b in itertools.pairwise(ends)]
        return dict(zip(STAGES, (span / 1000 for span in spans), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--blocks", default="128,512", help="of each load")
    args = parser.parse_args()
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", "6" if args.device == "cuda" else "1")
    records = Records()
    for count in map(int, args.blocks.split(",")):
        case = Case("packed", (args.layers,), 8, 128, 2 * count + 2, torch.bfloat16, count,
                    same=False)  # fmt: skip
        ranks = Ranks(case, f"handover-{os.getpid()}-{count}", [torch.device(args.device)])
        loads = Loads(ranks, count)
        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(_FIRST + args.rounds):
            time.sleep(_IDLE_S)
            for stage, micros in loads.one().items():
                found[stage].append(micros)
        ranks.close()
        for stage, values in found.items():
            first, later = values[:_FIRST], values[_FIRST:]
            name = f"load of {count} blocks, {stage}"
            records.add(f"{name}, the first {_FIRST}", statistics.median(first), "us")
            records.add(f"{name}, {args.rounds} later ones", statistics.median(later), "us")
    records.write(Path(args.out))
    print(table(records.all), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
