"""Maven with the right JDK, the sidecar's jar and the wheel that carries it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from jdk import find_jdk
from progress import BUILD, ROOT, run, say
from uvtool import environment, find_uv

_MAVEN_MIN = (3, 8, 7)
_SHIM = ROOT / "python-shim"
_JAR = ROOT / "connector-jvm" / "target" / "flexkv-sidecar.jar"
_STAGED = _SHIM / "src" / "flexkv" / "_jar" / "flexkv-sidecar.jar"
_WHEELS = ROOT / "dist"


def digest(paths: Iterable[Path]) -> str:
    """A hash over names and contents; folders count with all their files, caches aside."""
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(ROOT)}\0".encode())
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def maven() -> list[str]:
    """The Maven to use: an installed one that is new enough, else the wrapper in this folder."""
    installed = shutil.which("mvn")
    if installed:
        answer = subprocess.run(
            [installed, "-v"], capture_output=True, text=True, timeout=60, check=False
        )
        match = re.search(r"Apache Maven (\d+)\.(\d+)\.(\d+)", answer.stdout)
        if match and tuple(map(int, match.groups())) >= _MAVEN_MIN:
            return [installed]
    return [str(ROOT / "mvnw")]


def maven_environment() -> dict[str, str]:
    """The process environment for Maven, with a JDK that can build the sidecar."""
    env = dict(os.environ)
    env["JAVA_HOME"] = str(find_jdk())
    # Maven's own libraries use what JDK 24 and later warn about.
    quiet = "--sun-misc-unsafe-memory-access=allow --enable-native-access=ALL-UNNAMED"
    env["MAVEN_OPTS"] = f"{env.get('MAVEN_OPTS', '')} {quiet}".strip()
    return env


def build_jar() -> Path:
    """Builds the sidecar's jar if its sources changed, and stages it for the wheel."""
    stamp = BUILD / "stamps" / "jar"
    key = digest(
        [
            ROOT / "pom.xml",
            ROOT / "connector-jvm" / "pom.xml",
            ROOT / "connector-jvm/src/main",
            _SHIM / "src" / "flexkv" / "options.json",  # the jar carries it too
        ]
    )
    # The jar's own hash as well: somebody may have called Maven with other sources in between.
    if not (_JAR.is_file() and stamp.is_file() and stamp.read_text() == key + digest([_JAR])):
        run(
            "building the sidecar's jar",
            [
                *maven(),
                "-B",
                "-ntp",
                "-Dstyle.color=never",
                "-pl",
                "connector-jvm",
                "package",
                "-Dmaven.test.skip=true",
            ],
            env=maven_environment(),
        )
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key + digest([_JAR]))
    if not (_STAGED.is_file() and _STAGED.read_bytes() == _JAR.read_bytes()):
        _STAGED.parent.mkdir(exist_ok=True)
        # By renaming: a sidecar that runs from the old file keeps it.
        fresh = _STAGED.with_suffix(".new")
        shutil.copyfile(_JAR, fresh)
        fresh.replace(_STAGED)
    return _STAGED


def build_wheel(python: Path) -> Path:
    """Builds the wheel `flexkv` under dist/ if the jar or the package changed; returns its path."""
    build_jar()
    stamp = BUILD / "stamps" / "wheel"
    key = digest([_SHIM / "pyproject.toml", _SHIM / "hatch_build.py", _SHIM / "src"])
    wheels = sorted(_WHEELS.glob("flexkv-*.whl"))
    if len(wheels) == 1 and stamp.is_file() and stamp.read_text() == key:
        return wheels[0]
    for old in wheels:
        old.unlink()
    run(
        "building the wheel",
        [find_uv(), "build", "--wheel", "--python", python, "--out-dir", _WHEELS, _SHIM],
        env=environment(),
    )
    (wheel,) = _WHEELS.glob("flexkv-*.whl")
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    say(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel
