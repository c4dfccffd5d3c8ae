"""Whether the CUDA backend works on this machine's GPU: `CudaSelfTest` of the sidecar's jar.

    python tests/gpu/self_test.py --out build/bench/gpu/self_test.json

A child owns GPU memory and an event; the backend maps them by IPC and moves blocks through its
movers: every copy path that the driver has, both ways, plain and strided, pinned and pageable
memory, a pool that is resized, the event polled, the layout proof. Exit status 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flexkv.errors import FlexKVError
from gpu import jar
from gpu.engine import has_gpu
from gpu.session import NO_GPU, skip


def main() -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="file of the records; a log comes beside it")
    parser.add_argument("--gpu-mib", type=int, default=4096, help="of GPU memory")
    parser.add_argument("--checked-mib", type=int, default=256, help="of them compared")
    args = parser.parse_args()
    out = Path(args.out)
    if not has_gpu():
        return skip(out, NO_GPU)
    try:
        status = jar.run("transfer.CudaSelfTest", out.with_suffix(".log"), out,
                         args.gpu_mib << 20, args.checked_mib << 20)  # fmt: skip
    except FlexKVError as error:
        return skip(out, str(error))
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
