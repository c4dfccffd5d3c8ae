"""A trace of what a ``KVManager`` was asked: JSON lines, to look at real traffic or to replay it.

A line is ``{"timestamp": seconds since 1970, "event_type", "component", "data"}``.  Event types:

* ``config``: once; ``model_config``, ``cache_config``, ``global_config`` (options that work)
* ``request``: a match; ``request_type``, ``request_id`` (the task), ``token_ids``, ``token_mask``,
  ``namespace``, ``dp_client_id``, ``first_block`` and ``blocks`` (what it would move)
* ``launch_tasks``: ``task_ids``, ``block_ids`` (a list for each task); ``batch``: what they became
* ``wait``: ``wait_type`` (wait, try_wait), ``task_ids``, ``timeout``, ``status`` of each

Prompts are in it, so its file is its owner's alone.  Whoever is traced only hands lines over; a
thread encodes and writes them.  What comes faster than that is counted and left out, and a file
that cannot be written ends the trace with one line in the log.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from flexkv.config import Settings
from flexkv.options import OPTIONS

logger = logging.getLogger(__name__)

QUEUED_MAX = 10_000
"""Lines that wait to be written, …"""

QUEUED_BYTES_MAX = 256 << 20
"""… and bytes of the arrays in them; from half of it on they are written without delay."""

_SECRET = frozenset(option.name for option in OPTIONS if option.secret)


class Tracer:
    """Writes lines into ``path``; when that is full it becomes ``path.1``, that ``path.2``, …."""

    def __init__(
        self, path: Path, max_bytes: int, max_files: int, flush_s: float, component: str
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._flush_s = flush_s
        self._component = component
        self._lines: deque[tuple[float, str, Mapping[str, Any]]] = deque()
        self._queued_bytes = 0
        self._counting = threading.Lock()
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="flexkv-trace", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: Settings, client: int) -> Tracer | None:
        """The tracer that the options ask for; each further client has a file of its own."""
        if not settings.values["enable_trace"]:
            return None
        path = str(settings.values["trace_file_path"]) + (f".client{client}" if client else "")
        megabytes, files, flush_ms = (
            int(str(settings.values[name]))
            for name in ("trace_max_file_size_mb", "trace_max_files", "trace_flush_interval_ms")
        )
        logger.info("Requests are traced, with their token ids, into %s", path)
        return cls(Path(path), megabytes << 20, files, flush_ms / 1000, f"kvmanager-{client}")

    def event(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Hands a line over; arrays in it must not change any more."""
        if self._broken:
            return
        size = _array_bytes(data)
        with self._counting:
            queued = self._queued_bytes + size
            if len(self._lines) >= QUEUED_MAX or queued > QUEUED_BYTES_MAX:
                self._dropped += 1
                return
            self._queued_bytes = queued
        self._lines.append((time.time(), event_type, data))
        if queued > QUEUED_BYTES_MAX // 2:
            self._wake.set()

    def close(self) -> None:
        """Writes what is there; at most two seconds."""
        self._stopping = True
        self._wake.set()
        self._thread.join(2.0)

    # ------------------------------------------------------------------ its thread
    def _run(self) -> None:
        while not self._broken:
            self._wake.wait(self._flush_s)
            self._wake.clear()  # before it looks whether to stop: what is set after this counts
            stopping = self._stopping
            try:
                self._write()
            except Exception as error:  # whatever it is, nobody's request may suffer
                self._broken = True
                self._lines.clear()
                logger.warning("The trace ends: %s cannot be written: %s", self._path, error)
            if stopping:
                return

    def _write(self) -> None:
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._lines.append((time.time(), "dropped", {"lines": dropped}))
        while self._lines:
            with self._opened() as file:
                while self._lines and file.tell() < self._max_bytes:
                    line = self._lines.popleft()
                    file.write(self._encoded(*line) + "\n")
                    with self._counting:
                        self._queued_bytes -= _array_bytes(line[2])
                full = file.tell() >= self._max_bytes
            if full:
                self._rotate()

    def _opened(self) -> TextIO:
        """The file, which was perhaps there before: a regular one of this user, for it alone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)  # a FIFO must not keep it waiting
        try:
            info = os.fstat(fd)
            if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
                raise PermissionError(f"it is no regular file of this user (uid {info.st_uid})")
            os.fchmod(fd, 0o600)
        except OSError:
            os.close(fd)
            raise
        return open(fd, "a", encoding="utf-8")

    def _encoded(self, at: float, event_type: str, data: Mapping[str, Any]) -> str:
        line = {
            "timestamp": round(at, 6), "event_type": event_type, "component": self._component,
            "data": data,
        }  # fmt: skip
        return json.dumps(line, default=_plain, separators=(",", ":"))

    def _rotate(self) -> None:
        def older(number: int) -> Path:
            return Path(f"{self._path}.{number}") if number else self._path

        if self._max_files == 1:
            self._path.unlink()
            return
        for number in range(self._max_files - 2, -1, -1):
            if older(number).exists():
                older(number).replace(older(number + 1))


def _array_bytes(data: Mapping[str, Any]) -> int:
    """What the arrays of a line take; the rest is small."""
    return sum(getattr(value, "nbytes", 0) for value in data.values())


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def described(config: Any) -> dict[str, Any]:
    """A configuration's fields, secrets aside."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.repr and field.name not in _SECRET
    }


def effective(settings: Settings) -> dict[str, Any]:
    """Every option that does something, secrets aside."""
    return {
        option.name: settings.values[option.name]
        for option in OPTIONS
        if option.status == "works" and not option.secret and option.name in settings.values
    }
