"""A disk that fails or stalls at a word, under a process that knows nothing of it.

``faulty_disk.c`` is built here and preloaded by a ``java`` that stands before the real one.
"""

from __future__ import annotations

import mmap
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

from flexkv.config import Settings
from flexkv.java import find_java

_SOURCE = Path(__file__).with_name("faulty_disk.c")
_PAGE = 4096
_READ, _WRITE, _BARRIER, _STALLED, _HITS, _ONLY = range(0, 24, 4)


def missing() -> str:
    """Why there can be no such disk here; empty if there can."""
    return "" if shutil.which("gcc") else "no gcc to build the stand-in for a faulty disk with"


class FaultyDisk:
    """The files of folder ``a`` below a root, as some process sees them; or all below it."""

    def __init__(self, root: Path, page: mmap.mmap) -> None:
        self.folder = root / "a"
        self._page = page
        self.everywhere(False)

    def _set(self, field: int, value: int) -> None:
        struct.pack_into("=i", self._page, field, value)

    def everywhere(self, yes: bool) -> None:
        """Whether the other folders are on it too."""
        self._set(_ONLY, 0 if yes else ord(self.folder.name))

    def fail(self, error: int, *, reads: bool = False) -> None:
        """Writes and barriers, or reads, end with this error number from now on."""
        for field in [_READ] if reads else [_WRITE, _BARRIER]:
            self._set(field, error)

    def stall(self) -> None:
        """Whatever is asked for waits."""
        self._set(_STALLED, 1)

    def mend(self) -> None:
        """All is well, and what waited goes on."""
        for field in (_READ, _WRITE, _BARRIER, _STALLED):
            self._set(field, 0)
        self.everywhere(False)

    @property
    def hits(self) -> int:
        """Accesses so far that failed or had to wait."""
        return int(struct.unpack_from("=i", self._page, _HITS)[0])


def install(scratch: Path, root: Path) -> tuple[FaultyDisk, Path]:
    """The disk, and a ``java`` that sees it; both live in ``scratch``."""
    library = scratch / "faulty_disk.so"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(_SOURCE), "-ldl"], check=True, timeout=60)
    control = scratch / "faulty_disk.control"
    control.write_bytes(bytes(_PAGE))
    java = scratch / "java"
    variables = f"LD_PRELOAD={library} FAULTY_CONTROL={control} FAULTY_FOLDER={root}"
    real = find_java(Settings.load()).path
    java.write_text(f'#!/bin/sh\nexport {variables}\nexec {shlex.quote(real)} "$@"\n')
    java.chmod(0o700)
    with control.open("r+b") as file:
        return FaultyDisk(root, mmap.mmap(file.fileno(), _PAGE)), java
