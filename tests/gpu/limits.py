"""What limits keep of a neighbour's step, and what they leave of the rate, for each geometry.

    python tests/gpu/limits.py --out records.json

A process moves blocks through the sidecar as fast as it may, with fragments of each size, in an
allocation a layer and (`16s`) in one buffer; another computes like a decode step and makes the
small copies of one (`gemms.py --copies`). Its steps are of a millisecond, a fifth of an 8B model's:
the time that they lose counts, not its share.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness.records import Records

from gpu import connectors
from gpu.copy_candidates import Decoder
from gpu.engine import has_gpu
from gpu.neighbour import Fragments, Mover, set_limits
from gpu.session import NO_GPU, skip

_LOOK_S = 1.0
_POOL_GB = 8.0
_GIB = 0.5


def look(
    records: Records, mover: Mover, decoder: Decoder, fragments: Fragments, limit: float
) -> None:
    """Steps alone and beside loads, and beside loads and saves."""
    under = f", at most {limit:g} GB/s each way" if limit else ""
    decoder.begin(_LOOK_S)
    alone = decoder.end()
    for what, words in (("load", "loads"), ("both", "loads and saves")):
        mover.begin(what)
        decoder.begin(_LOOK_S)
        seen = decoder.end()
        rate = mover.end()
        name = f"{fragments}{under}, {words}"
        most = limit * (2 if what == "both" else 1)
        records.add(f"{name}: moved", rate, "GB/s", limit=most or None)
        for figure, word in (("p50", "median"), ("p99", "99th of a hundred")):
            records.add(f"{name}: a neighbour's step is longer by, {word}",
                        1e3 * (seen[figure] - alone[figure]), "us")  # fmt: skip


def main() -> int:
    """Measures; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometries", default="64,32,16,8,16s,4s")
    parser.add_argument("--limits", default="0,20,10", help="GB/s; 0: none")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    if not has_gpu():
        return skip(args.out, NO_GPU)
    sidecar = connectors.sidecar(_POOL_GB)
    sidecar.environment["FLEXKV_IDLE_EXIT_S"] = "10"  # from one geometry to the next
    os.environ.update(sidecar.environment)
    records = Records()
    decoder = Decoder("--copies")
    try:
        for word in args.geometries.split(","):
            fragments = Fragments.named(word)
            mover = Mover(sidecar, args.out.with_suffix(".log"), _GIB, "cuda", fragments)
            try:
                if not connectors.wait_pinned(sidecar, 60.0):
                    raise SystemExit("the pool is not pinned after a minute")
                for limit in args.limits.split(","):
                    set_limits(sidecar, float(limit))
                    look(records, mover, decoder, fragments, float(limit))
            finally:
                set_limits(sidecar, 0.0)
                mover.close()
            records.write(args.out)
    finally:
        decoder.close()
    for record in records.all:
        print(f"{record.name} = {record.value} {record.unit}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
