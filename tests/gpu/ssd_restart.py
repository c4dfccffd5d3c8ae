"""Prompts answered from the SSD after engine and sidecar were ended: equal tokens, and how soon.

    python tests/gpu/ssd_restart.py --out build/bench/gpu               (8B shape, one GPU)
    python tests/gpu/ssd_restart.py --out build/bench/gpu --shape tiny  (rehearsal on a CPU)

The first life answers every prompt cold, then from the engine's own prefix cache; its blocks go to
the SSD; engine and sidecar end. The second life, both processes new, answers the same prompts from
the SSD, then (vLLM's own cache dropped) from the sidecar's host tier. Both must be, token for
token and log-probability for log-probability, what the engine's own hit was: the same shapes are
computed. Time to first token stands beside what a bare read of the prompt's bytes takes.

Exit status 0 exactly if everything that is claimed holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import processes
from harness.disk import bare_read, best_readers
from harness.records import table
from harness.sidecar import Sidecar

from gpu import connectors
from gpu.engine import Engine, EngineSettings, Served
from gpu.session import Results, add_common, environment, say, why_skipped
from gpu.shapes import SHAPES, kv_bytes_per_token, write_config

_OUTPUTS = 16
_LIFE_TIMEOUT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser, "build/bench/gpu")
    parser.add_argument("--dir", type=Path, default=Path("build"), help="on the disk to use")
    parser.add_argument("--life", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--disk", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if reason := why_skipped(args):
        say(f"skipped: {reason}")
        return 0
    if args.life:
        # Records name the command that is typed, not a life's with its temporary folders.
        del sys.argv[sys.argv.index("--life") :]
        return life(args)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fkv-", dir="/tmp") as run,
        tempfile.TemporaryDirectory(prefix="ssd-", dir=args.dir) as disk,
    ):
        for number in ("1", "2"):
            one = [__file__, *sys.argv[1:], "--life", number, "--disk", disk, "--run", run]
            status = subprocess.run(
                [sys.executable, *one], check=False, timeout=_LIFE_TIMEOUT_S
            ).returncode
            if status:
                return status
            # Its last client is gone, so it ends by itself.
            sidecar(args, Path(run), Path(disk)).wait_gone()
    return 0


def sidecar(args: argparse.Namespace, run: Path, disk: Path) -> Sidecar:
    """The sidecar of both lives; the engine starts it."""
    tiny = args.shape == "tiny"
    return Sidecar(
        run,
        FLEXKV_CPU_CACHE_GB="0.5" if tiny else "16",
        FLEXKV_SSD_CACHE_GB="1" if tiny else "16",
        FLEXKV_SSD_CACHE_DIR=str(disk.absolute()),
        FLEXKV_SSD_RECOMPUTE_TOKENS_S="1",  # also where computing would be sooner
        FLEXKV_PREFAULT_THREADS=str(min(8, os.cpu_count() or 1)),
    )


def life(args: argparse.Namespace) -> int:
    """One engine with its sidecar; returns the exit status."""
    tiny = args.shape == "tiny"
    cache = sidecar(args, args.run, args.disk)
    os.environ.update(environment(**cache.environment))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    engine = Engine(
        EngineSettings(
            model=str(write_config(args.shape)), kv_transfer=connectors.kv_transfer("flexkv", 0),
            kv_bytes=24 << 20 if tiny else 10 << 30, max_model_len=4096 if tiny else 32000,
            dtype="float32" if tiny else "bfloat16", batched_tokens=512 if tiny else 8192,
            seed=args.seed, redraw=True,
        )
    )  # fmt: skip
    say(f"life {args.life}: engine up after {engine.start_s:.1f} s")
    rng = random.Random(args.seed)
    vocabulary = SHAPES[args.shape]["vocab_size"]
    lengths = [400, 900, 1800] if tiny else [2048, 8192, 16384, 30000]
    prompts = [[rng.randrange(10, vocabulary) for _ in range(n)] for n in lengths]
    # What is left to compile and capture, in either life.
    for count in (600, lengths[-1]):
        fresh = random.Random(f"{args.life} {count}")
        engine.alone([fresh.randrange(10, vocabulary) for _ in range(count)], 4, logprobs=True)
    try:
        if args.life == 1:
            return first(args, engine, cache, prompts)
        return second(args, engine, cache, prompts)
    finally:
        engine.close()


def figures(cache: Sidecar) -> dict[str, Any]:
    """What the sidecar says of its SSD tier."""
    ssd: dict[str, Any] = cache.status()["ssd"]
    return ssd


def first(args: argparse.Namespace, engine: Engine, cache: Sidecar, prompts: list[Any]) -> int:
    """Cold, then the engine's own hit; returns when all is on the SSD."""
    cold, warm = [], []
    for prompt in prompts:
        engine.reset()
        cold.append(engine.alone(prompt, _OUTPUTS, logprobs=True))
        warm.append(engine.alone(prompt, _OUTPUTS, logprobs=True))
    cache.wait_quiet(20)

    def written() -> bool:
        ssd = figures(cache)
        return bool(ssd["queued_bytes"] + ssd["writes"] == 0 and ssd["blocks"] > 0)

    processes.wait_until(written, 90, "all blocks are on the SSD", 0.1)
    kept = dict(
        blocks=figures(cache)["blocks"],
        cold=[one.ttft_s for one in cold],
        warm=[(one.ttft_s, *one.answer) for one in warm],
    )
    (args.run / "kept.json").write_text(json.dumps(kept))
    return 0


def second(args: argparse.Namespace, engine: Engine, cache: Sidecar, prompts: list[Any]) -> int:
    """From the SSD, then from the host tier."""
    results = Results(Path(args.out), "gpu-ssd-restart", args.budget_s)
    kept = json.loads((args.run / "kept.json").read_text())
    found = lambda: figures(cache)["adopted_blocks"] >= 0.95 * kept["blocks"]  # noqa: E731
    processes.wait_until(found, 60, "the blocks are found again", 0.1)
    connectors.wait_pinned(cache, 60)
    per_token = kv_bytes_per_token(args.shape, 4 if args.shape == "tiny" else 2)
    readers = best_readers(args.disk, len(prompts[-1]) * per_token)
    failed = False
    from_ssd, from_host = [], []
    for number, prompt in enumerate(prompts):
        size = len(prompt) * per_token
        bare_s = bare_read(args.disk, size, readers)
        engine.reset()
        before = figures(cache)["promoted_blocks"]
        from_ssd.append(engine.alone(prompt, _OUTPUTS, logprobs=True))
        promoted = figures(cache)["promoted_blocks"] - before
        engine.reset()
        from_host.append(engine.alone(prompt, _OUTPUTS, logprobs=True))
        cold_s, warm_s = kept["cold"][number], kept["warm"][number][0]
        name = f"prompt of {len(prompt)} tokens after a restart"
        add = results.add
        add(f"{name}: blocks read from the SSD", promoted, "blocks")
        add(f"{name}: tokens not computed", from_ssd[-1].cached, "tokens", limit=len(prompt))
        ttft_s = from_ssd[-1].ttft_s
        add(f"{name}: time to first token, from the SSD", 1000 * ttft_s, "ms", limit=1000 * bare_s)
        add(f"{name}: … from the host tier", 1000 * from_host[-1].ttft_s, "ms")
        add(f"{name}: … from the engine's own cache, in the life before", 1000 * warm_s, "ms")
        add(f"{name}: … computed, in the life before", 1000 * cold_s, "ms")
        failed |= promoted <= 0 or from_ssd[-1].cached < 0.9 * len(prompt)
    wanted = [(list(tokens), list(logprobs)) for _, tokens, logprobs in kept["warm"]]
    for where, served in (("SSD", from_ssd), ("host tier", from_host)):
        same = sum(equal(one, answer) for one, answer in zip(served, wanted, strict=True))
        results.add(
            f"answers from the {where} after a restart equal to the engine's own hit before it",
            same, "answers", limit=len(wanted), bar=len(wanted), met=same == len(wanted),
        )  # fmt: skip
        failed |= same != len(wanted)
    say(f"SSD tier: {json.dumps(figures(cache))}")
    print(table(results.records.all), flush=True)
    return 1 if failed else 0


def equal(one: Served, answer: tuple[list[int], list[float]]) -> bool:
    """Tokens and their log-probabilities, bit for bit."""
    return (one.tokens, one.logprobs) == answer


if __name__ == "__main__":
    sys.exit(main())
