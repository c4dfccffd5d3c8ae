"""Finds a Python that the CPU builds of vLLM run on, without ever downloading one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from progress import SetupError

WANTED = ("3.12", "3.11")  # those that were tried with the pinned versions, the better first


def find_python() -> Path:
    """The real path of a Python 3.12 or else 3.11; raises SetupError with the remedy."""
    for version in WANTED:
        for candidate in _candidates(version):
            real = ask(candidate, "import sys; print('%d.%d' % sys.version_info[:2])")
            if real == version:
                executable = ask(candidate, "import sys; print(sys.executable)")
                return Path(executable or candidate)
    raise SetupError(
        f"no Python {' or '.join(WANTED)} found (PATH, /usr/bin, /usr/local/bin, ~/.pyenv). "
        "Debian 12: apt-get install python3.11; Ubuntu 24.04: apt-get install python3.12; "
        "or `pyenv install 3.12`"
    )


def ask(python: str | Path, code: str) -> str | None:
    """What one line of Python prints under that interpreter, None if it fails."""
    try:
        answer = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _candidates(version: str) -> Iterator[str | Path]:
    # A shim of pyenv is on the PATH even where it leads nowhere: each is asked before it is used.
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    for folder in ("/usr/bin", "/usr/local/bin"):
        yield Path(folder) / f"python{version}"
    pyenv = Path.home() / ".pyenv" / "versions"
    if pyenv.is_dir():
        for installed in sorted(pyenv.glob(f"{version}.*"), reverse=True):
            yield installed / "bin" / "python"
