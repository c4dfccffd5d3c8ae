"""Equality that proves bytes: what an answer is must not depend on where its prefix came from.

    python tests/gpu/acceptance.py --out build/bench/gpu                 (8B shape, one GPU)
    python tests/gpu/acceptance.py --out build/bench/gpu --shape mla     (latent attention)
    python tests/gpu/acceptance.py --out build/bench/gpu --kv-dtype fp8 --arithmetic fast
    python tests/gpu/acceptance.py --out build/bench/gpu --shape tiny    (rehearsal on a CPU)

Prompts of 2k to 30k tokens run alone and cold, again with the engine's own prefix cache, again
from the sidecar; then all at once with aborts; then with so little room that requests are
preempted; then with the sidecar killed while loads are open. Every answer, tokens and
log-probabilities, must be that of the cold run, bit for bit.

That is a fair demand because the arithmetic does not depend on what else is in a batch or on how
many tokens of a prompt are computed at once: on a GPU in vLLM's batch-invariant mode
(`VLLM_BATCH_INVARIANT`: FlashAttention without split KV, fixed matmul tiles, CUDA graphs as
usual), on a CPU in float32. With `--arithmetic fast` (bfloat16 as one serves it) vLLM's own hit
differs from its own cold run; then only the sidecar's hit against the engine's is claimed, alone,
where both compute the same shapes. The weights are drawn so that answers depend on every cached
byte (`redraw_weights`).

Exit status 0 exactly if everything that is claimed holds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import checkout
from harness.model import TINY_LATENT, write_model
from harness.records import table
from harness.sidecar import Sidecar

from gpu import connectors
from gpu.engine import Engine, EngineSettings, Served
from gpu.killer import Killer
from gpu.session import Results, add_common, environment, say, skip, why_skipped
from gpu.shapes import SHAPES, TINY, kv_bytes_per_token, latent, write_config

#: What is left in the sidecar when no request is: nothing of these.
_LEFTOVERS = (
    "load_jobs", "save_jobs", "leases", "parked_gos", "chains", "pending_blocks",
    "quarantined_slots",
)  # fmt: skip
_GROUP = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run; lengths in tokens."""

    shape: str
    dtype: str
    lengths: list[int]
    outputs: int
    tight_tokens: int
    tight_outputs: int
    tight_count: int
    kv_bytes: int
    stored_once: bool
    cpu_cache_gb: float
    max_model_len: int
    aborts: int
    kills: int
    seed: int


class Acceptance:
    """One engine, its sidecar, the cold answers, and what was claimed of the others."""

    def __init__(self, plan: Plan, engine: Engine, sidecar: Sidecar, results: Results,
                 *, exact: bool) -> None:  # fmt: skip
        self.plan = plan
        self.engine = engine
        self.sidecar = sidecar
        self.results = results
        #: Whether cold answers are claimed, see the text of this module.
        self.exact = exact
        self.failures: list[str] = []
        self.rng = random.Random(plan.seed)
        self.vocabulary = SHAPES[plan.shape]["vocab_size"]
        self.prompts = [self.words(n) for n in plan.lengths]
        self.cold: list[Served] = []
        self.warm: list[Served] = []

    def words(self, count: int) -> list[int]:
        """Random tokens."""
        return [self.rng.randrange(10, self.vocabulary) for _ in range(count)]

    # ---- claims
    def claim(self, name: str, value: float, unit: str, bar: float, *, holds: bool) -> None:
        """A record whose bar decides the exit status."""
        self.results.add(name, value, unit, limit=None, bar=bar, met=holds)
        if not holds:
            self.failures.append(f"{name}: {value:g} of {bar:g} {unit}")

    def compare(
        self, label: str, others: Sequence[Served], cold: Sequence[Served], *, claimed: bool
    ) -> None:
        """How many answers are the same, by tokens and by log-probabilities too."""
        count = len(cold)
        tokens = sum(a.tokens == b.tokens for a, b in zip(others, cold, strict=True))
        exact = sum(a.answer == b.answer for a, b in zip(others, cold, strict=True))
        for what, same in (("tokens", tokens), ("tokens and log-probabilities", exact)):
            name = f"{label}: answers with equal {what}"
            if claimed:
                self.claim(name, same, "answers", count, holds=same == count)
            else:
                self.results.add(name, same, "answers", limit=count)
        for number, (a, b) in enumerate(zip(others, cold, strict=True)):
            if a.answer != b.answer:
                self.results.row(differs=label, prompt=number, tokens=a.tokens, cold=b.tokens,
                                 logprobs=a.logprobs, cold_logprobs=b.logprobs)  # fmt: skip

    def reset(self, label: str) -> None:
        """Drops the engine's own cache, which must be possible while nothing runs."""
        if not self.engine.reset():
            self.failures.append(f"{label}: reset_prefix_cache() was false on an idle engine")

    # ---- one prompt at a time
    def alone(self) -> None:
        """Cold, engine hit, sidecar hit."""
        outputs = self.plan.outputs
        for number, prompt in enumerate(self.prompts):
            self.reset("cold")
            self.cold.append(self.engine.alone(prompt, outputs, logprobs=True))
            self.warm.append(self.engine.alone(prompt, outputs, logprobs=True))
            if number % 8 == 0:
                say(f"cold {number + 1}/{len(self.prompts)}: {len(prompt)} tokens, "
                    f"{self.cold[-1].ttft_s:.3f} s")  # fmt: skip
        self.quiet()
        hit = self.from_sidecar("alone")
        self.compare("alone, sidecar hit against engine hit", hit, self.warm, claimed=True)
        self.compare("alone, engine hit against cold", self.warm, self.cold, claimed=self.exact)
        self.compare("alone, sidecar hit against cold", hit, self.cold, claimed=self.exact)

    def from_sidecar(self, label: str) -> list[Served]:
        """Every prompt after the engine's own cache was dropped, the last one first.

        So a pool that holds only some of them, the last that were saved, serves those.
        """
        hits: list[Served] = []
        for prompt in reversed(self.prompts):
            self.reset(label)
            hits.append(self.engine.alone(prompt, self.plan.outputs, logprobs=True))
        out = hits[::-1]
        served = sum(one.cached for one in out)
        self.results.add(f"{label}: prompt tokens served by the sidecar", served, "tokens",
                         limit=sum(self.plan.lengths))  # fmt: skip
        if served <= 0:
            self.failures.append(f"{label}: nothing was served by the sidecar")
        return out

    def quiet(self) -> None:
        """Waits, bounded, until every save has ended."""
        with contextlib.suppress(TimeoutError):
            self.sidecar.wait_quiet(20)

    # ---- many at once
    def at_once(
        self, label: str, prompts: Sequence[Sequence[int]], cold: Sequence[Served], outputs: int,
        *, kill: bool = False,
    ) -> None:  # fmt: skip
        """All together with aborts of extra ones, with `kill` the sidecar killed during loads."""
        self.reset(label)
        preempted = self.engine.metric("vllm:num_preemptions")
        order = list(range(len(prompts)))
        self.rng.shuffle(order)
        killer = Killer(self.sidecar, self.rng.uniform(0.0, 0.02)) if kill else None
        names: dict[int, str] = {}
        started: dict[str, float] = {}
        for i in order:
            names[i] = self.engine.add(prompts[i], outputs, logprobs=True)
            started[names[i]] = time.perf_counter()
        extra = [
            (self.rng.randrange(1, 12), self.engine.add(self.rng.choice(prompts), outputs))
            for _ in range(self.plan.aborts)
        ]

        def on_step(step: int) -> None:
            for at, name in extra:
                if at == step:
                    self.engine.abort(name)

        served = self.engine.drain(started, on_step)
        self.compare(label, [served[names[i]] for i in range(len(prompts))], cold,
                     claimed=self.exact)  # fmt: skip
        add = self.results.add
        add(f"{label}: preemptions", self.engine.metric("vllm:num_preemptions") - preempted,
            "requests")  # fmt: skip
        add(f"{label}: aborts", len(extra), "requests")
        if killer is not None:
            seen = killer.wait()
            holds = seen.open_loads > 0
            self.claim(f"{label}: loads open when it was killed", seen.open_loads, "loads", 1,
                       holds=holds)  # fmt: skip
            add(f"{label}: SIGKILL to readable pidfd", seen.died_s, "s")
            add(f"{label}: SIGKILL to another sidecar that answers", seen.replaced_s, "s")
        self.reset(label)

    def tight(self) -> None:
        """Prompts that fill the engine's blocks, so that their answers push others out."""
        plan = self.plan
        prompts = [self.words(plan.tight_tokens) for _ in range(plan.tight_count)]
        cold: list[Served] = []
        for first in range(0, len(prompts), _GROUP):
            # A group at a time: nothing of it was seen before, and nobody is preempted.
            self.reset("tight, cold")
            cold += self.engine.together(
                prompts[first : first + _GROUP], plan.tight_outputs, logprobs=True
            )
        self.quiet()
        before = self.engine.metric("vllm:num_preemptions")
        self.at_once("tight", prompts, cold, plan.tight_outputs)
        count = self.engine.metric("vllm:num_preemptions") - before
        self.claim("tight: some request was preempted", count, "requests", 1, holds=count > 0)

    def kills(self) -> None:
        """The sidecar killed in the middle of loads, again and again."""
        for number in range(self.plan.kills):
            label = f"sidecar killed during loads, {number + 1}"
            self.at_once(label, self.prompts, self.cold, self.plan.outputs, kill=True)
            self.wait_until_served_again()
            # The new sidecar's pool is empty, and what was computed before it came was not saved.
            for prompt in self.prompts:
                self.reset("refill")
                self.engine.alone(prompt, 1)
            self.quiet()
        if self.plan.kills:
            hit = self.from_sidecar("after the kills")
            self.compare("after the kills", hit, self.cold, claimed=self.exact)

    def wait_until_served_again(self) -> None:
        """Repeats a prompt until the new sidecar serves it; at most 30 s."""
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            self.reset("again")
            if self.engine.alone(self.prompts[0], 1).cached > 0:
                return
            self.quiet()
        self.failures.append("no hit within 30 s after the sidecar was killed")

    def saving_ranks(self) -> None:
        """Latents that all ranks hold alike are saved by one of them, and loaded by each."""
        ranks = [rank for one in self.sidecar.status()["instances"] for rank in one["ranks"]]
        wanted = 1 if self.plan.stored_once else len(ranks)
        saving = sum(rank["save"]["bytes"] > 0 for rank in ranks)
        self.claim(f"ranks of {len(ranks)} that saved", saving, "ranks", wanted,
                   holds=saving == wanted)  # fmt: skip
        loading = sum(rank["load"]["bytes"] > 0 for rank in ranks)
        self.claim(f"ranks of {len(ranks)} that loaded", loading, "ranks", len(ranks),
                   holds=loading == len(ranks))  # fmt: skip

    def leftovers(self) -> None:
        """No lease, job, chain or slot is left once no request is."""
        limit = time.monotonic() + 20
        while True:
            status = self.sidecar.counters()
            left = {name: int(status[name]) for name in _LEFTOVERS}
            if not any(left.values()) or time.monotonic() > limit:
                break
            time.sleep(0.1)
        self.saving_ranks()
        count = sum(left.values())
        self.claim("left in the sidecar: " + ", ".join(left), count, "", 0, holds=count == 0)
        self.results.add("blocks that the pool evicted", int(status["evicted_blocks"]), "blocks")
        say(f"cache core: {json.dumps(status)}")


def make_plan(args: argparse.Namespace) -> Plan:
    """Lengths log-uniform between the shortest and the longest, both included."""
    rng = random.Random(args.seed)
    tiny = args.shape in TINY
    # vLLM's latent attention on a CPU computes in bfloat16 alone.
    dtype = "float32" if tiny and not latent(args.shape) else "bfloat16"
    low, high = (200, 1800) if tiny else (args.shortest, args.longest)
    count = args.prompts or (8 if tiny else 32)
    lengths = [low, high] + [int(low * (high / low) ** rng.random()) for _ in range(count - 2)]
    kv_bytes = 24 << 20 if tiny else int(args.kv_gib * (1 << 30))
    value_bytes = {"float32": 4, "bfloat16": 2}[dtype] if args.kv_dtype == "auto" else 1
    per_token = kv_bytes_per_token(args.shape, value_bytes)
    tight_count = 12 if tiny else 32
    # Together they take 95 % of the blocks; every answer then grows by more than is left.
    # `kv_bytes` is a rank's share: of the heads, of which each rank has one at least, and of the
    # layers. Latents are whole on every rank.
    heads = 1 if latent(args.shape) else SHAPES[args.shape]["num_key_value_heads"]
    shares = min(args.tensor_parallel, heads) * args.pipeline_parallel
    tight_tokens = int(0.95 * kv_bytes * shares / per_token / tight_count)
    return Plan(
        shape=args.shape, dtype=dtype, lengths=lengths, outputs=args.outputs or (8 if tiny else 16),
        tight_tokens=tight_tokens, tight_outputs=max(160 if tiny else 64, tight_tokens // 10),
        tight_count=tight_count, kv_bytes=kv_bytes,
        stored_once=latent(args.shape) and args.pipeline_parallel == 1,
        cpu_cache_gb=args.cpu_cache_gb or (0.4 if tiny else 48),
        max_model_len=4096 if tiny else 32000, aborts=3 if tiny else 16, kills=args.kills,
        seed=args.seed,
    )  # fmt: skip


def run(args: argparse.Namespace, results: Results) -> int:
    """Everything; returns the exit status."""
    plan = make_plan(args)
    tiny = plan.shape in TINY
    invariant = args.arithmetic == "invariant" and not tiny
    sidecar = connectors.sidecar(plan.cpu_cache_gb)
    runner = {} if args.runner == "default" else {
        "VLLM_USE_V2_MODEL_RUNNER": "1" if args.runner == "v2" else "0"
    }  # fmt: skip
    tests = str(Path(__file__).resolve().parents[1])
    os.environ.update(
        environment(**sidecar.environment, **runner),
        VLLM_BATCH_INVARIANT="1" if invariant else "0",
        # The core gets functions by reference: it must find this folder.
        PYTHONPATH=os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]),
    )
    # On a CPU vLLM packs latent attention's weights as it loads them: they come from a file.
    drawn = plan.shape == "tiny-mla"
    model = write_model(checkout.MODELS / "tiny-latent-model", TINY_LATENT) if drawn else (
        write_config(plan.shape)
    )  # fmt: skip
    begun = time.monotonic()
    engine = Engine(
        EngineSettings(
            model=str(model), load_format="auto" if drawn else "dummy", redraw=not drawn,
            kv_transfer=connectors.kv_transfer("flexkv", plan.cpu_cache_gb),
            kv_bytes=plan.kv_bytes, max_model_len=plan.max_model_len,
            dtype=plan.dtype, kv_dtype=args.kv_dtype,
            batched_tokens=512 if tiny else 8192, tensor_parallel=args.tensor_parallel,
            pipeline_parallel=args.pipeline_parallel, eager=args.eager, seed=plan.seed,
        )
    )  # fmt: skip
    say(f"engine up after {time.monotonic() - begun:.1f} s")
    test = Acceptance(plan, engine, sidecar, results, exact=invariant or plan.dtype == "float32")
    engine.alone(test.words(600), 4, logprobs=True)  # what is left to compile and capture
    steps = (
        ("alone", test.alone),
        ("under load", lambda: test.at_once("under load", test.prompts, test.cold,
                                            plan.outputs)),
        ("tight", test.tight),
        ("kills", test.kills),
        ("leftovers", test.leftovers),
    )  # fmt: skip
    for name, step in steps:
        if not results.time_left(name):
            test.failures.append(f"not run for lack of time: {name}")
        else:
            begun = time.monotonic()
            step()
            say(f"{name}: {time.monotonic() - begun:.1f} s")
    engine.close()
    for text in test.failures:
        say("FAILED " + text)
    say(f"{len(plan.lengths)} prompts, {plan.kills} kills, {len(test.failures)} failures")
    return 1 if test.failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser, "build/bench/gpu", shapes=tuple(SHAPES))
    parser.add_argument("--kv-dtype", choices=("auto", "fp8"), default="auto",
                        help="what vLLM keeps keys and values as")  # fmt: skip
    parser.add_argument("--name", default="acceptance", help="of the record file")
    parser.add_argument("--arithmetic", choices=("invariant", "fast"), default="invariant")
    parser.add_argument("--runner", choices=("default", "v1", "v2"), default="default",
                        help="vLLM's model runner")  # fmt: skip
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N")
    parser.add_argument("--pipeline-parallel", type=int, default=1, metavar="N")
    parser.add_argument("--prompts", type=int, default=0, help="0 = as the shape wants")
    parser.add_argument("--shortest", type=int, default=2048, help="tokens")
    parser.add_argument("--longest", type=int, default=30000, help="tokens")
    parser.add_argument("--outputs", type=int, default=0, help="tokens; 0 = as the shape wants")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--kv-gib", type=float, default=10)
    parser.add_argument("--cpu-cache-gb", type=float, default=0, help="0 = as the shape wants")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    args = parser.parse_args()
    if reason := why_skipped(args):
        return skip(Path(args.out) / f"{args.name}.json", reason)
    results = Results(Path(args.out), args.name, args.budget_s)
    try:
        return run(args, results)
    finally:
        print(table(results.records.all), flush=True)


if __name__ == "__main__":
    sys.exit(main())
