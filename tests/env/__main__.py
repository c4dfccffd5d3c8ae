"""Sets up whatever a target of the Makefile needs; prints only its answer to stdout.

    python3 tests/env jdk             the JDK that builds the sidecar
    python3 tests/env mvn ARG…        Maven with that JDK
    python3 tests/env wheel           builds the wheel, prints its path
    python3 tests/env venv VERSION    environment with that vLLM and the wheel, prints its Python
    python3 tests/env dynamo          environment with NVIDIA Dynamo's router, prints its Python
    python3 tests/env versions        the releases of vLLM that there are pins for
    python3 tests/env dynamo-worker   what `dynamo.vllm` needs beside vLLM, prints the folder
    python3 tests/env install         all environments of the tests
    python3 tests/env demo            a Python with the user's vLLM if there is one, else ours

Standard library only, any Python from 3.10 on. Everything is kept between calls and made anew only
where its inputs changed. Exit status 1 and a text with the remedy if something is missing.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 (whoever runs it may have an older one)
    sys.exit("[env] Python 3.10 or newer is needed, this is " + sys.version.split()[0])

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from environments import (
    MAIN_VERSION,
    PINNED,
    VERSIONS,
    prepare,
    prepare_dynamo,
    prepare_dynamo_worker,
)
from installed import find_installed, on_top_of
from interpreters import find_python
from jar import build_wheel, maven, maven_environment
from jdk import find_jdk
from progress import BUILD, ROOT, SetupError, say


def main(argv: list[str]) -> int:
    """Runs one command line; returns the exit status."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # vLLM then takes a minute to import
    try:
        answer = _answer(argv)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    if answer:
        print(answer)
    return 0


def _answer(argv: list[str]) -> str:
    match argv:
        case ["jdk"]:
            return str(find_jdk())
        case ["mvn", *arguments]:
            command = [*maven(), *arguments]
            os.chdir(ROOT)
            sys.stdout.flush()
            os.execvpe(command[0], command, maven_environment())
        case ["wheel"]:
            with _alone():
                return str(build_wheel(find_python()))
        case ["venv", version]:
            with _alone():
                return str(prepare(version))
        case ["versions"]:
            return " ".join(PINNED)
        case ["dynamo"]:
            with _alone():
                return str(prepare_dynamo())
        case ["dynamo-worker"]:
            with _alone():
                return str(prepare_dynamo_worker())
        case ["install"]:
            with _alone():
                for version in VERSIONS:
                    say(f"vLLM {version}: {prepare(version)}")
            return ""
        case ["demo"]:
            with _alone():
                return _demo()
    raise SetupError(f"unknown command {argv}\n{__doc__}")


def _demo() -> str:
    found = find_installed()
    if found is None:
        return str(prepare(MAIN_VERSION))
    python, version, paths = found
    say(f"using the installed vLLM {version} of {python}")
    return str(on_top_of(python, version, paths))


@contextmanager
def _alone() -> Iterator[None]:
    """One set-up at a time in this checkout."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up in this folder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
