"""The Python API on GPU tensors: the matrix byte for byte, then what puts, gets and matches cost.

    FLEXKV_JAR=… FLEXKV_JAVA_HOME=… python tests/gpu/kvmanager.py [--out build/bench/gpu]

Needs the package `flexkv`, numpy and torch, no vLLM. First every shape, dtype and layout of
`python-shim/tests/kv_matrix.py` with two clients on cuda:0, from the host tier and then from the
SSD (files in `--ssd-dir`), then the benchmark `python-shim/tests/bench/kvmanager.py` with GPU
memory. Records in `gpu-kvmanager.json`; exit status
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
from kv_matrix import HOST_BLOCKS, SHAPES, put_get_verify, put_get_verify_from_disk
from kv_rig import sidecar_environment, wait_for_no_leaks
from real_sidecar import REPOSITORY, missing

BENCH = REPOSITORY / "python-shim" / "tests" / "bench" / "kvmanager.py"
BENCH_TIMEOUT_S = 400


def from_host(device: str) -> int:
    """Every shape out of the host tier; returns the blocks compared."""
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
    return compared


def from_disk(device: str, folder: Path) -> int:
    """Every shape out of files, the host tier being too small; returns the blocks compared."""
    compared = 0
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as run,
        tempfile.TemporaryDirectory(prefix="fxkv", dir=folder) as files,
        sidecar_environment(
            Path(run), num_cpu_blocks=HOST_BLOCKS, cpu_cache_gb=0.14, ssd_cache_gb=1,
            ssd_cache_dir=files, idle_exit_s=60,
        ) as address,
    ):  # fmt: skip
        for number, shape in enumerate(SHAPES):
            began = time.monotonic()
            blocks = put_get_verify_from_disk(shape, address, device=device, model=f"disk{number}")
            wait_for_no_leaks(address)
            compared += blocks
            print(f"{shape.name:48} {blocks:4} from the SSD, {time.monotonic() - began:.1f} s")
    return compared


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu"))
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--copies", type=int, default=12)
    parser.add_argument("--ssd-dir", type=Path, default=Path("/tmp"), help="on a disk (O_DIRECT)")
    options = parser.parse_args()
    why = missing()
    if why:
        print(why, file=sys.stderr)
        return 1
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{torch.cuda.get_device_name(0) if device == 'cuda' else 'no GPU: CPU memory'}")
    host, disk = from_host(device), from_disk(device, options.ssd_dir)
    options.out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(BENCH), "--device", device, "--rounds", str(options.rounds),
        "--copies", str(options.copies), "--out", str(options.out),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=BENCH_TIMEOUT_S)
    written = options.out / "kvmanager.json"
    records = json.loads(written.read_text())
    machine, said = records[0]["machine"], f"python tests/gpu/kvmanager.py --out {options.out}"
    counts = {
        "shapes": len(SHAPES), "blocks_compared": host, "blocks_compared_from_ssd": disk,
    }  # fmt: skip
    for name, value in counts.items():
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
    print(f"{len(SHAPES)} shapes, {host} and {disk} blocks compared, all equal; {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
