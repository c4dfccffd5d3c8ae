"""Prints `docs/performance/README.md` from the records of GPU runs that lie beside it.

python tests/gpu/report.py > docs/performance/README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
HEAD = """\
# Records of runs on an H200

One NVIDIA H200 (PCIe gen 5), 16 cores, driver 580, CUDA 13.0, 2026-11-21. Each table is printed
from the JSON file beside it (`tests/gpu/report.py`); `limit` is what the hardware, or the bare
call, did in the same run. Tokens are greedy; "cold" computes everything, "engine hit" is vLLM's own
prefix cache, "sidecar hit" comes back from host memory after that cache was dropped.
"""
RUNS = {
    "gpu-acceptance-real-weights": "Weights that make every answer depend on the whole cache: the "
    "sidecar hit against the engine's own hit (in bf16 vLLM's own hit differs from its cold run)",
    "gpu-acceptance": "Dummy weights (answers depend on the last token alone, so this shows "
    "that nothing hangs, leaks or fails): vLLM 0.26.0 with CUDA graphs and async scheduling, "
    "Llama-3.1-8B shape with random weights, prompts of 2k to 30k tokens",
    "gpu-acceptance-tight": "The same with so little KV memory that requests are preempted",
    "gpu-death-stops-copies": "The sidecar killed in the middle of loads of 1 GiB, "
    "canaries in the blocks afterwards",
    "gpu-copy-paths": "Copy paths of the CUDA backend, byte for byte, and their rates beside "
    "copies of 32 MiB",
    "gpu-host-lookup": "Lookups from Python beside a bare echo through the ring, 16 idle cores",
    "gpu-host-process-copies": "Copies of the process backend beside the bare system calls, "
    "16 idle cores",
}
COLUMNS = ("name", "value", "unit", "limit", "ratio", "bar", "met")


def cell(value: Any) -> str:
    """A figure with four digits, a word for a truth value, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page() -> str:
    """The page, from nothing but the records."""
    lines = [HEAD]
    for name, title in RUNS.items():
        rows = json.loads((FOLDER / f"{name}.json").read_text())
        lines += [f"## {title}", "", f"`{rows[0]['command']}` · [{name}.json]({name}.json)", ""]
        lines += [
            "| what | value | unit | limit | ratio | bar | met |",
            "|---|---:|---|---:|---:|---:|---|",
        ]
        lines += ["| " + " | ".join(cell(row.get(c)) for c in COLUMNS) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Prints it."""
    sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
