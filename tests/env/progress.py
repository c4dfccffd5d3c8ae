"""Running long commands with a line of progress now and then, their whole output kept in a log."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
LOGS = BUILD / "logs"

_FIRST_LINE_AFTER_S = 2.0
_LINE_EVERY_S = 10.0
_TAIL_LINES = 30


class SetupError(Exception):
    """Something is missing or failed; the message names the remedy."""


def say(text: str) -> None:
    """Prints one line of progress to stderr (stdout is for answers that a Makefile reads)."""
    print(f"[env] {text}", file=sys.stderr, flush=True)


def run(
    what: str,
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout_s: float = 1800.0,
) -> str:
    """Runs a command to its end and returns its output (stdout and stderr together).

    `what` names the step in the progress lines and its log under build/logs. Raises SetupError
    with the end of the output if the command fails or outlives `timeout_s`.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / ("".join(c if c.isalnum() or c in ".-" else "-" for c in what) + ".log")
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(os.environ if env is None else env),
        )
        try:
            _wait(what, process, log, started, timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            raise
    output = log.read_text(errors="replace")
    took_s = time.monotonic() - started
    if process.returncode != 0:
        tail = "\n".join(output.splitlines()[-_TAIL_LINES:])
        raise SetupError(
            f"{what}: exit status {process.returncode} after {took_s:.0f} s\n{tail}\n"
            f"(all of it: {log}; command: {' '.join(map(str, argv))})"
        )
    if took_s >= _FIRST_LINE_AFTER_S:
        say(f"{what}: done in {took_s:.0f} s")
    return output


def _wait(
    what: str, process: subprocess.Popen[bytes], log: Path, started: float, timeout_s: float
) -> None:
    pause_s = _FIRST_LINE_AFTER_S
    while True:
        try:
            process.wait(timeout=pause_s)
        except subprocess.TimeoutExpired:
            took_s = time.monotonic() - started
        else:
            return
        if took_s > timeout_s:
            raise SetupError(f"{what}: not done after {timeout_s:.0f} s, given up (log: {log})")
        say(f"{what} … {took_s:.0f} s{_last_line(log)}")
        pause_s = _LINE_EVERY_S


def _last_line(log: Path) -> str:
    lines = [x.strip() for x in log.read_text(errors="replace").splitlines() if x.strip()]
    return f" · {lines[-1][:90]}" if lines else ""
