"""The SSD tier beside bare `O_DIRECT` calls in the same run, and how long a start takes.

`io.flexkv.sidecar.SsdBench` measures and writes the records. It needs 7 GB for some minutes in the
folder that `FLEXKV_BENCH_SSD_DIR` names, `build/bench` unless set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from flexkv.config import Settings
from flexkv.java import find_jar, find_java

_MAIN = "io.flexkv.sidecar.SsdBench"
_TIMEOUT_S = 540


def main() -> int:
    """Runs the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/ssd.json"))
    parser.add_argument("parts", nargs="*", metavar="PART", help="io_uring, threads, start")
    options = parser.parse_args()
    folder = Path(os.environ.get("FLEXKV_BENCH_SSD_DIR") or options.out.parent)
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings.load()
    java = [find_java(settings).path, "-Xmx1g", "--enable-native-access=ALL-UNNAMED"]
    command = [*java, "-cp", str(find_jar(settings)), _MAIN, str(options.out), str(folder)]
    command += options.parts
    return subprocess.run(command, timeout=_TIMEOUT_S, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
