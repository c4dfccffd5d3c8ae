"""Disks that fail under a real sidecar: it goes on in steps, is never late and never wrong.

One sidecar, one engine's worth of memory and two folders of an SSD tier, of which ``a`` lies on a
``FaultyDisk``.  The host tier holds a third of what is saved, so that chains come from the disks.
"""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty_disk
import pytest
from faulty_disk import FaultyDisk
from kv_rig import kill_sidecar, status
from plain_instance import PlainInstance, random_hashes
from real_sidecar import missing, settings

from flexkv import cli, launcher
from flexkv import protocol as p
from flexkv.session import open_session

pytestmark = pytest.mark.skipif(
    bool(missing() or faulty_disk.missing()), reason=missing() or faulty_disk.missing()
)

BLOCK = 1 << 20
CHAIN = 8
"""Blocks of a chain."""

PLACES = list(range(2, 2 + CHAIN))
HOST_BYTES = 68_000_000
MORE_THAN_HOST = 11
"""Chains; the host tier has room for eight."""

READ_ERRORS = 8
"""More of them and a folder is taken out."""

DEADLINE_S = 0.3
WAIT_S = 0.5
"""How long lookups say "ask again": ``ssd_wait_ms``."""

IN_TIME_S = 1.2
"""Beyond a limit, for a busy machine; the disk is known to be stalled 2 s after it begins to be."""

PATIENCE_S = 30.0


class Line:
    """An engine's memory at a sidecar whose SSD folder ``a`` is faulty."""

    def __init__(self, address: str, disk: FaultyDisk) -> None:
        self.address = address
        self.disk = disk
        self.engine = PlainInstance(
            address.removeprefix("ipc://"), blocks=CHAIN + 4, block_bytes=BLOCK
        )
        self.chains = 0
        self.requests = 1_000_000
        self.lookup_s = self.load_s = 0.0

    def ssd(self) -> dict[str, Any]:
        figures: dict[str, Any] = status(self.address)["ssd"]
        return figures

    def folder(self, name: str) -> dict[str, Any]:
        found = {Path(one["path"]).name: one for one in self.ssd()["directories"]}
        state: dict[str, Any] = found[name]
        return state

    def state(self, folder: str) -> str:
        return str(self.folder(folder)["state"])

    def used(self, folder: str) -> int:
        return int(self.folder(folder)["used_bytes"])

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
            time.sleep(0.01)

    def still(self) -> bool:
        figures = self.ssd()
        return not (figures["reads"] or figures["writes"] or figures["undrained"])

    def settled(self) -> bool:
        return self.still() and not self.ssd()["queued_bytes"]

    # ---- chains
    def save(self) -> int:
        """A new chain; its number."""
        self.chains += 1
        for i, place in enumerate(PLACES):
            self.engine.write_block(place, content(self.chains, i))
        done = self.engine.save(self.chains, hashes(self.chains), PLACES)
        assert done.status == p.STATUS_OK
        return self.chains

    def next_is_healthy(self) -> None:
        """The next chain begins in the other folder: slots are given out in turns."""
        for _ in range(8):
            before = self.used("a")
            self.chains += 1
            done = self.engine.save(self.chains, hashes(self.chains)[:32], PLACES[:1])
            assert done.status == p.STATUS_OK
            self.until("the block is on a disk", self.settled)
            if self.used("a") > before:
                return
        raise AssertionError("no slot in the faulty folder")

    def save_written(self, count: int) -> list[int]:
        """So many chains, each on the disks before the next."""
        saved = []
        for _ in range(count):
            saved.append(self.save())
            self.until("what was saved is on the disks", self.settled)
        return saved

    def ask(self, chain: int) -> p.LookupAnswer:
        """What is servable of a chain, once the lookup does not say "ask again" any more."""
        began = time.monotonic()
        self.requests += 1
        answer = self.engine.lookup(self.requests, hashes(chain), timeout_s=PATIENCE_S)
        self.lookup_s = time.monotonic() - began
        assert answer.status == p.LOOKUP_OK, "it says to ask again for ever"
        return answer

    def load(self, answer: p.LookupAnswer, chain: int, deadline_s: float = 5.0) -> int:
        """Loads what was offered; the blocks that came, none of them wrong."""
        places = PLACES[: answer.servable]
        for place in places:
            self.engine.write_block(place, bytes(BLOCK))
        began = time.monotonic()
        done = self.engine.load(answer, places, deadline_ms=round(deadline_s * 1000))
        self.load_s = time.monotonic() - began
        assert self.engine.scheduler.send(p.EndRequest(answer.request_id))
        if done.status != p.STATUS_OK:
            return 0
        for i, place in enumerate(places):
            assert self.engine.read_block(place) == content(chain, i), f"block {i} is wrong"
        return len(places)

    def hit(self, chain: int) -> int:
        answer = self.ask(chain)
        return self.load(answer, chain) if answer.servable else 0

    def hit_whole(self, chain: int) -> bool:
        """Whether all of it comes; a busy disk may be too late for a lookup."""
        return any(self.hit(chain) == CHAIN for _ in range(5))

    def reattach(self, folder: str = "a") -> None:
        """The operator's command, once the disk is well again."""
        self.disk.mend()
        self.until("nothing is under way", self.still)
        path = str(self.disk.folder.with_name(folder))
        command = ["ssd", "reattach", path, "--address", self.address]
        self.until("what lay there is forgotten", lambda: cli.main(command) == 0)
        assert self.state(folder) == "serving"


def content(chain: int, block: int) -> bytes:
    return (chain << 32 | block + 1).to_bytes(8, "little") * (BLOCK // 8)


def hashes(chain: int) -> bytes:
    return random_hashes(chain, CHAIN)


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as name:
        folder = Path(name)
        disk, java = faulty_disk.install(folder, folder / "ssd")
        found = settings(
            str(folder / "s"), folder / "run", idle_exit_s=60, java=str(java),
            cpu_cache_gb=HOST_BYTES / 1e9, ssd_cache_gb=1.4, iouring_entries=0,
            ssd_cache_dir=f"{disk.folder};{folder / 'ssd' / 'b'}", ssd_recompute_tokens_s=1,
        )  # fmt: skip
        tool = p.Hello(role=p.ROLE_TOOL, pid=0)
        keep = launcher.start_or_join(
            found, lambda: open_session(str(folder / "s"), tool, None), lambda: False
        )
        assert keep is not None
        made = Line(f"ipc://{folder / 's'}", disk)
        try:
            yield made
        finally:
            disk.mend()
            made.engine.close()
            keep.close()
            kill_sidecar(str(folder / "s"))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_disk_that_refuses_writes_is_taken_out_and_the_other_goes_on(
    line: Line, error: int
) -> None:
    line.save_written(1)
    hits = line.disk.hits
    line.disk.fail(error)
    kept = line.save()
    line.until("the folder is out", lambda: line.state("a") == "lost")
    line.until("nothing waits for it", line.settled)
    assert line.disk.hits > hits
    assert line.state("b") == "serving"
    assert line.hit(kept) == CHAIN, "host memory has it"
    later = line.save_written(MORE_THAN_HOST)
    promoted = line.ssd()["promoted_blocks"]
    assert line.hit_whole(later[0]), "the other folder has it"
    assert line.ssd()["promoted_blocks"] > promoted
    line.reattach()


def test_reads_that_fail_are_misses_and_take_the_disk_out(line: Line) -> None:
    saved = line.save_written(MORE_THAN_HOST + READ_ERRORS)
    line.disk.fail(errno.EIO, reads=True)
    for chain in saved[: READ_ERRORS + 1]:
        line.hit(chain)  # at least one error each, and whatever comes is right
    line.until("the folder is out", lambda: line.state("a") == "lost")
    assert line.hit(saved[0]) < CHAIN
    assert line.hit(line.save()) == CHAIN
    line.reattach()


def test_all_disks_gone_host_memory_serves_alone(line: Line) -> None:
    line.disk.everywhere(True)
    line.disk.fail(errno.EIO)
    line.save()
    line.until("none is left", lambda: line.state("a") == line.state("b") == "lost")
    saved = [line.save() for _ in range(2 * MORE_THAN_HOST)]
    assert line.hit(saved[-1]) == CHAIN
    assert line.hit(saved[0]) == 0, "it was dropped, for there was room nowhere"
    assert line.ssd()["queued_bytes"] <= HOST_BYTES
    line.until("nothing is under way", line.still)
    for folder in ("a", "b"):
        line.reattach(folder)
    line.until("what waited is on the disks", line.settled)
    again = line.save_written(MORE_THAN_HOST)
    assert line.hit_whole(again[0])


def test_disk_that_stalls_delays_no_load_past_its_deadline_and_no_lookup(line: Line) -> None:
    for _ in range(3):  # a busy machine may be late once
        line.next_is_healthy()
        saved = line.save_written(MORE_THAN_HOST)
        hits = line.disk.hits
        line.disk.stall()
        answer = line.ask(saved[0])
        assert answer.servable > 0, "its first block came from the other folder"
        assert line.load(answer, saved[0], DEADLINE_S) < CHAIN
        assert line.disk.hits > hits
        looked_s, loaded_s = line.lookup_s, line.load_s
        goes_on_beside_the_stall(line, saved)
        if looked_s < WAIT_S + IN_TIME_S and loaded_s < DEADLINE_S + IN_TIME_S:
            return
    raise AssertionError(f"lookup after {looked_s:.1f} s, load after {loaded_s:.1f} s")


def goes_on_beside_the_stall(line: Line, saved: list[int]) -> None:
    """More is saved than host memory holds, and found there; then the disk answers again."""
    line.until("the stall is seen", lambda: line.state("a") == "stalled")
    beside = [line.save() for _ in range(MORE_THAN_HOST)]
    assert line.hit(beside[-1]) == CHAIN
    figures = line.ssd()
    assert figures["queued_bytes"] <= HOST_BYTES
    assert line.state("b") == "serving"
    line.disk.mend()
    line.until("the folder serves again", lambda: line.state("a") == "serving")
    line.until("what waited has ended", line.settled)
    assert line.hit_whole(saved[-1])
