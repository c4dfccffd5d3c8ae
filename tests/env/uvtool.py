"""The `uv` installer: the one on the PATH, else one of our own under build/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from progress import BUILD, SetupError, run

_OWN = BUILD / "uv"
_FROM_PIP = {  # pip's settings, which uv does not read
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
}


def find_uv() -> Path:
    """A uv that runs; installs one under build/uv if there is none."""
    on_path = shutil.which("uv")
    for candidate in (on_path, _OWN / "bin" / "uv"):
        if candidate and _works(candidate):
            return Path(candidate)
    shutil.rmtree(_OWN, ignore_errors=True)
    try:
        run("making a place for uv", [sys.executable, "-m", "venv", _OWN])
    except SetupError as error:
        raise SetupError(
            f"uv is not on the PATH and {sys.executable} cannot make a virtual environment for it: "
            f"apt-get install python3-venv, or install uv. {error}"
        ) from error
    run("installing uv", [_OWN / "bin" / "python", "-m", "pip", "install", "uv"])
    return _OWN / "bin" / "uv"


def environment() -> dict[str, str]:
    """The process environment for uv: no downloads of Python, pip's indexes where uv has none."""
    env = dict(os.environ)
    env["UV_PYTHON_DOWNLOADS"] = "never"
    env["UV_NO_PROGRESS"] = "1"
    env.pop("VIRTUAL_ENV", None)
    if not any(
        k in env for k in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE")
    ):
        for name, value in _pip_settings().items():
            env.setdefault(_FROM_PIP[name], value)
    return env


def _works(uv: str | Path) -> bool:
    try:
        answer = subprocess.run(
            [str(uv), "--version"], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _pip_settings() -> dict[str, str]:
    """Index settings from pip's configuration files and environment, as one line each."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, str] = {}
    for line in answer.stdout.splitlines():  # such as: global.index-url='https://…'
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in _FROM_PIP:
            found[name] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    return found
