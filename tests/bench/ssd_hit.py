"""A hit on the SSD, from the first question to the last byte in the engine's memory.

Chains of 1 GiB are saved by a plain instance (process backend, no vLLM) and are on the SSD alone
once the sidecar was started anew.  The first hit after that finds a JVM that has never served one;
the median of the others is beside it.  First and last byte are beside the time in which the same
files are read past the page cache by threads that do nothing else, right before and after each hit.
Then: lookups of host memory while another chain is being written to the SSD, beside the same
lookups on an idle one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python-shim" / "tests"))

from harness import checkout, processes
from harness.disk import Hit, bare_read, record_hits
from harness.records import Records, table
from harness.sidecar import Sidecar
from plain_instance import PlainInstance, random_hashes

from flexkv import protocol as p

_BLOCK_BYTES = 1 << 20
_LOOKUPS = 1000
_TURNS = 9
_LOOKUP_KEYS = 512
_SPIN_US = 200_000.0


def main() -> int:
    """Measures and writes the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the chain")
    parser.add_argument("--chains", type=int, default=4, help="how many of them are hit")
    parser.add_argument("--dir", type=Path, default=Path("build"), help="on the disk to measure")
    parser.add_argument("--out", type=Path, default=checkout.RECORDS / "ssd-hit.json")
    options = parser.parse_args()
    records = Records()
    options.dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fkv-", dir="/tmp") as run,
        tempfile.TemporaryDirectory(prefix="ssd-hit-", dir=options.dir) as disk,
    ):
        gb = options.mib * 1.25 / 1000
        sidecar = Sidecar(
            Path(run),
            FLEXKV_CPU_CACHE_GB=f"{2 * gb + 0.3:.2f}",
            FLEXKV_SSD_CACHE_GB=f"{options.chains * gb + 0.6:.2f}",
            FLEXKV_SSD_CACHE_DIR=disk,
        )
        with _serving(sidecar, Path(run, "first.log")):
            _fill(sidecar, options.chains, options.mib)
        with _serving(sidecar, Path(run, "second.log")):
            _hits(sidecar, options.chains, options.mib, Path(disk), records)
            _lookups(sidecar, options.mib, records)
    records.write(options.out)
    sys.stdout.write(table(records.all) + "\n")
    return 0


@contextmanager
def _serving(sidecar: Sidecar, log: Path) -> Iterator[None]:
    child = sidecar.start(log)
    try:
        yield
    finally:
        child.terminate()
        child.wait(20)


def _ssd(sidecar: Sidecar) -> dict[str, Any]:
    figures: dict[str, Any] = sidecar.status()["ssd"]
    return figures


def _payload(chain: int, block: int) -> bytes:
    return (chain << 32 | block).to_bytes(8, "little") * (_BLOCK_BYTES // 8)


def _fill(sidecar: Sidecar, chains: int, blocks: int) -> None:
    engine = PlainInstance(str(sidecar.socket), blocks=blocks + 4, block_bytes=_BLOCK_BYTES)
    for chain in range(chains):
        for block in range(blocks):
            engine.write_block(2 + block, _payload(chain, block))
        saved = engine.save(1 + chain, random_hashes(7 + chain, blocks), _places(blocks))
        assert saved.committed == blocks, saved

        def written(wanted: int = (chain + 1) * blocks) -> bool:
            figures = _ssd(sidecar)
            return bool(figures["blocks"] >= wanted and figures["writes"] == 0)

        processes.wait_until(written, 120, "the chain is on the SSD", 0.1)
    engine.close()


def _places(blocks: int) -> list[int]:
    return list(range(2, 2 + blocks))


def _hits(sidecar: Sidecar, chains: int, blocks: int, disk: Path, records: Records) -> None:
    found = lambda: _ssd(sidecar)["adopted_blocks"] >= chains * blocks  # noqa: E731
    processes.wait_until(found, 60, "the chains are found again", 0.1)
    pool = lambda: sidecar.status()["pool"]["finished"]  # noqa: E731
    processes.wait_until(pool, 60, "the host tier has its pages", 0.1)
    engine = PlainInstance(str(sidecar.socket), blocks=blocks + 4, block_bytes=_BLOCK_BYTES)
    engine.memory[:] = bytes(len(engine.memory))  # an engine's blocks have their pages
    hits = [_hit(engine, chain, blocks, disk) for chain in range(chains)]
    engine.close()
    mib = blocks * _BLOCK_BYTES >> 20
    record_hits(records, f"SSD hit of {mib} MiB, the first after a start", hits[:1])
    if chains > 1:
        record_hits(records, f"SSD hit of {mib} MiB, median of {chains - 1} later ones", hits[1:])


def _hit(engine: PlainInstance, chain: int, blocks: int, disk: Path) -> Hit:
    hashes = random_hashes(7 + chain, blocks)
    first_s: list[float] = []
    # What is watched is the end of block 2, where the first block of the chain goes.
    watched = 3 * _BLOCK_BYTES - 8
    engine.write_block(2, b"\xff" * _BLOCK_BYTES)
    bare_s = bare_read(disk, blocks * _BLOCK_BYTES)
    began = time.perf_counter()

    def watch() -> None:
        while engine.memory[watched : watched + 8] == b"\xff" * 8:
            time.sleep(0.0005)
        first_s.append(time.perf_counter() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = engine.lookup(100 + chain, hashes)
    answered_s = time.perf_counter() - began
    assert answer.servable == blocks, answer
    done = engine.load(answer, _places(blocks))
    last_s = time.perf_counter() - began
    watcher.join(5)
    assert done.status == p.STATUS_OK, done
    bare_s = (bare_s + bare_read(disk, blocks * _BLOCK_BYTES)) / 2
    for block in range(blocks):
        assert engine.read_block(2 + block) == _payload(chain, block), f"block {block} is wrong"
    assert engine.scheduler.send(p.EndRequest(100 + chain))
    return Hit(answered_s, first_s[0], last_s, bare_s)


def _lookups(sidecar: Sidecar, blocks: int, records: Records) -> None:
    """Lookups of one chain in host memory, in turns alone and while another chain is written."""
    engine = PlainInstance(str(sidecar.socket), blocks=blocks // 2 + 8, block_bytes=_BLOCK_BYTES)
    keys = min(_LOOKUP_KEYS, blocks // 4)
    chain = random_hashes(11, keys)
    assert engine.save(1, chain, list(range(2, 2 + keys))).committed == keys
    quiet = lambda: _ssd(sidecar)["writes"] == 0  # noqa: E731
    idle, busy, still = [], [], 0
    for turn in range(_TURNS):
        processes.wait_until(quiet, 60, "the writes end", 0.1)
        idle.append(_p99(engine, chain))
        engine.save(2 + turn, random_hashes(100 + turn, blocks // 2), _places(blocks // 2))
        busy.append(_p99(engine, chain))
        still += _ssd(sidecar)["writes"] > 0
    records.add(
        f"lookup of {keys} keys, p99, while the SSD is written: median of {_TURNS}",
        statistics.median(busy),
        "us",
        limit=statistics.median(idle),
        bar=1.1 * statistics.median(idle),
        met=statistics.median(busy) <= 1.1 * statistics.median(idle),
    )
    records.add("turns in which writes outlasted the lookups", still, "turns", limit=_TURNS)
    engine.close()


def _p99(engine: PlainInstance, chain: bytes) -> float:
    hashes = [chain[i : i + 32] for i in range(0, len(chain), 32)]
    took = []
    for number in range(_LOOKUPS):
        request = 1_000_000 + number
        query = (1 << 40) + number
        began = time.perf_counter_ns()
        engine.scheduler.ask(p.Lookup(query, request, len(hashes), 0, len(hashes)), hashes, 0)
        answer = engine.scheduler.wait_for(query, _SPIN_US)
        took.append((time.perf_counter_ns() - began) / 1000)
        assert isinstance(answer, p.LookupAnswer), answer
        assert engine.scheduler.send(p.EndRequest(request))
    return statistics.quantiles(took, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
