"""`make test-gpu`: runs the programs of this folder one after another, each in its own process.

    python tests/gpu                              all of them, records in build/bench/gpu
    python tests/gpu acceptance pairs             some of them
    python tests/gpu pairs -- --parts ttft        with options for the program

Exit status 1 if a claim of equality does not hold, a program ended in an error or took too long.
A missed bar is said in the tables and is no error. Without a GPU everything is skipped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

#: Script of each program, and the seconds it may take at most.
_PROGRAMS = {"acceptance": 900, "pairs": 1200, "batches": 1200}


def main() -> int:
    """Runs what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make test-gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("programs", nargs="*", default=list(_PROGRAMS), metavar="PROGRAM")
    words = sys.argv[1:]
    own = words[: words.index("--")] if "--" in words else words
    rest = words[len(own) + 1 :]
    options = parser.parse_args(own)
    unknown = sorted(set(options.programs) - set(_PROGRAMS))
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)} (there are {', '.join(_PROGRAMS)})")
    failed = []
    for name in options.programs:
        script = Path(__file__).parent / f"{name}.py"
        try:
            status = subprocess.run(
                [sys.executable, str(script), *rest], check=False, timeout=_PROGRAMS[name]
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
        if status:
            failed.append(f"{name} ({status})")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
