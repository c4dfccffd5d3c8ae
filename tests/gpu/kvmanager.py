"""The Python API on GPU tensors: the matrix byte for byte, then what puts, gets and matches cost.

    FLEXKV_JAR=… FLEXKV_JAVA_HOME=… python tests/gpu/kvmanager.py [--out build/bench/gpu]

Needs the package `flexkv`, numpy and torch, no vLLM. First every shape, dtype and layout of
`python-shim/tests/kv_matrix.py` with two clients on cuda:0, then the benchmark
`python-shim/tests/bench/kvmanager.py` with GPU memory. Records in `gpu-kvmanager.json`; exit status
1 if a byte differs or something leaks. Without a GPU the matrix runs on CPU memory and says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python-shim" / "tests"))

import torch
from kv_matrix import SHAPES, put_get_verify
from kv_rig import sidecar_environment, wait_for_no_leaks
from real_sidecar import REPOSITORY, missing

BENCH = REPOSITORY / "python-shim" / "tests" / "bench" / "kvmanager.py"
BENCH_TIMEOUT_S = 400


def matrix(device: str) -> tuple[int, int]:
    """Runs every shape; returns how many there were and the blocks compared."""
    compared = 0
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(Path(folder), idle_exit_s=60) as address,
    ):
        for shape in SHAPES:
            began = time.monotonic()
            blocks = put_get_verify(shape, device=device)
            wait_for_no_leaks(address)
            compared += blocks
            print(f"{shape.name:48} {blocks:4} blocks equal, {time.monotonic() - began:.1f} s")
    return len(SHAPES), compared


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu"))
    parser.add_argument("--rounds", type=int, default=4000)
    options = parser.parse_args()
    why = missing()
    if why:
        print(why, file=sys.stderr)
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{torch.cuda.get_device_name(0) if device == 'cuda' else 'no GPU: CPU memory'}")
    shapes, compared = matrix(device)
    options.out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(BENCH), "--device", device, "--rounds", str(options.rounds),
        "--out", str(options.out),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=BENCH_TIMEOUT_S)
    written = options.out / "kvmanager.json"
    records = json.loads(written.read_text())
    machine, said = records[0]["machine"], f"python tests/gpu/kvmanager.py --out {options.out}"
    for name, value in (("shapes", shapes), ("blocks_compared", compared)):
        records.insert(
            0,
            {
                "name": f"kvmanager_matrix_{name}_{device}", "value": value, "unit": "",
                "limit": None, "ratio": None, "bar": None, "met": None, "command": said,
                "machine": machine,
            },
        )  # fmt: skip
    target = options.out / "gpu-kvmanager.json"
    target.write_text(json.dumps(records, indent=1) + "\n")
    written.unlink()
    print(f"{shapes} shapes, {compared} blocks compared, all equal; records in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
