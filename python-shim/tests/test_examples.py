"""Every script in ``examples`` runs as it is and says what it should."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from kv_rig import own_sidecar, wait_for_no_leaks
from real_sidecar import REPOSITORY, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

EXAMPLES = REPOSITORY / "examples"
SAID = {
    "put_get.py": [r"put: 96 of 100 tokens", r"get: 96 tokens", r"every byte is the same"],
    "match_launch.py": [
        r"match: tokens 16 to 63 can be loaded", r"put_match: 48 tokens are new",
        r"batch: \[32, 48\] tokens", r"another namespace: 0 tokens", r"after reset: 0 tokens",
    ],
    "tensor_parallel.py": [r"rank 0: its part is the same", r"rank 1: its part is the same"],
    "two_engines.py": [
        r"engine 0 put 128 tokens", r"engine 1 loaded 128 tokens: \[1, 2, 3, 4, 5, 6, 7, 8\]",
    ],
    "performance.py": [r"hit rate \d+\.\d %", r", 0 failures", r"get_match p50", r"GB/s"],
}  # fmt: skip
ARGUMENTS = {"performance.py": ["--requests", "30", "--layers", "2", "--conversations", "3"]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60) as found:
        yield found


def test_every_example_has_its_lines_here_and_its_row_in_the_page() -> None:
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert scripts == sorted(SAID)
    page = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+\.py)`", page, re.MULTILINE)) == scripts


@pytest.mark.parametrize("script", sorted(SAID))
def test_example_runs_and_says_what_it_should(address: str, script: str) -> None:
    command = [sys.executable, str(EXAMPLES / script), *ARGUMENTS.get(script, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in SAID[script]:
        assert re.search(line, done.stdout), done.stdout
    wait_for_no_leaks(address)
