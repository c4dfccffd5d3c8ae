"""Finds a built sidecar and starts it for tests and benches."""

from __future__ import annotations

import os
from pathlib import Path

import flexkv
from flexkv.config import Settings
from flexkv.errors import LaunchError
from flexkv.java import JAR_NAME, find_java

MAX_IDLE_EXIT_S = 120
"""No sidecar of a test outlives a test run that was killed by more."""

REPOSITORY = Path(__file__).parents[2]


def find_built_jar() -> Path | None:
    """``FLEXKV_JAR``, the jar in the package's source, Maven's output, or the installed one."""
    named = os.environ.get("FLEXKV_JAR")
    places = [Path(named)] if named else []
    places.append(REPOSITORY / "python-shim" / "src" / "flexkv" / "_jar" / JAR_NAME)
    places.extend(sorted((REPOSITORY / "connector-jvm" / "target").glob("*sidecar*.jar")))
    places.append(Path(flexkv.__file__).parent / "_jar" / JAR_NAME)
    return next((place for place in places if place.is_file()), None)


def missing() -> str:
    """Why the real sidecar cannot be run here; empty if it can."""
    if find_built_jar() is None:
        return "no sidecar jar is built: set FLEXKV_JAR or run the Maven build"
    try:
        find_java(Settings.load())
    except LaunchError as error:
        return str(error)
    return ""


def settings(socket_path: str, folder: Path, **changes: object) -> Settings:
    """Settings that start the built sidecar, with a small pool, for one socket."""
    jar = find_built_jar()
    assert jar is not None
    assert 0 < float(str(changes.get("idle_exit_s", 1))) <= MAX_IDLE_EXIT_S
    return Settings.load(
        {
            "server_recv_port": f"ipc://{socket_path}",
            "jar": str(jar),
            "runtime_dir": str(folder),
            "idle_exit_s": 1.0,
            "cpu_cache_gb": 0.25,
            **changes,
        }
    )
