"""What kind of pages the host pool should have: how long they take to come, to be pinned, to go.

For each kind a process of its own maps the memory, gives it its pages by several threads, registers
it with the driver in pieces of 32 MiB, and is killed; the time from SIGKILL to a readable pidfd is
what an engine waits for before it reuses the blocks of a load that did not end.

    python tests/gpu/pool_pages.py --gib 32 --out records.json
    python tests/gpu/pool_pages.py --gib 0.5 --no-cuda --out records.json     (without a GPU)

Kinds that the kernel does not offer as it is set are skipped, with the remedy in the record's name;
``--reserve`` sets them up for the time of the run (root; the whole machine's settings).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import platform
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

MEMFD, MEMFD_THP, ANONYMOUS, ANONYMOUS_THP, HUGETLB = KINDS = (
    "memfd, 4 KiB pages",
    "memfd, transparent huge pages",
    "anonymous, 4 KiB pages",
    "anonymous, transparent huge pages",
    "memfd, reserved huge pages",
)
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")
RESERVED = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
PIECE, PIN_PIECE, HUGE = 64 << 20, 32 << 20, 2 << 20
MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_WRITE = 14, 15, 23
PROT, SHARED, PRIVATE_ANONYMOUS = 3, 1, 0x22
MFD_HUGETLB_2MB = 0x4 | 21 << 26
THREADS = 8


def libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    ]  # fmt: skip
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def must(result: int, what: str) -> int:
    if result < 0:
        raise SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


# ---------------------------------------------------------------- the process that is killed


def map_memory(library: Any, kind: str, length: int) -> int:
    """Its address, on a border of 2 MiB."""
    fd, flags = -1, PRIVATE_ANONYMOUS
    if kind in (MEMFD, MEMFD_THP, HUGETLB):
        fd = os.memfd_create("pool-pages", MFD_HUGETLB_2MB if kind == HUGETLB else 0)
        os.ftruncate(fd, length + HUGE)
        flags = SHARED
    address = library.mmap(None, length + HUGE, PROT, flags, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise SystemExit(f"mmap: {os.strerror(ctypes.get_errno())}")
    address = (int(address) + HUGE - 1) // HUGE * HUGE
    if kind != HUGETLB:
        advice = MADV_HUGEPAGE if kind in (MEMFD_THP, ANONYMOUS_THP) else MADV_NOHUGEPAGE
        must(library.madvise(address, length, advice), "madvise(huge pages)")
    return address


def populate(library: Any, address: int, length: int) -> None:
    pieces = iter(range(0, length, PIECE))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at = next(pieces, None)
            if at is None:
                return
            size = min(PIECE, length - at)
            must(library.madvise(address + at, size, MADV_POPULATE_WRITE), "madvise(populate)")

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pin(address: int, length: int) -> float:
    """Seconds that the longest piece took."""
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()

    def call(name: str, *args: Any) -> None:
        if code := getattr(cuda, name)(*args):
            raise SystemExit(f"{name} failed: {code}")

    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    longest = 0.0
    for at in range(0, length, PIN_PIECE):
        begin = time.monotonic()
        size = min(PIN_PIECE, length - at)
        call("cuMemHostRegister_v2", ctypes.c_void_p(address + at), ctypes.c_size_t(size), 1)
        longest = max(longest, time.monotonic() - begin)
    return longest


def huge_bytes(address: int) -> int:
    """Bytes of the mapping at this address that lie in huge pages, as far as the kernel tells."""
    total, inside = 0, False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            start, end = (int(word, 16) for word in words[0].split("-"))
            inside = start <= address < end
        elif inside and words[0] in ("AnonHugePages:", "ShmemPmdMapped:", "Shared_Hugetlb:",
                                     "Private_Hugetlb:"):  # fmt: skip
            total += int(words[1]) << 10
    return total


def child(kind: str, length: int, cuda: bool) -> None:
    library = libc()
    address = map_memory(library, kind, length)
    begin = time.monotonic()
    populate(library, address, length)
    populated = time.monotonic()
    longest = pin(address, length) if cuda else 0.0
    pinned = time.monotonic()
    facts = {
        "populate": populated - begin,
        "pin": pinned - populated,
        "longest": longest,
        "huge": huge_bytes(address) / length,
    }
    print(json.dumps(facts), flush=True)
    sys.stdin.read()


# ---------------------------------------------------------------- the one that kills


def machine() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    kernel = re.sub(r"[^0-9.].*", "", platform.release())  # what follows is its builder's
    return f"{os.cpu_count()} cores {model}, {platform.system()} {kernel}"


def unavailable(kind: str, length: int) -> str:
    """Why this kind cannot be had, empty if it can."""
    if kind == MEMFD_THP:
        mode = (THP / "shmem_enabled").read_text()
        if "[never]" in mode or "[deny]" in mode:
            return f"needs 'advise' in {THP / 'shmem_enabled'}"
    if kind == ANONYMOUS_THP and "[never]" in (THP / "enabled").read_text():
        return f"needs 'madvise' in {THP / 'enabled'}"
    if kind == HUGETLB:
        free = int((RESERVED / "free_hugepages").read_text()) if RESERVED.exists() else 0
        if free * HUGE < length + HUGE:
            return f"needs {length // HUGE + 1} in {RESERVED / 'nr_hugepages'}, free are {free}"
    return ""


@contextlib.contextmanager
def set_up(kind: str, length: int, allowed: bool) -> Iterator[None]:
    """Offers what the kind needs for the time being, if that is allowed and works."""
    path, value = {
        MEMFD_THP: (THP / "shmem_enabled", "advise"),
        HUGETLB: (RESERVED / "nr_hugepages", str(length // HUGE + 8)),
    }.get(kind, (None, ""))
    if not allowed or path is None or not unavailable(kind, length):
        yield
        return
    before = path.read_text()
    before = before[before.find("[") + 1 : before.find("]")] if "[" in before else before
    with contextlib.suppress(OSError):
        path.write_text(value)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.write_text(before)


def measure(kind: str, length: int, cuda: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, "--bytes", str(length)]
    command += [] if cuda else ["--no-cuda"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{kind}: the child ended without an answer")
    facts: dict[str, float] = json.loads(line)
    pidfd = os.pidfd_open(process.pid)
    begin = time.monotonic()
    process.send_signal(signal.SIGKILL)
    select.select([pidfd], [], [])
    facts["gone"] = time.monotonic() - begin
    os.close(pidfd)
    process.wait()
    return facts


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="pool-pages.json")
    parser.add_argument("--gib", type=float, default=32)
    parser.add_argument("--no-cuda", action="store_true")
    parser.add_argument("--reserve", action="store_true")
    parser.add_argument("--child", choices=KINDS)
    parser.add_argument("--bytes", type=int, default=0)
    args = parser.parse_args()
    cuda = not args.no_cuda
    if args.child:
        child(args.child, args.bytes, cuda)
        return 0
    length = int(args.gib * (1 << 30)) // HUGE * HUGE
    command = f"python tests/gpu/pool_pages.py --gib {args.gib:g}"
    records: list[dict[str, Any]] = []

    def record(name: str, value: float, unit: str, bar: float | None = None) -> None:
        met = None if bar is None else value <= bar
        row = dict(name=name, value=round(value, 4), unit=unit, limit=None, ratio=None, bar=bar)
        records.append(row | dict(met=met, command=command, machine=machine()))
        print(f"{name}: {value:.3f} {unit}", flush=True)

    for kind in KINDS:
        with set_up(kind, length, args.reserve):
            if why := unavailable(kind, length):
                record(f"{kind}: skipped, {why}", 0, "")
                continue
            facts = measure(kind, length, cuda)
        record(f"{kind}: share in huge pages", facts["huge"], "share")
        record(f"{kind}: {args.gib:g} GiB populated by {THREADS} threads", facts["populate"], "s")
        if cuda:
            record(f"{kind}: pinned in pieces of 32 MiB", facts["pin"], "s")
            record(f"{kind}: longest piece", facts["longest"] * 1e3, "ms")
        record(f"{kind}: SIGKILL to readable pidfd", facts["gone"], "s", 5)
        pathlib.Path(args.out).write_text(json.dumps(records, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
