"""Finds a JDK that can build the sidecar: 25 or newer, with a compiler."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from progress import SetupError

WANTED = 25
_REMEDY = (
    f"Install one (Debian or Ubuntu: apt-get install openjdk-{WANTED}-jdk-headless, or Temurin's "
    f"temurin-{WANTED}-jdk) or name one: FLEXKV_JAVA_HOME=/path/to/jdk-{WANTED}"
)


def major_version(home: Path) -> int | None:
    """The feature release that the folder's `release` file names, None if it is no Java home."""
    try:
        text = (home / "release").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', text, re.MULTILINE)
    return int(match.group(1)) if match else None


def find_jdk() -> Path:
    """The home of the JDK to build with.

    Order: FLEXKV_JAVA_HOME (refused if unfit), JAVA_HOME, /usr/lib/jvm, PATH, ~/.sdkman. Raises
    SetupError with everything that was looked at and the remedy.
    """
    explicit = os.environ.get("FLEXKV_JAVA_HOME")
    if explicit:
        flaw = _flaw(Path(explicit))
        if flaw:
            raise SetupError(f"FLEXKV_JAVA_HOME={explicit}: {flaw}. {_REMEDY}")
        return Path(explicit)
    seen: dict[Path, str] = {}
    for home in _candidates():
        if home not in seen:
            flaw = _flaw(home)
            if flaw is None:
                return home
            seen[home] = flaw
    looked = "; ".join(f"{home}: {flaw}" for home, flaw in seen.items()) or "no Java at all"
    raise SetupError(f"no JDK {WANTED} or newer found ({looked}). {_REMEDY}")


def _flaw(home: Path) -> str | None:
    version = major_version(home)
    if version is None:
        return "not a Java home (no release file)"
    if version < WANTED:
        return f"Java {version}, {WANTED} is wanted"
    if not (home / "bin" / "javac").is_file():
        return f"Java {version} without javac: a runtime, not a JDK"
    return None


def _candidates() -> Iterator[Path]:
    java_home = os.environ.get("JAVA_HOME")
    if java_home:
        yield Path(java_home)
    for folder in (Path("/usr/lib/jvm"), Path("/opt/java")):
        if folder.is_dir():
            yield from sorted(p.resolve() for p in folder.iterdir() if p.is_dir())
    on_path = shutil.which("javac") or shutil.which("java")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    sdkman = Path.home() / ".sdkman" / "candidates" / "java"
    if sdkman.is_dir():
        yield from sorted(p.resolve() for p in sdkman.iterdir() if p.is_dir())
