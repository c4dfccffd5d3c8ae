"""How much of the link comes through the movers: `CudaCopyBench` of the sidecar's jar.

    python tests/gpu/copy_bench.py --out build/bench/gpu/copy_bench.json
    python tests/gpu/copy_bench.py --out records.json --largest-kib 16 --layers 80

For rows of every size, in turns: large copies (the link), a bare C++ loop over whichever call of
the driver moves such rows best (`bare_copy.cpp`, compiled here), and the movers. Then what a load
pays beyond the link's time, and what it loses to a save beside it. A missed bar is no error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flexkv.errors import FlexKVError
from gpu import jar
from gpu.engine import has_gpu
from gpu.session import NO_GPU, skip

_SOURCE = Path(__file__).parent / "bare_copy.cpp"
_COMPILERS = ("g++", "c++", "clang++")


def compiler() -> str | None:
    """A C++ compiler: the one that CXX names, else the first that is there."""
    named = os.environ.get("CXX")
    return next((found for name in ((named,) if named else _COMPILERS)
                 if (found := shutil.which(name))), None)  # fmt: skip


def main() -> int:
    """Compiles and runs it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="file of the records; a log comes beside it")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--gpu-mib", type=int, default=8192, help="of GPU memory, twice as much")
    parser.add_argument("--pass-mib", type=int, default=256, help="moved in one turn")
    parser.add_argument("--cold-mib", type=int, default=32, help="of host memory pinned meanwhile")
    parser.add_argument("--smallest-kib", type=int, default=4, help="rows from here")
    parser.add_argument("--largest-kib", type=int, default=2048, help="to here")
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    out = Path(args.out)
    if not has_gpu():
        return skip(out, NO_GPU)
    found = compiler()
    if found is None:
        missing = os.environ.get("CXX") or ", ".join(_COMPILERS)
        return skip(out, f"no C++ compiler for the bare loop ({missing}): install g++")
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare_copy")
        subprocess.run(
            [found, "-O2", "-std=c++17", "-o", bare, _SOURCE, "-ldl", "-pthread"], check=True
        )
        try:
            status = jar.run(
                "transfer.CudaCopyBench", out.with_suffix(".log"), bare, out, args.rounds,
                args.gpu_mib << 20, args.pass_mib << 20, args.cold_mib << 20, args.smallest_kib,
                args.largest_kib, args.layers,
            )  # fmt: skip
        except FlexKVError as error:
            return skip(out, str(error))
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
