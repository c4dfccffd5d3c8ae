"""The contract that every kind of device memory keeps, on this machine's GPU: a Java test class.

    python tests/gpu/contract.py --out build/bench/gpu/contract.json

Maven builds the sidecar and its tests and runs `CudaMemoryDeviceTest`; where there is no JDK, or
nothing from which Maven could get what it needs, nothing is run. Exit status 1 if a test fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.checkout import ROOT
from harness.records import Records

from gpu.engine import has_gpu
from gpu.session import NO_GPU, say, skip

TEST = "CudaMemoryDeviceTest"
REPORT = ROOT / f"connector-jvm/target/surefire-reports/TEST-io.flexkv.device.{TEST}.xml"
_SETUP = (sys.executable, str(ROOT / "tests/env"))
_MAVEN = (
    "mvn", "-B", "-ntp", "-Dstyle.color=never", "-pl", "connector-jvm", "test", f"-Dtest={TEST}",
    "-Dflexkv.test.cuda=true",
)  # fmt: skip
#: What Maven and its wrapper say where they cannot get something, which is no fault of the tests.
_UNREACHABLE = re.compile(
    r"could not (resolve|transfer)|offline mode|unknown ?host|failed to fetch|"
    r"temporary failure in name resolution|could not be resolved",
    re.IGNORECASE,
)
_SHOWN_LINES = 25


def why_not_built(output: str) -> str:
    """Why Maven came to no tests through no fault of theirs; '' if it is one."""
    line = next((line for line in output.splitlines() if _UNREACHABLE.search(line)), "")
    return f"Maven cannot get what it needs: {line.strip()[:200]}" if line else ""


def counted(report: Path) -> dict[str, int]:
    """Tests, failures (errors among them) and skipped ones of a surefire report."""
    suite = ElementTree.parse(report).getroot()
    one = {name: int(suite.get(name, "0")) for name in ("tests", "errors", "failures", "skipped")}
    return {
        "tests": one["tests"],
        "failures": one["errors"] + one["failures"],
        "skipped": one["skipped"],
    }


def report_on(counts: dict[str, int], records: Records) -> bool:
    """Makes the records; whether all tests ran and hold."""
    passed = counts["tests"] - counts["failures"] - counts["skipped"]
    met = passed == counts["tests"] > 0
    records.add(f"{TEST}: tests that hold on the GPU", passed, "tests",
                limit=counts["tests"], bar=counts["tests"], met=met)  # fmt: skip
    return met


def main() -> int:
    """Builds and runs them; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="file of the records")
    out = Path(parser.parse_args().out)
    if not has_gpu():
        return skip(out, NO_GPU)
    jdk = subprocess.run([*_SETUP, "jdk"], capture_output=True, text=True, check=False)
    if jdk.returncode:
        return skip(out, jdk.stderr.strip() or "no JDK that can build the tests")
    REPORT.unlink(missing_ok=True)
    maven = subprocess.run(
        [*_SETUP, *_MAVEN], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if not REPORT.is_file():
        if reason := why_not_built(maven.stdout):
            return skip(out, reason)
        say("\n".join(maven.stdout.splitlines()[-_SHOWN_LINES:]))
        say(f"Maven ended with {maven.returncode} before it ran a test")
        return 1
    records = Records()
    held = report_on(counted(REPORT), records)
    records.write(out)
    if not held:
        say("\n".join(maven.stdout.splitlines()[-_SHOWN_LINES:]))
    say(f"{records.all[0].name}: {records.all[0].value} of {records.all[0].bar}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
