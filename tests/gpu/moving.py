"""A process that moves KV blocks through the sidecar as fast as it can, whenever it is told.

    python -m gpu.moving --device cuda --gib 0.5

Reads lines: `load` or `both` begins, anything else ends it and prints what was moved as one JSON
object; the end of standard input ends the process. Its fragments, of 64 KiB unless `--page` says
otherwise, lie scattered; with `--one-buffer` those of a block lie in one allocation, at one stride.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time

from harness import processes

from gpu.rank import LAYERS, PAGE, Rank


def main() -> None:
    processes.die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gib", type=float, default=0.5)
    parser.add_argument("--page", type=int, default=PAGE)
    parser.add_argument("--one-buffer", action="store_true")
    args = parser.parse_args()
    rank = Rank(
        args.device, int(args.gib * (1 << 30)) // (LAYERS * args.page), scattered=True,
        page=args.page, one_buffer=args.one_buffer,
    )  # fmt: skip
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
