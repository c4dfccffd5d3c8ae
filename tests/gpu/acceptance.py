"""The whole line on a GPU: real vLLM, real sidecar, tokens compared, cold against cached.

Prompts run alone and cold, again with the engine's own prefix cache, again from the sidecar after
that cache was dropped, then all at once under memory pressure with aborts, then with the sidecar
killed while loads are in flight.  Every prompt's greedy tokens must be those of its cold run.

    python tests/gpu/acceptance.py --out records.json          (8B shape, one GPU)
    python tests/gpu/acceptance.py --shape tiny --out r.json   (dry run on a CPU)

Writes records ({name, value, unit, limit, ratio, bar, met, command, machine}); exit status 1 if a
token differs, nothing was served, or something is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from harness.model import redraw_weights

SHAPES: dict[str, dict[str, int]] = {
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
               num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=128256,
               max_position_embeddings=33000),
    "tiny": dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4,
                 num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=1024,
                 max_position_embeddings=4096),
}  # fmt: skip


@dataclass
class Plan:
    """What is run; lengths in tokens."""

    shape: str
    lengths: list[int]
    output_tokens: int
    kv_bytes: int
    cpu_cache_gb: float
    max_model_len: int
    aborts: int
    kills: int
    seed: int


@dataclass
class Served:
    """One request's outcome."""

    tokens: list[int] = field(default_factory=list)
    ttft_s: float | None = None
    cached: int = 0  # tokens that vLLM did not compute: its own prefix cache and ours


def make_plan(args: argparse.Namespace) -> Plan:
    rng = random.Random(args.seed)
    if args.shape == "tiny":
        lengths = [rng.randrange(200, 3000) for _ in range(8)]
        return Plan("tiny", lengths, 12, 48 << 20, 0.5, 4096, 3, 1, args.seed)
    # Log-uniform between 2k and 30k tokens, both ends included.
    low, high = args.shortest, args.longest
    lengths = [low, high] + [
        int(low * (high / low) ** rng.random()) for _ in range(args.prompts - 2)
    ]
    return Plan(
        "8b",
        lengths,
        args.output_tokens,
        args.kv_gib << 30,
        args.cpu_cache_gb,
        32000,
        16,
        args.kills,
        args.seed,
    )


def say(text: str) -> None:
    print(f"[{time.monotonic() - START:7.1f} s] {text}", flush=True)


START = time.monotonic()


def write_model(folder: pathlib.Path, shape: str) -> None:
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", rms_norm_eps=1e-5,
        rope_theta=500000.0, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, torch_dtype="bfloat16", **SHAPES[shape],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def sidecar_pids() -> list[int]:
    """Processes that run the sidecar's jar."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"flexkv-sidecar.jar" in command and b"java" in command.split(b"\0")[0]:
                found.append(int(entry.name))
    return found


class Engine:
    """A vLLM engine that is stepped by hand, so that requests can be timed and aborted."""

    def __init__(self, plan: Plan, model: pathlib.Path, eager: bool) -> None:
        from vllm import LLM, SamplingParams

        self.sampling = SamplingParams(
            temperature=0, max_tokens=plan.output_tokens, ignore_eos=True, detokenize=False
        )
        self.llm: Any = LLM(
            model=str(model), load_format="dummy", skip_tokenizer_init=True, seed=plan.seed,
            max_model_len=plan.max_model_len, kv_cache_memory_bytes=plan.kv_bytes,
            enforce_eager=eager, disable_log_stats=False, max_num_seqs=64,
            max_num_batched_tokens=8192 if plan.shape == "8b" else 2048,
            kv_transfer_config={"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both"},
        )  # fmt: skip
        # With vLLM's dummy weights an answer depends on the last token alone: it would be equal
        # whatever the cache served.
        self.llm.apply_model(redraw_weights)
        self.engine: Any = self.llm.llm_engine
        self.counter = 0

    def add(self, prompt: list[int]) -> str:
        self.counter += 1
        name = f"r{self.counter}"
        self.engine.add_request(name, {"prompt_token_ids": prompt}, self.sampling)
        return name

    def drain(self, started: dict[str, float], on_step: Any = None) -> dict[str, Served]:
        """Steps until nothing is left (bounded); ``on_step(n)`` runs between steps."""
        served = {name: Served() for name in started}
        steps, limit = 0, time.monotonic() + 240
        while self.engine.has_unfinished_requests():
            if time.monotonic() > limit:
                raise SystemExit("a request is stuck: 240 s without an end")
            for output in self.engine.step():
                name = output.request_id.split("-")[0]
                if name not in served:
                    continue
                tokens = list(output.outputs[0].token_ids)
                if tokens and served[name].ttft_s is None:
                    served[name].ttft_s = time.perf_counter() - started[name]
                served[name].tokens = tokens
                served[name].cached = output.num_cached_tokens or 0
            steps += 1
            if on_step is not None:
                on_step(steps)
        return served

    def alone(self, prompt: list[int]) -> Served:
        begin = time.perf_counter()
        name = self.add(prompt)
        return self.drain({name: begin})[name]

    def reset(self) -> bool:
        return bool(self.llm.reset_prefix_cache())

    def metric(self, name: str) -> float:
        found = [m for m in self.llm.get_metrics() if m.name == name and hasattr(m, "value")]
        return float(sum(m.value for m in found))


class Records:
    """Collects records in the project's one form."""

    def __init__(self, machine: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self.machine = machine
        self.command = "python " + " ".join(sys.argv)

    def add(self, name: str, value: float, unit: str, limit: float | None = None,
            bar: float | None = None, met: bool | None = None) -> None:  # fmt: skip
        ratio = None if not limit else round(value / limit, 4)
        self.rows.append(
            dict(name=name, value=value, unit=unit, limit=limit, ratio=ratio, bar=bar, met=met,
                 command=self.command, machine=self.machine)
        )  # fmt: skip
        say(f"{name} = {value:.6g} {unit}" + ("" if met is None else f"  met={met}"))


def machine_name() -> str:
    try:
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name(0)
            return f"{gpu}, {os.cpu_count()} cores, torch {torch.__version__}"
    except ImportError:
        pass
    return f"{platform.machine()}, {os.cpu_count()} cores"


def equal_count(cold: list[Served], other: list[Served]) -> int:
    return sum(a.tokens == b.tokens for a, b in zip(cold, other, strict=True))


def median_ms(served: list[Served]) -> float:
    return 1000 * statistics.median(s.ttft_s for s in served if s.ttft_s is not None)


def status() -> dict[str, Any]:
    """What the sidecar says of itself; empty if none answers."""
    done = subprocess.run([sys.executable, "-m", "flexkv.cli", "status"],
                          capture_output=True, text=True, timeout=30, check=False)  # fmt: skip
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def find(tree: Any, name: str) -> Any:
    """The first value called ``name`` in a tree of objects."""
    if isinstance(tree, dict):
        if name in tree:
            return tree[name]
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        found = find(branch, name)
        if found is not None:
            return found
    return None


def wait_until_quiet(limit_s: float = 20) -> dict[str, Any]:
    """Waits until the sidecar has no job and no lease; its last status either way."""
    limit = time.monotonic() + limit_s
    while True:
        seen = status()
        open_things = [find(seen, name) for name in ("load_jobs", "save_jobs", "leases")]
        if open_things == [0, 0, 0] or time.monotonic() > limit:
            return seen
        time.sleep(0.1)


def run(plan: Plan, args: argparse.Namespace) -> int:
    rng = random.Random(plan.seed)
    vocabulary = SHAPES[plan.shape]["vocab_size"]
    prompts = [[rng.randrange(10, vocabulary) for _ in range(n)] for n in plan.lengths]
    records = Records(machine_name())
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "model"
        write_model(model, plan.shape)
        begin = time.perf_counter()
        engine = Engine(plan, model, args.eager)
        say(f"engine up after {time.perf_counter() - begin:.1f} s; sidecars {sidecar_pids()}")
        engine.alone(prompts[0][:600])  # warm-up: compiles and captures what is left

        cold, warm = [], []
        for number, prompt in enumerate(prompts):
            engine.reset()
            cold.append(engine.alone(prompt))
            warm.append(engine.alone(prompt))
            if number % 8 == 0:
                took_s = cold[-1].ttft_s
                say(f"cold {number + 1}/{len(prompts)}: {len(prompt)} tokens, {took_s:.3f} s")
        wait_until_quiet()

        def served_from_cache(label: str) -> list[Served]:
            out = []
            for prompt in prompts:
                if not engine.reset():
                    failures.append(f"{label}: reset_prefix_cache() was false on an idle engine")
                out.append(engine.alone(prompt))
            hits = sum(served.cached for served in out)
            records.add(f"{label}: tokens served by the sidecar", hits, "tokens",
                        limit=sum(plan.lengths), bar=None, met=hits > 0)  # fmt: skip
            if hits <= 0:
                failures.append(f"{label}: nothing was served from the cache")
            return out

        hit = served_from_cache("alone")
        # The bytes decide here: both compute the same tokens from a prefix that was there.
        same = equal_count(warm, hit)
        records.add("alone, sidecar hit: prompts with the engine hit's tokens", same, "prompts",
                    limit=len(prompts), bar=len(prompts), met=same == len(prompts))  # fmt: skip
        for label, other in (("engine hit", warm), ("sidecar hit", hit)):
            same = equal_count(cold, other)
            records.add(f"alone, {label}: prompts with equal tokens", same, "prompts",
                        limit=len(prompts), bar=len(prompts), met=same == len(prompts))  # fmt: skip
            if same != len(prompts):
                failures.append(
                    f"{label}: {len(prompts) - same} prompts differ from their cold run"
                )
        for low, high in ((0, 4096), (4096, 12288), (12288, 40000)):
            chosen = [i for i, n in enumerate(plan.lengths) if low <= n < high]
            if chosen:
                for label, rows in (("cold", cold), ("engine hit", warm), ("sidecar hit", hit)):
                    records.add(f"time to first token, {label}, {low}–{high} tokens",
                                median_ms([rows[i] for i in chosen]), "ms")  # fmt: skip

        def at_once(label: str, kill_at_step: int | None) -> None:
            """All prompts together with aborts of extra ones; tokens against the cold run."""
            engine.reset()
            preempted = engine.metric("vllm:num_preemptions")
            names, extra, started = [], [], {}
            order = list(range(len(prompts)))
            rng.shuffle(order)
            for i in order:
                name = engine.add(prompts[i])
                started[name] = time.perf_counter()
                names.append((i, name))
            for _ in range(plan.aborts):
                source = rng.choice(prompts)
                extra.append((rng.randrange(1, 12), engine.add(source)))
            killed: list[int] = []
            watchers: list[threading.Thread] = []
            dying: list[float] = []
            replaced: list[float] = []

            def on_step(step: int) -> None:
                for at, name in extra:
                    if at == step:
                        engine.engine.abort_request([name])
                if kill_at_step == step:
                    for pid in sidecar_pids():
                        pidfd = os.pidfd_open(pid)
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        watch = threading.Thread(
                            target=watch_death, args=(pid, pidfd, dying, replaced), daemon=True
                        )
                        watchers.append(watch)
                        watchers[-1].start()

            served = engine.drain(started, on_step)
            same = sum(served[name].tokens == cold[i].tokens for i, name in names)
            prefix = [common_prefix(served[name].tokens, cold[i].tokens) for i, name in names]
            records.add(f"{label}: prompts with equal tokens", same, "prompts",
                        limit=len(prompts), bar=len(prompts), met=same == len(prompts))  # fmt: skip
            if same != len(prompts):
                failures.append(
                    f"{label}: {len(prompts) - same} differ; common prefixes {sorted(prefix)[:8]}"
                )
            records.add(f"{label}: preemptions",
                        engine.metric("vllm:num_preemptions") - preempted, "requests")  # fmt: skip
            records.add(f"{label}: aborts", len(extra), "requests")
            if kill_at_step is not None:
                records.add(f"{label}: sidecars killed", len(killed), "processes", met=bool(killed))
                for watch in watchers:
                    watch.join()
                records.add(f"{label}: SIGKILL to readable pidfd", max(dying), "s")
                records.add(f"{label}: SIGKILL to another sidecar running", max(replaced), "s")
            if not engine.reset():
                failures.append(f"{label}: reset_prefix_cache() was false on an idle engine")

        at_once("under load", None)
        for kill in range(plan.kills):
            at_once(f"sidecar killed {kill + 1}", rng.randrange(2, 8))
            wait_until_served_again(engine, prompts[0], failures)
            for prompt in prompts[: len(prompts) // 2]:  # fill the new sidecar's empty pool
                engine.alone(prompt)
            wait_until_quiet()
        hit = served_from_cache("after the kills")
        same = equal_count(cold, hit)
        records.add("after the kills: prompts with equal tokens", same, "prompts",
                    limit=len(prompts), bar=len(prompts), met=same == len(prompts))  # fmt: skip
        left = wait_until_quiet()
        for name in ("load_jobs", "save_jobs", "leases", "quarantined_slots"):
            value = find(left, name)
            records.add(f"left in the sidecar: {name}", value, "", bar=0, met=value == 0)
            if value != 0:
                failures.append(f"{value} {name} are left in the sidecar")
        say(f"status: {json.dumps(left)}")
    pathlib.Path(args.out).write_text(json.dumps(records.rows, indent=1, ensure_ascii=False) + "\n")
    for text in failures:
        say("FAILED " + text)
    say(f"{len(prompts)} prompts, {plan.kills} kills, {len(failures)} failures")
    return 1 if failures else 0


def watch_death(pid: int, pidfd: int, died_s: list[float], replaced_s: list[float]) -> None:
    """Appends how long it takes until a process is gone, and until another sidecar runs."""
    begin = time.monotonic()
    while time.monotonic() - begin < 60 and not set(sidecar_pids()) - {pid}:
        time.sleep(0.02)
        if select.select([pidfd], [], [], 0)[0] and not died_s:
            died_s.append(time.monotonic() - begin)
    replaced_s.append(time.monotonic() - begin)
    select.select([pidfd], [], [], 60)
    if not died_s:
        died_s.append(time.monotonic() - begin)
    os.close(pidfd)


def common_prefix(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def wait_until_served_again(engine: Engine, prompt: list[int], failures: list[str]) -> None:
    """Repeats a prompt until the new sidecar serves it; at most 30 s."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        engine.reset()
        if engine.alone(prompt).cached > 0:
            return
        wait_until_quiet(1)
    failures.append("no hit within 30 s after the sidecar was killed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--prompts", type=int, default=34)
    parser.add_argument("--shortest", type=int, default=2048, help="tokens")
    parser.add_argument("--longest", type=int, default=30000, help="tokens")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--kv-gib", type=int, default=10)
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--cpu-cache-gb", type=float, default=72)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    plan = make_plan(args)
    # The engine's process gets the function by reference: it must find this folder, and be let.
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(pathlib.Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", str(plan.cpu_cache_gb))
    return run(plan, args)


if __name__ == "__main__":
    sys.exit(main())
