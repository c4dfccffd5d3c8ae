"""`make bench-dynamo`: Mooncake's conversations through NVIDIA Dynamo's real router, on the CPU.

    python tests/router_bench                     all arms, about twenty minutes
    python tests/router_bench --arms all --requests 400

Four workers, each with a real sidecar (host tier and SSD), vLLM's real block pool and our events in
vLLM's real stream; only the forward is arithmetic.  Arms: round-robin; the KV router seeing the
GPUs' events alone; seeing every tier; and the last with Dynamo's default weights instead of 1 for
every tier.  The first three are run a second time with denser arrivals, which is where hits become
throughput.  Records go to build/bench, the raw rows of every arm to build/bench/router.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import checkout, dynamo
from harness.progress import step
from harness.records import Records, table
from harness.records import read as read_records
from router_bench.arm import ArmResult, Setting, run_arm
from router_bench.decision import Weights
from router_bench.replay import REPLAYS, Cluster, by_the_book, typical
from router_bench.trace import Row, read

DENSE = 1.6
EVEN = Weights(1.0, 1.0)
ARMS = {
    "round-robin": Setting("round-robin", kv=False, tells_tiers=False, weights=EVEN),
    "gpu": Setting("kv, GPU events", kv=True, tells_tiers=False, weights=EVEN),
    "all": Setting("kv, all tiers", kv=True, tells_tiers=True, weights=EVEN),
    "default-weights": Setting(
        "kv, all tiers, weights 0.75 and 0.25", kv=True, tells_tiers=True,
        weights=Weights(0.75, 0.25),
    ),
}  # fmt: skip
#: What the router of an arm sees, in the words of the replay.
SEES = {"round-robin": "nothing", "gpu": "gpu", "all": "all"}
BEST_SHARE, POINTS = 0.95, 1.0


def main() -> int:
    """Runs the arms; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="*", default=[*ARMS, "dense"], help=", ".join(ARMS))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--speed", type=float, default=10.0, help="of the trace's clock")
    parser.add_argument("--out", type=Path, default=checkout.RECORDS / "dynamo-routing.json")
    parser.add_argument("--add", action="store_true", help="to the records that are there")
    parser.add_argument("--plot", type=Path, default=checkout.RECORDS / "dynamo-routing")
    options = parser.parse_args()
    if not dynamo.PYTHON.exists():
        parser.error(f"no {dynamo.PYTHON}: make bench-dynamo sets it up")
    rows = read(most=options.requests)
    records = Records()
    if options.add and options.out.exists():
        records.all = read_records(options.out)
    raw = options.out.parent / "router"
    for name, setting, load in _runs(options.arms):
        setting = replace(setting, speed=options.speed, load=load)
        folder = raw / (name if load == 1.0 else f"{name}-dense")
        with step(f"{setting.name}, arrivals x {load:g}"):
            result = asyncio.run(run_arm(setting, rows, folder))
        if load == 1.0:
            _record(records, name, result, rows)
        else:
            _record_dense(records, result)
        wrong = result.counts["reused blocks with wrong bytes"]
        name = setting.name if load == 1.0 else f"{setting.name}, arrivals x {load:g}"
        records.add(f"{name}: reused blocks with wrong bytes", wrong, "blocks", bar=0,
                    met=wrong == 0)  # fmt: skip
        records.write(options.out)
        print(f"{name}: {result.counts}", flush=True)
    print(table(records.all))
    plot = [str(dynamo.PYTHON), str(Path(__file__).with_name("plots.py")), str(options.out)]
    return subprocess.run([*plot, str(raw), str(options.plot)], check=False).returncode


def _runs(names: list[str]) -> list[tuple[str, Setting, float]]:
    usual = [(name, ARMS[name], 1.0) for name in names if name != "dense"]
    dense = [(name, ARMS[name], DENSE) for name in reversed(SEES)] if "dense" in names else []
    return usual + dense


def _record(records: Records, name: str, result: ArmResult, rows: list[Row]) -> None:
    setting = result.setting
    hits = 100 * result.token_hits
    if name in SEES:
        cluster = Cluster(setting.workers, setting.gpu_blocks, setting.ssd_blocks, SEES[name])
        wanted, spread = (100 * figure for figure in typical(rows, cluster))
        records.add(f"{setting.name}: token hits", hits, "%", limit=wanted)
        apart = abs(hits - wanted)
        records.add(
            f"{setting.name}: token hits, distance from the replays'", apart, "points",
            bar=POINTS, met=apart <= POINTS,
        )  # fmt: skip
        records.add(f"{setting.name}: standard deviation of {REPLAYS} replays", spread, "points")
        published = 100 * by_the_book(rows, cluster)
        records.add(f"{setting.name}: a replay by the published rules", published, "%")
    else:
        records.add(f"{setting.name}: token hits", hits, "%")
    for tier in ("gpu", "host", "ssd"):
        records.add(f"{setting.name}: from the {tier}", 100 * result.share_of(tier), "% of tokens")
    share = result.to_the_best
    barred = setting.kv and setting.tells_tiers
    records.add(
        f"{setting.name}: sent to the best worker", 100 * share,
        f"% of {len(result.differing)} requests for which workers differ",
        bar=100 * BEST_SHARE if barred else None,
        met=share >= BEST_SHARE if barred else None,
    )  # fmt: skip
    if setting.kv:
        reproduced = 100 * result.costs_reproduced
        records.add(f"{setting.name}: logged costs that the oracle's equal", reproduced, "%")
    asked = result.counts["prompts asked of an index at rest"]
    equal = result.counts["as the oracle said"]
    records.add(
        f"{setting.name}: prompts' depths in the indexes, as the oracle said", equal, "prompts",
        bar=asked, met=equal == asked,
    )  # fmt: skip
    ttft = sorted(timing.ttft_s for timing in result.timings)
    tenths = quantiles(ttft, n=10)
    records.add(f"{setting.name}: time to first token, mean", mean(ttft), "s (estimated)")
    records.add(f"{setting.name}: time to first token, p50", tenths[4], "s (estimated)")
    records.add(f"{setting.name}: time to first token, p90", tenths[8], "s (estimated)")


def _record_dense(records: Records, result: ArmResult) -> None:
    name = f"{result.setting.name}, arrivals x {result.setting.load:g}"
    records.add(f"{name}: throughput", result.tokens_s, "prompt tokens/s (estimated)")
    ttft = [timing.ttft_s for timing in result.timings]
    records.add(f"{name}: time to first token, mean", mean(ttft), "s (estimated)")


if __name__ == "__main__":
    sys.exit(main())
