"""Hits on the SSD tier, from the first question to the last byte on the GPU.

    python tests/gpu/ssd_hit.py --out build/bench/gpu --dir build/ssd
    python tests/gpu/ssd_hit.py --device cpu --gib 0.25      (rehearsal)

One rank with the 8B shape (2 MiB blocks, 64 KiB in each of 32 layers, scattered) saves chains; the
sidecar is stopped and another started on the same folder; then each chain is asked for and loaded.
The first hit finds a JVM that has never served one; there is one a start, so the sidecar is started
several times. Beside first and last byte: what threads that do nothing else need to read as many
bytes of the same files, right before and after.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import processes
from harness.disk import Hit, bare_read, best_readers, record_hits
from harness.records import Records, table
from harness.sidecar import Sidecar

from flexkv import protocol as p
from gpu.connectors import pinned
from gpu.rank import BLOCK_BYTES, PAGE, Rank
from gpu.session import say

_MARK = 0xFE  # a value that no source block has


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gib", type=float, default=1.0, help="size of a chain")
    parser.add_argument("--chains", type=int, default=5)
    parser.add_argument("--starts", type=int, default=5, help="each has one first hit")
    parser.add_argument("--dir", type=Path, default=Path("build"), help="on the disk to measure")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    blocks = int(args.gib * (1 << 30)) // BLOCK_BYTES
    gb = blocks * BLOCK_BYTES / 1e9
    records = Records()
    with (
        tempfile.TemporaryDirectory(prefix="fkv-", dir="/tmp") as run,
        tempfile.TemporaryDirectory(prefix="ssd-hit-", dir=args.dir) as disk,
    ):
        sidecar = Sidecar(
            Path(run),
            FLEXKV_CPU_CACHE_GB=f"{2.3 * gb + 0.2:.2f}",
            FLEXKV_SSD_CACHE_GB=f"{1.1 * args.chains * gb + 0.7:.2f}",
            FLEXKV_SSD_CACHE_DIR=disk,
            FLEXKV_SERVER_LAUNCH_MODE="external",  # the rank starts none between two of ours
        )
        os.environ.update(sidecar.environment)
        rank = None
        first: list[Hit] = []
        later: list[Hit] = []
        for life in range(1, 2 + args.starts):
            child = sidecar.start(args.out / f"ssd-hit-sidecar-{life}.log")
            rank = rank or Rank(args.device, blocks, scattered=True)
            try:
                sessions = rank.sessions()
                processes.wait_until(lambda: pinned(sidecar), 60, "the pool is pinned", 0.1)
                if life == 1:
                    fill(rank, sessions, sidecar, args.chains)
                else:
                    found = hits(rank, sessions, sidecar, args.chains, Path(disk), life - 2)
                    first.append(found[0])
                    later += found[1:]
            finally:
                child.terminate()
                child.wait(30)
        assert rank is not None
        rank.close()
    mib = blocks * BLOCK_BYTES >> 20
    where = "" if args.device == "cpu" else " to the GPU"
    name = f"SSD hit of {mib} MiB{where}, the first after a start, median of {args.starts} starts"
    record_hits(records, name, first)
    if later:
        name = f"SSD hit of {mib} MiB{where}, median of {len(later)} later ones"
        record_hits(records, name, later)
    records.write(args.out / "gpu-ssd-hit.json")
    print(table(records.all), flush=True)
    return 0


def figures(sidecar: Sidecar) -> dict[str, Any]:
    """What the sidecar says of its SSD tier."""
    ssd: dict[str, Any] = sidecar.status()["ssd"]
    return ssd


def fill(rank: Rank, sessions: tuple[Any, Any], sidecar: Sidecar, chains: int) -> None:
    """Saves chains 1, 2, …; returns when all are on the SSD."""
    for chain in range(1, 1 + chains):
        rank.fill_source(chain)
        rank.extend(sessions[0], chain, chain)
        rank.save(*sessions, chain)

        def written(wanted: int = chain * rank.blocks) -> bool:
            ssd = figures(sidecar)
            return bool(ssd["blocks"] >= wanted and ssd["writes"] == 0)

        processes.wait_until(written, 120, f"chain {chain} is on the SSD", 0.05)
    say(f"{chains} chains of {rank.blocks} blocks are on the SSD")


def hits(
    rank: Rank, sessions: tuple[Any, Any], sidecar: Sidecar, chains: int, disk: Path, start: int
) -> list[Hit]:
    """Hits them all one after another at the first start, at others one that is not the last's."""
    found = lambda: figures(sidecar)["adopted_blocks"] >= chains * rank.blocks  # noqa: E731
    processes.wait_until(found, 60, "the chains are found again", 0.05)
    readers = best_readers(disk, rank.blocks * BLOCK_BYTES)
    say(f"start {start + 1}: this disk is fastest with {readers} readers")
    wanted = range(1, 1 + chains) if start == 0 else [1 + start % chains]
    return [hit(rank, sessions, chain, disk, readers) for chain in wanted]


def hit(rank: Rank, sessions: tuple[Any, Any], chain: int, disk: Path, readers: int) -> Hit:
    """Asks for a chain until it may be loaded, loads it, and compares every byte."""
    scheduler, worker = sessions
    request = 1000 + chain
    rank.fill(1 + rank.blocks, _MARK)
    size = rank.blocks * BLOCK_BYTES
    bare_s = bare_read(disk, size, readers)
    # The end of the block that the first one of the chain goes to.
    watched = rank.layers["layer.31"][rank.target_ids[0], PAGE - 1]
    first_s: list[float] = []
    began = time.perf_counter()

    def watch() -> None:
        while watched.item() == _MARK:
            time.sleep(0.0005)
        first_s.append(time.perf_counter() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rank.extend(scheduler, request, chain)
    while (answer := rank.lookup(scheduler, request, rank.blocks)).status != p.LOOKUP_OK:
        time.sleep(0.001)
    answered_s = time.perf_counter() - began
    done = rank.wait_done(worker, rank.start_load(scheduler, worker, request))
    last_s = time.perf_counter() - began
    watcher.join(5)
    if done.status != p.STATUS_OK or answer.servable != rank.blocks:
        raise SystemExit(f"chain {chain}: {answer}, {done}")
    rank.synchronize()
    bare_s = (bare_s + bare_read(disk, size, readers)) / 2
    wrong = wrong_bytes(rank, chain)
    say(
        f"chain {chain}: answered {answered_s * 1000:.1f} ms, first byte {first_s[0] * 1000:.1f},"
        f" last {last_s * 1000:.1f}, bare {bare_s * 1000:.1f}, {wrong} wrong bytes"
    )
    if wrong:
        raise SystemExit("wrong bytes")
    scheduler.send(p.EndRequest(request))
    return Hit(answered_s, first_s[0], last_s, bare_s)


def wrong_bytes(rank: Rank, chain: int) -> int:
    """Bytes of the target that are not what `fill_source` wrote for this chain."""
    expected = rank.expected(chain)[:, None]
    return sum(int((layer[rank.target_ids] != expected).sum()) for layer in rank.layers.values())


if __name__ == "__main__":
    sys.exit(main())
