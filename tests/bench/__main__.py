"""`make bench`: runs every benchmark, then prints one table from the records they wrote.

    python tests/bench                 all of them
    python tests/bench ready lookup    some of them

Exit status 1 if a benchmark ended in an error; a bar that was missed is said in the table and is no
error, for a shared machine misses it without any fault of the software.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import checkout
from harness.progress import step
from harness.records import read, table

_TIMEOUT_S = 600

#: Script of each benchmark, and whether its `--out` names the folder instead of the file.
_PARTS = {
    "copies": ("tests/bench/copies.py", False),
    "hooks": ("python-shim/tests/bench/hooks.py", True),
    "instances": ("tests/bench/instances.py", False),
    "kvmanager": ("python-shim/tests/bench/kvmanager.py", True),
    "events": ("tests/bench/events.py", False),
    "lookup": ("python-shim/tests/bench/lookup.py", True),
    "ready": ("tests/bench/ready.py", False),
    "ssd": ("tests/bench/ssd.py", False),
    "ssd-hit": ("tests/bench/ssd_hit.py", False),
    "ssd-start": ("tests/bench/ssd_start.py", False),
    "two_instances": ("python-shim/tests/bench/two_instances.py", True),
}


def main() -> int:
    """Runs the benchmarks that are asked for; returns the exit status."""
    parts = sorted(_PARTS)
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", default=parts, metavar="PART", help=", ".join(parts))
    options = parser.parse_args()
    failed = []
    files = []
    for part in options.parts:
        if part not in parts:
            parser.error(f"no benchmark {part!r}; there are {', '.join(parts)}")
        out = checkout.RECORDS / f"{part}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)
        with step(f"bench {part}"):
            script, out_is_folder = _PARTS[part]
            target = out.parent if out_is_folder else out
            command = [sys.executable, str(checkout.ROOT / script), "--out", str(target)]
            status = subprocess.run(command, timeout=_TIMEOUT_S, check=False).returncode
        if status != 0 or not out.exists():
            failed.append(f"{part} (exit status {status})")
        else:
            files.append(out)
    records = [record for file in files for record in read(file)]
    if records:
        print(records[0].machine)
        print(table(records))
        print(f"records: {', '.join(str(file) for file in files)}")
    missed = [record.name for record in records if record.met is False]
    print(
        f"{len(records)} figures, {len(missed)} bars missed" + "".join(f"\n  {m}" for m in missed)
    )
    if failed:
        print(f"ended in an error: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
