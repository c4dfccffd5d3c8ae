"""Ranks beyond what a GPU machine of ours has: four of them, and latent attention on several.

The acceptance program does it all, on real engines: hits equal to vLLM's own over aborts and
preemptions, nothing left in the sidecar, and as many ranks saving and loading as should.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import checkout

_PROGRAM = Path(__file__).resolve().parents[1] / "gpu" / "acceptance.py"


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "ranks"),
    [
        pytest.param("tiny", 4, id="fewer heads of keys and values than ranks"),
        pytest.param("tiny-mla", 2, id="latents stored once"),
    ],
)
def test_tensor_parallel_ranks_answer_as_without_us(
    scratch: Path, shape: str, ranks: int, seed: int
) -> None:
    command = [sys.executable, str(_PROGRAM), "--shape", shape, "--tensor-parallel", str(ranks)]
    command += ["--prompts", "4", "--kills", "0", "--seed", str(seed), "--out", str(scratch)]
    log = checkout.LOGS / f"ranks-{shape}-{ranks}.log"
    with log.open("wb") as out:
        ended = subprocess.run(command, env=dict(os.environ), stdout=out, stderr=subprocess.STDOUT,
                               check=False, timeout=560)  # fmt: skip
    failures = [line for line in log.read_text().splitlines() if "FAILED" in line]
    assert (ended.returncode, failures) == (0, [])
