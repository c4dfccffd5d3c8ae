"""Engines with different connectors on one GPU at the same time, measured in turns.

    python tests/gpu/pairs.py --out build/bench/gpu                  (8B shape, one GPU)
    python tests/gpu/pairs.py --out build/bench/gpu --shape tiny     (rehearsal on a CPU)

`none` (vLLM without a connector) and `flexkv` stay all the time; the peers take turns beside them,
as memory allows. An engine without a request computes nothing, so each is measured alone, and a
pair of measurements lies milliseconds apart: what drifts, drifts for both.

Every engine that is measured finds its compiled code in vLLM's cache, where engines that are not
measured have left it: an engine that compiled its own was up to 5 ms slower to its first token.

Parts: time to first token of the engine's own hit and of the connector's, in pairs; the same while
another request prefills; throughput where nothing hits and everything is saved; a chat whose cache
does not fit the GPU; the token times of a neighbour while blocks move.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.records import table
from harness.sidecar import Sidecar

from flexkv.errors import FlexKVError
from gpu import connectors, tasks
from gpu.engine import EngineSettings
from gpu.figures import bootstrap_interval
from gpu.link import Link
from gpu.neighbour import Fragments, beside_moves
from gpu.remote import RemoteEngine, RemoteError
from gpu.session import Results, add_common, environment, say, skip, why_skipped
from gpu.shapes import SHAPES, kv_bytes_per_token, write_config
from gpu.stages import Tracer

_START_S = 300.0
_CALL_S = 200.0
#: Fewer processors than this are not divided.
_PROCESSORS_MIN = 12
#: What is measured again with each set of peers.
_EVERY_WAVE = ("ttft", "chat")
#: What vLLM takes when it is not told: on a GPU, on a CPU.
_BLOCK_TOKENS = {"8b": 16, "tiny": 128}


class Pairs:
    """The engines that are up, and what is measured between them."""

    def __init__(self, args: argparse.Namespace, results: Results, sidecar: Sidecar) -> None:
        self.args = args
        self.results = results
        self.sidecar = sidecar
        self.rng = random.Random(args.seed)
        self.engines: dict[str, RemoteEngine] = {}
        #: Those that take part in what is measured now, `none` among them.
        self.active: list[str] = []
        self.link = Link()
        self.tracer = Tracer(results.folder / "stages.jsonl", sidecar)
        self.token_bytes = kv_bytes_per_token(args.shape, 4 if args.shape == "tiny" else 2)
        self.vocabulary = SHAPES[args.shape]["vocab_size"]
        self.throughput: dict[str, float] = {}

    def prompt(self, tokens: int) -> list[int]:
        """Random tokens that no engine has seen."""
        return [self.rng.randrange(10, self.vocabulary) for _ in range(tokens)]

    # ---- engines
    def start(self, stack: contextlib.ExitStack, modes: Sequence[str], model: Path) -> None:
        """Starts these engines at once; one that does not start is left out and said."""
        begun: dict[str, RemoteEngine] = {}
        for mode in modes:
            log = self.results.folder / f"engine-{mode}.log"
            try:
                more = stack.enter_context(
                    connectors.companion(
                        mode, self.args.cpu_cache_gb, self.results.folder / f"server-{mode}.log"
                    )
                )
                if mode in connectors.OURS:
                    more = dict(self.sidecar.environment)
                if mode == "flexkv":
                    more |= self.tracer.environment
                engine = stack.enter_context(RemoteEngine(mode, log, environment(**more)))
                engine.start_soon(self.settings(mode, str(model)))
                begun[mode] = engine
            except (RemoteError, RuntimeError, TimeoutError, OSError) as error:
                self._failed(mode, error)
        for mode, engine in begun.items():
            try:
                took = engine.started(_START_S)
                say(f"{mode}: engine up after {took:.1f} s")
                engine.call(_CALL_S, tasks.timed, self.prompt(600))
                self.engines[mode] = engine
                if mode in connectors.OURS:
                    say(f"pool pinned: {connectors.wait_pinned(self.sidecar, 30)}")
            except (RemoteError, TimeoutError) as error:
                self._failed(mode, error)

    def compile(self, model: Path) -> None:
        """Fills vLLM's cache of compiled code: it has one entry with a connector, one without."""
        with contextlib.ExitStack() as stack:
            begun: list[RemoteEngine] = []
            for mode in ("none", "native"):
                log = self.results.folder / f"compile-{mode}.log"
                settings = self.settings(mode, str(model))
                if settings.kv_transfer is not None:
                    small = connectors.kv_transfer(mode, 1.0)
                    settings = dataclasses.replace(settings, kv_transfer=small)
                engine = stack.enter_context(RemoteEngine(mode, log, environment()))
                engine.start_soon(settings)
                begun.append(engine)
            try:
                took = [engine.started(_START_S) for engine in begun]
            except (RemoteError, TimeoutError) as error:
                say(f"not compiled ahead: {error}")
            else:
                say(f"compiled for {len(took)} engines after {max(took):.1f} s")

    def pin(self) -> None:
        """All engines on the same few processors, everybody else on others; see `RemoteEngine`.

        Only one engine computes at a time, so they are not in each other's way.
        """
        everywhere = sorted(os.sched_getaffinity(0))
        if len(everywhere) < _PROCESSORS_MIN:
            return
        # A neighbour on the same core may be busy: between the two a processor stays free.
        front_end, core, *_ = everywhere[::2]
        helpers, rest = everywhere[4:8], everywhere[8:]
        for engine in self.engines.values():
            engine.pin(front_end, core, set(helpers))
        for pid in (os.getpid(), self.sidecar.pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task.name), rest)

    def stop(self, mode: str) -> None:
        """Ends one engine: its memory is needed."""
        engine = self.engines.pop(mode, None)
        if engine is not None:
            engine.close()

    def settings(self, mode: str, model: str) -> EngineSettings:
        """The same for all but the connector."""
        args = self.args
        tiny = args.shape == "tiny"
        return EngineSettings(
            model=model,
            kv_transfer=connectors.kv_transfer(mode, args.cpu_cache_gb, traced=True),
            kv_bytes=48 << 20 if tiny else int(args.kv_gib * (1 << 30)),
            max_model_len=4096 if tiny else 32000,
            dtype="float32" if tiny else "bfloat16",
            batched_tokens=512 if tiny else 8192,
            seed=1,
        )

    def _failed(self, mode: str, error: Exception) -> None:
        self.results.add(f"{mode}: engine started", "no", "", met=False)
        say(f"{mode} does not run: {error}")

    # ---- time to first token
    def ttft_at(self, lengths: Sequence[int], pairs: int) -> None:
        """Pairs at each of these lengths."""
        for tokens in lengths:
            self.ttft(tokens, pairs)

    def ttft(self, tokens: int, pairs: int, *, prefill: bool = False) -> None:
        """Pairs at one length: every mode's engine hit and external hit, interleaved."""
        modes = [m for m in self.active if m in ("none", "flexkv")] if prefill else self.active
        what = f"{tokens} tokens" + (" beside a prefill" if prefill else "")
        if "flexkv" not in modes:
            what += f", {'+'.join(modes)}"
        prompt = self.prompt(tokens)
        for mode in modes:
            cold = self.engines[mode].call(_CALL_S, tasks.timed, prompt, reset=True)
            self.results.row(part="cold", tokens=tokens, mode=mode, ms=cold.ttft_ms)
        self._saved()
        engine_ms: dict[str, list[float]] = {mode: [] for mode in modes}
        hit_ms: dict[str, list[float]] = {mode: [] for mode in modes}
        link_ms: list[float] = []
        partial = 0
        self.tracer.begin()
        for number in range(pairs):
            # A new talk each time for the neighbour, the same for all modes of this pair.
            other = self.prompt(self.args.background_tokens) if prefill else []
            delay_s = self.rng.uniform(0.02, 0.15)
            if number % 4 == 0:
                seconds = self.link.seconds_per_byte()
                link_ms.append(1000 * seconds * self._loaded_bytes(tokens))
            order = list(modes)
            self.rng.shuffle(order)
            for mode in order:
                engine = self.engines[mode]
                kinds = (True, False) if mode != "none" else (False,)
                for external in kinds:
                    if prefill:
                        timed = engine.call(
                            _CALL_S, tasks.timed_beside_prefill, prompt, other if external else
                            self.prompt(self.args.background_tokens), delay_s, reset=external
                        )  # fmt: skip
                    else:
                        timed = engine.call(_CALL_S, tasks.timed, prompt, reset=external)
                    whole = timed.served.cached >= self._loaded_bytes(tokens) // self.token_bytes
                    partial += not whole
                    self.results.row(
                        part="prefill" if prefill else "ttft", tokens=tokens, pair=number,
                        mode=mode, external=external, ms=timed.ttft_ms,
                        cached=timed.served.cached, link_ms=link_ms[-1],
                    )  # fmt: skip
                    (hit_ms if external else engine_ms)[mode].append(timed.ttft_ms)
                    if mode == "flexkv" and external:
                        self.tracer.collect(timed)
        self._report(what, tokens, engine_ms, hit_ms, link_ms, prefill)
        self.results.add(f"{what}: hits that were not whole", partial, "hits", bar=0,
                         met=partial == 0)  # fmt: skip
        self.tracer.report(self.results, what, statistics.median(link_ms))

    def _report(
        self, what: str, tokens: int, engine_ms: dict[str, list[float]],
        hit_ms: dict[str, list[float]], link_ms: list[float], prefill: bool,
    ) -> None:  # fmt: skip
        add = self.results.add
        link = statistics.median(link_ms)
        add(f"{what}: link time of the bytes loaded", link, "ms")
        none = engine_ms["none"]
        add(f"{what}: engine hit, no connector, median of {len(none)}",
            statistics.median(none), "ms")  # fmt: skip
        for mode, ours in engine_ms.items():
            if mode == "none":
                continue
            bar = 1.0 if mode == "flexkv" and tokens == 8192 and not prefill else None
            self._difference(f"{what}: engine hit, {mode} minus none", ours, none, bar)
            bar = round(1.1 * link + 2, 2) if mode == "flexkv" else None
            self._difference(
                f"{what}: {mode}'s hit minus none's engine hit", hit_ms[mode], none, bar, link
            )
            self._difference(
                f"{what}: {mode}'s hit minus its own engine hit", hit_ms[mode], ours, None, link
            )

    def _difference(
        self, name: str, ours: list[float], none: list[float], bar: float | None,
        limit: float | None = None,
    ) -> None:  # fmt: skip
        """Median of the pairs' differences, and where it lies with 95 % confidence."""
        differences = [a - b for a, b in zip(ours, none, strict=True)]
        low, high = bootstrap_interval(differences)
        value = statistics.median(differences)
        met = None if bar is None else value <= bar
        self.results.add(name, value, "ms", limit=limit, bar=bar, met=met)
        self.results.add(f"{name}, 95 % interval", f"{low:.2f} to {high:.2f}", "ms")

    def _loaded_bytes(self, tokens: int) -> int:
        block = _BLOCK_TOKENS[self.args.shape]
        return (tokens - 1) // block * block * self.token_bytes

    def _saved(self) -> None:
        """Until what was computed has been saved, as far as one can know."""
        if self.engines.keys() & set(connectors.OURS):
            with contextlib.suppress(TimeoutError):
                self.sidecar.wait_quiet(20)
        if set(self.engines) - {"none", *connectors.OURS}:
            time.sleep(1.0)

    # ---- throughput
    def nothing_hits(self, rounds: int) -> None:
        """Prompts that nobody has seen: the tier can only cost. Saves run all the time."""
        tiny = self.args.shape == "tiny"
        count, tokens, outputs = (4, 300, 8) if tiny else (8, 4096, 64)
        losses: list[float] = []
        for number in range(rounds):
            order = ["none", "flexkv"]
            self.rng.shuffle(order)
            seed = self.rng.randrange(1 << 30)
            took = {
                mode: self.engines[mode].call(
                    _CALL_S, tasks.fresh_batch, seed, count, tokens, outputs
                )
                for mode in order
            }
            self.results.row(part="nothing hits", round=number, **took)
            losses.append(100 * (took["flexkv"] / took["none"] - 1))
        value = statistics.median(losses)
        low, high = bootstrap_interval(losses)
        name = f"nothing hits, {rounds} rounds, saves running: throughput lost"
        self.results.add(name, value, "%", bar=1.0, met=value <= 1.0)
        self.results.add(f"{name}, 95 % interval", f"{low:.2f} to {high:.2f}", "%")

    def chat(self, rounds: int) -> None:
        """Many users, 70 % of all prompt tokens said before, more than the GPU's cache holds."""
        tiny = self.args.shape == "tiny"
        users, first, added, turns, outputs = (
            (4, 320, 160, 3, 8) if tiny else (16, 2048, 1024, 5, 64)
        )
        rates: dict[str, list[float]] = {mode: [] for mode in self.active}
        for number in range(rounds):
            order = list(self.active)
            self.rng.shuffle(order)
            seed = self.rng.randrange(1 << 30)
            for mode in order:
                done = self.engines[mode].call(
                    _CALL_S, tasks.chat, seed, users, first, added, turns, outputs
                )
                rate = (done.prompt_tokens + done.output_tokens) / done.seconds
                rates[mode].append(rate)
                self.results.row(
                    part="chat", mode=mode, round=number, seconds=done.seconds, rate=rate,
                    prompt_tokens=done.prompt_tokens, cached_tokens=done.cached_tokens,
                )  # fmt: skip
                say(f"chat, {mode}: {done.seconds:.2f} s, {done.cached_tokens} of "
                    f"{done.prompt_tokens} prompt tokens cached")  # fmt: skip
        for mode, values in rates.items():
            self.throughput.setdefault(mode, statistics.median(values))
        none = self.throughput["none"]
        for mode in rates:
            if mode == "none":
                continue
            gain = 100 * (self.throughput[mode] / none - 1)
            bar = 50.0 if mode == "flexkv" else None
            met = None if bar is None else gain >= bar
            name = f"chat, 70 % said before: throughput of {mode} over no cache"
            self.results.add(name, gain, "%", bar=bar, met=met)


def run(args: argparse.Namespace, results: Results) -> None:
    """Everything, as far as the time allows."""
    tiny = args.shape == "tiny"
    lengths = [400, 1200] if tiny else [2048, 8192, 30000]
    with contextlib.ExitStack() as stack:
        model = write_config(args.shape)
        sidecar = connectors.sidecar(args.cpu_cache_gb)
        os.environ.update(sidecar.environment)
        pairs = Pairs(args, results, sidecar)
        waves = [wave.split("+") for wave in args.waves.split(",")]
        if not tiny:
            pairs.compile(model)
        for number, wave in enumerate(waves):
            for mode in set(pairs.engines) - set(wave):
                pairs.stop(mode)
            new = [m for m in wave if m not in pairs.engines and not connectors.missing(m)]
            pairs.start(stack, new, model)
            pairs.pin()
            fresh = [m for m in wave if m in pairs.engines and m in new]
            pairs.active = ["none", *(m for m in fresh if m != "none")]
            if "none" not in pairs.engines:
                raise RuntimeError("vLLM without a connector did not start")
            if len(pairs.active) < 2:
                continue
            steps: dict[str, Callable[[], None]] = {
                "ttft": lambda: pairs.ttft_at(lengths, args.pairs),
                "zero": lambda: pairs.nothing_hits(args.zero_rounds),
                "neighbour": lambda: beside_moves(
                    pairs.engines["none"],
                    sidecar,
                    results,
                    tiny=tiny,
                    limits_gb_s=[float(text) for text in args.limits.split(",") if text],
                    geometries=[Fragments.named(text) for text in args.geometries.split(",")],
                ),
                "prefill": lambda: pairs.ttft(lengths[1], args.prefill_pairs, prefill=True),
                "chat": lambda: pairs.chat(args.rounds),
            }
            for name, step in steps.items():
                wanted = name in args.parts.split(",") and (not number or name in _EVERY_WAVE)
                if wanted and results.time_left(f"{name}, {'+'.join(wave)}"):
                    try:
                        step()
                    except (RemoteError, RuntimeError, TimeoutError, FlexKVError) as error:
                        results.add(f"{name}, {'+'.join(wave)}: ran to its end", "no", "",
                                    met=False)  # fmt: skip
                        say(f"{name}: {error}")
        ours = pairs.throughput.get("flexkv")
        for mode, rate in pairs.throughput.items():
            if ours is not None and mode in ("native", "pegaflow"):
                results.add(f"chat: throughput of flexkv over {mode}", 100 * (ours / rate - 1), "%",
                            bar=0.0, met=ours >= rate)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common(parser, "build/bench/gpu")
    parser.add_argument(
        "--waves",
        default="none+flexkv+native,none+flexkv+pegaflow",
        help="engines that are up together; the waves follow one another",
    )
    parser.add_argument("--parts", default="ttft,zero,neighbour,prefill,chat")
    parser.add_argument("--pairs", type=int, default=41)
    parser.add_argument("--prefill-pairs", type=int, default=11)
    parser.add_argument("--zero-rounds", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=2, help="of the chat")
    parser.add_argument("--background-tokens", type=int, default=0, help="0 = as the shape allows")
    parser.add_argument(
        "--geometries", default="64", help="KiB of the fragments moved then; 16s = in one buffer"
    )
    parser.add_argument("--limits", default="30,20,10", help="GB/s to try beside a neighbour")
    parser.add_argument("--kv-gib", type=float, default=6)
    parser.add_argument("--cpu-cache-gb", type=float, default=0, help="0 = as the shape allows")
    args = parser.parse_args()
    if reason := why_skipped(args):
        return skip(Path(args.out) / "pairs.json", reason)
    tiny = args.shape == "tiny"
    args.background_tokens = args.background_tokens or (2000 if tiny else 30000)
    args.cpu_cache_gb = args.cpu_cache_gb or (0.5 if tiny else 24)
    results = Results(Path(args.out), "pairs", args.budget_s)
    shutil.rmtree(results.folder / "stages.jsonl", ignore_errors=True)
    try:
        run(args, results)
    finally:
        print(table(results.records.all), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
