"""Copies of the process backend through the mover, beside the bare system calls in the same run.

The same fragments in the same order between the same two memories, in turns; see
`io.flexkv.transfer.ProcessCopyBench`, which measures and writes the records.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from flexkv.config import Settings
from flexkv.java import find_jar, find_java

_MAIN = "io.flexkv.transfer.ProcessCopyBench"
_TIMEOUT_S = 300


def main() -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/copies.json"))
    options = parser.parse_args()
    settings = Settings.load()
    java = [find_java(settings).path, "-Xmx512m", "--enable-native-access=ALL-UNNAMED"]
    command = [*java, "-cp", str(find_jar(settings)), _MAIN, str(options.out)]
    return subprocess.run(command, timeout=_TIMEOUT_S, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
