"""A real vLLM computes prompts, forgets them, and gets them back from a cache in another process.

Every prompt is served three ways, each timed by a client of the OpenAI server from sending the
request to the first streamed token:

    cold         nothing is known: the engine computes every token of the prompt
    engine hit   again at once: the engine finds the prompt in its own prefix cache
    FlexKV hit   the engine's prefix cache was dropped: the prompt comes back from the sidecar

Exit status 1 if a token differs, nothing came from the sidecar, or that was not faster than
computing; records in build/bench/demo.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from demo.report import afterword, lookup_times, others, summary, times_table
from harness import checkout, processes
from harness.model import ModelShape, write_model
from harness.progress import step
from harness.prompts import random_tokens
from harness.records import Records, table
from harness.server import Completion, OpenAIServer
from harness.sidecar import Sidecar

#: 35 million parameters and 16 KiB of keys and values a token: computing 4,096 tokens takes two
#: cores three seconds, moving them back tens of milliseconds.
SHAPE = ModelShape(
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    vocab_size=1024,
    max_position_embeddings=16384,
)

LENGTHS = (1024, 4096, 8192)
_OUTPUT_TOKENS = 16
_HIT_ROUNDS = 3
_ANSWERS = 2 + _HIT_ROUNDS


@dataclass(slots=True)
class Served:
    """All answers to one prompt."""

    prompt: tuple[int, ...]
    cold: Completion
    engine_hit: Completion | None = None
    flexkv_hits: list[Completion] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every later answer has the tokens of the cold one."""
        later = [*([self.engine_hit] if self.engine_hit else []), *self.flexkv_hits]
        return all(answer.token_ids == self.cold.token_ids for answer in later)


def main(argv: list[str] | None = None) -> int:
    """Runs the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--prompts", type=int, default=3, help="prompts of each length")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--out", type=Path, default=checkout.RECORDS / "demo.json")
    options = parser.parse_args(argv)
    with step("a random model of 35 million parameters"):
        model = write_model(checkout.MODELS / "demo-model", SHAPE)
    rng = random.Random(options.seed)
    prompts = [
        random_tokens(rng, length, SHAPE.vocab_size)
        for length in LENGTHS
        for _ in range(options.prompts)
    ]
    lengths = ", ".join(f"{length:,}" for length in LENGTHS)
    sys.stderr.write(
        f"  seed {options.seed}, {options.prompts} prompts each of {lengths} tokens, "
        f"{_ANSWERS} answers to each\n"
    )
    with tempfile.TemporaryDirectory(prefix="flexkv-demo-") as scratch:
        sidecar = Sidecar(Path(scratch), FLEXKV_CPU_CACHE_GB="1")
        log = checkout.BUILD / "demo-server.log"
        with _server(model, sidecar, log) as server:
            with step(f"vLLM's OpenAI server starts, and with it the sidecar (log: {log})"):
                server.wait_ready()
                processes.wait_until(sidecar.listens, 60, "a sidecar at the address", 0.1)
                sidecar.wait_serving(60)
            _say_who_is_who(server, sidecar)
            before = sidecar.moved()
            served, external = _serve(server, sidecar, prompts)
            moved = sidecar.moved().since(before)
        records = Records()
        failures = summary(records, served, moved, external, SHAPE.kv_bytes_per_token)
        failures += lookup_times(records, log)
        with step("the sidecar ends after its last client"):
            sidecar.wait_gone()
    records.write(options.out)
    print(f"\n{times_table(records.all)}\n\n{table(others(records.all))}\n\nrecords: {options.out}")
    print(f"\n{afterword(records.all)}")
    print(f"To go on by hand with this model: {_by_hand(model)}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def _arguments() -> list[str]:
    arguments = ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 30)]
    arguments += ["--max-model-len", str(max(LENGTHS) + 256)]
    return [*arguments, "--kv-transfer-config", json.dumps(checkout.readme_flag())]


def _server(model: Path, sidecar: Sidecar, log: Path) -> OpenAIServer:
    return OpenAIServer(model, _arguments(), sidecar.environment, log)


def _by_hand(model: Path) -> str:
    """What serves it again, with vLLM's doors for `reset_prefix_cache` open."""
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    return f"\n  VLLM_SERVER_DEV_MODE=1 {shlex.join([*server, *_arguments()])}"


def _say_who_is_who(server: OpenAIServer, sidecar: Sidecar) -> None:
    pid = sidecar.pid
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    sys.stderr.write(
        f"  three processes: API server {server.pid}, engine {processes.children(server.pid)}, "
        f"sidecar {pid} ({Path(command).name})\n"
    )


def _serve(
    server: OpenAIServer, sidecar: Sidecar, prompts: list[tuple[int, ...]]
) -> tuple[list[Served], float]:
    """Answers each prompt each way; also the tokens that vLLM counts as external hits."""
    with step("one request to warm up"):
        server.complete([3] * 300, 4)
    with step("cold: every prompt is computed"):
        served = [Served(p, server.complete(p, _OUTPUT_TOKENS)) for p in prompts]
    with step("engine hit: the same prompts again"):
        for one in served:
            one.engine_hit = server.complete(one.prompt, _OUTPUT_TOKENS)
    external = server.metric("vllm:external_prefix_cache_hits_total")
    for number in range(_HIT_ROUNDS):
        sidecar.wait_quiet(30)
        with step(f"FlexKV hit: engine's cache dropped, the same prompts again ({number + 1})"):
            processes.wait_until(server.reset_prefix_cache, 10, "vLLM drops its prefix cache", 0.1)
            for one in served:
                one.flexkv_hits.append(server.complete(one.prompt, _OUTPUT_TOKENS))
    return served, server.metric("vllm:external_prefix_cache_hits_total") - external
