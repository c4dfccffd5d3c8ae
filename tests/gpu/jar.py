"""Programs of the sidecar's jar, run by the Java that would run the sidecar."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flexkv.config import Settings
from flexkv.java import find_jar, find_java
from gpu.session import say

_SHOWN_LINES = 25


def run(name: str, log: Path, *arguments: object) -> int:
    """Runs the class io.flexkv.``name`` with its output in a file; returns the exit status.

    ``FlexKVError`` where Java or the jar is missing, before anything is started.
    """
    settings = Settings.load({})
    command = [
        find_java(settings).path, "-Xmx2g", "--enable-native-access=ALL-UNNAMED", "-cp",
        str(find_jar(settings)), f"io.flexkv.{name}", *map(str, arguments),
    ]  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        status = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status:
        tail = log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        say("\n".join([f"{name} ended with {status}; the end of {log}:", *tail]))
    return status
