"""A disk by itself, and hits on what an SSD tier keeps there, beside it."""

from __future__ import annotations

import mmap
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.records import Records

_READ_BYTES = 1 << 20
_READERS = (8, 32)

#: What a hit of 1 GiB may take: its first byte; its last one, in bare reads of as much.
_FIRST_MS = 50.0
_LAST_SHARE = 1.15


def bare_read(folder: Path, wanted: int, readers: int = _READERS[0]) -> float:
    """Seconds in which threads read so many bytes of a folder's files past the page cache."""
    pieces: list[tuple[int, int]] = []
    descriptors = []
    left = wanted
    for file in sorted(folder.iterdir(), key=lambda f: -f.stat().st_size):
        fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
        descriptors.append(fd)
        for offset in range(0, file.stat().st_size - _READ_BYTES, _READ_BYTES):
            if left > 0:
                pieces.append((fd, offset))
                left -= _READ_BYTES
    buffers = threading.local()

    def read(piece: tuple[int, int]) -> int:
        if not hasattr(buffers, "one"):
            buffers.one = mmap.mmap(-1, _READ_BYTES)
            buffers.one[:] = bytes(_READ_BYTES)
        return os.preadv(piece[0], [buffers.one], piece[1])

    began = time.perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        total = sum(pool.map(read, pieces))
    took = time.perf_counter() - began
    for fd in descriptors:
        os.close(fd)
    return took * wanted / max(1, total)


def best_readers(folder: Path, wanted: int) -> int:
    """How many threads make this disk fastest."""
    return min(_READERS, key=lambda readers: bare_read(folder, wanted, readers))


@dataclass(frozen=True, slots=True)
class Hit:
    """Seconds from the first question; what bare reads of as many bytes took."""

    answered_s: float
    first_s: float
    last_s: float
    bare_s: float


def record_hits(records: Records, name: str, hits: Sequence[Hit]) -> None:
    """Three records: answered, first byte, last byte."""

    def median(of: Callable[[Hit], float]) -> float:
        return statistics.median(map(of, hits))

    records.add(f"{name}: answered", 1000 * median(lambda hit: hit.answered_s), "ms")
    first = 1000 * median(lambda hit: hit.first_s)
    records.add(f"{name}: first byte", first, "ms", bar=_FIRST_MS, met=first <= _FIRST_MS)
    last, bare = (1000 * median(of) for of in (lambda hit: hit.last_s, lambda hit: hit.bare_s))
    most = _LAST_SHARE * bare
    records.add(f"{name}: last byte", last, "ms", limit=bare, bar=most, met=last <= most)
