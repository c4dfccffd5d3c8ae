"""A process that moves KV blocks through the sidecar as fast as it can, whenever it is told.

    python -m gpu.moving --device cuda --gib 0.5

Reads lines: `load` or `both` begins, anything else ends it and prints what was moved as one JSON
object; the end of standard input ends the process. Its 64 KiB fragments lie scattered.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time

from harness import processes

from gpu.rank import BLOCK_BYTES, Rank


def main() -> None:
    processes.die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gib", type=float, default=0.5)
    args = parser.parse_args()
    rank = Rank(args.device, int(args.gib * (1 << 30)) // BLOCK_BYTES, scattered=True)
    scheduler, worker = rank.sessions()
    rank.fill_source(1)
    rank.extend(scheduler, 1, 1)
    rank.save(scheduler, worker, 1)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() not in ("load", "both"):
            continue
        moved, request, begun = 0, 1, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            jobs = [rank.start_load(scheduler, worker, 1)]
            if line.strip() == "both":
                request += 1
                rank.extend(scheduler, request, request)
                jobs.append(rank.start_save(scheduler, worker, request))
            for job in jobs:
                moved += rank.wait_done(worker, job).bytes_moved
        sys.stdin.readline()
        seconds = time.monotonic() - begun
        print(json.dumps({"bytes": moved, "seconds": seconds}), flush=True)
    rank.close()


if __name__ == "__main__":
    main()
