"""One engine after another, each with the GPU to itself: start-up, and many long prompts at once.

    python tests/gpu/batches.py --out build/bench/gpu                  (8B shape, one GPU)
    python tests/gpu/batches.py --out build/bench/gpu --shape tiny     (rehearsal on a CPU)

For every connector: seconds until vLLM serves, with a host pool of 64 GiB; 32 prompts of 8,192
tokens and 32 answers at once, computed, then all from the tier, several rounds. For ours besides:
what an engine and a load feel while the pool is still being pinned, and what an idle sidecar takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import processes
from harness.records import table
from harness.sidecar import Sidecar

from flexkv.errors import FlexKVError
from gpu import connectors, tasks
from gpu.engine import EngineSettings
from gpu.link import Link
from gpu.remote import RemoteEngine, RemoteError
from gpu.session import Results, add_common, environment, say, skip, why_skipped
from gpu.shapes import SHAPES, kv_bytes_per_token, write_config

_START_S = 300.0
_CALL_S = 200.0
_GIB = 1 << 30


class Batches:
    """The prompts, and what each mode made of them."""

    def __init__(self, args: argparse.Namespace, results: Results, model: Path) -> None:
        self.args = args
        self.results = results
        self.model = model
        self.tiny = args.shape == "tiny"
        count, tokens = (4, 500) if self.tiny else (32, 8192)
        self.outputs = 4 if self.tiny else 32
        rng = random.Random(args.seed)
        vocabulary = SHAPES[args.shape]["vocab_size"]
        self.prompts = [
            [rng.randrange(10, vocabulary) for _ in range(tokens)] for _ in range(count)
        ]
        self.short = [rng.randrange(10, vocabulary) for _ in range(tokens // 4)]
        self.pool_gb = 0.3 if self.tiny else round(args.pool_gib * _GIB / 1e9, 1)
        self.warm_s: dict[str, float] = {}
        self.start_s: dict[str, float] = {}
        link = Link()
        total = count * tokens * kv_bytes_per_token(args.shape)
        self.link_s = statistics.median(link.seconds_per_byte() for _ in range(5)) * total
        self.what = f"{count} prompts of {tokens} tokens and {self.outputs} answers at once"
        results.add(f"{self.what}: link time of their bytes", self.link_s, "s")

    def settings(self, mode: str) -> EngineSettings:
        """The same for all but the connector; all prompts fit the GPU together."""
        return EngineSettings(
            model=str(self.model),
            kv_transfer=connectors.kv_transfer(mode, self.pool_gb),
            kv_bytes=48 << 20 if self.tiny else int(self.args.kv_gib * _GIB),
            max_model_len=4096 if self.tiny else 32000,
            dtype="float32" if self.tiny else "bfloat16",
            batched_tokens=512 if self.tiny else 8192,
        )

    def measure(self, mode: str) -> None:
        """One mode from start to end."""
        results, folder = self.results, self.results.folder
        sidecar = connectors.sidecar(self.pool_gb)
        with contextlib.ExitStack() as stack:
            begun = time.monotonic()
            more = stack.enter_context(
                connectors.companion(mode, self.pool_gb, folder / f"server-{mode}.log")
            )
            waited = time.monotonic() - begun
            if mode == "pegaflow":
                results.add("pegaflow: its server answers after", waited, "s")
            if mode == "flexkv":
                more = sidecar.environment
            engine = stack.enter_context(
                RemoteEngine(mode, folder / f"batch-{mode}.log", environment(**more))
            )
            self.start_s[mode] = engine.start(self.settings(mode), _START_S)
            results.add(f"{mode}: vLLM serves, host pool of {self.pool_gb:g} GB, after",
                        self.start_s[mode], "s")  # fmt: skip
            if mode == "flexkv":
                self.while_pinning(engine, sidecar)
            self.batch(mode, engine, sidecar)
            if mode == "flexkv":
                idle(sidecar, results)

    def batch(self, mode: str, engine: RemoteEngine, sidecar: Sidecar) -> None:
        """Computed once, then from wherever this mode has it."""
        results = self.results
        engine.call(_CALL_S, tasks.timed, self.short)
        cold = engine.call(_CALL_S, tasks.batch, self.prompts, self.outputs)
        results.add(f"{self.what}: {mode}, computed", max(s.end_s for s in cold), "s")
        if mode == "flexkv":
            with contextlib.suppress(TimeoutError):
                sidecar.wait_quiet(30)
        else:
            time.sleep(2)
        seconds = []
        for number in range(self.args.rounds if mode != "none" else 1):
            served = engine.call(
                _CALL_S, tasks.batch, self.prompts, self.outputs, reset=mode != "none"
            )
            seconds.append(max(s.end_s for s in served))
            cached = sum(s.cached for s in served)
            results.row(part="batch", mode=mode, round=number, seconds=seconds[-1], cached=cached)
            say(f"{mode}, round {number + 1}: {seconds[-1]:.3f} s, {cached} tokens cached")
        value = statistics.median(seconds)
        if mode == "none":
            results.add(f"{self.what}: {mode}, all still in the GPU", value, "s")
            return
        self.warm_s[mode] = value
        bar = 1.05 if mode == "flexkv" and not self.tiny else None
        results.add(f"{self.what}: {mode}, all from the host", value, "s", limit=self.link_s,
                    bar=bar, met=None if bar is None else value <= bar)  # fmt: skip
        results.add(f"{self.what}: {mode}, slowest of {len(seconds)} rounds", max(seconds), "s")

    def while_pinning(self, engine: RemoteEngine, sidecar: Sidecar) -> None:
        """Token times, and loads of one short prompt, while another sidecar pins its pool.

        The engine's first sidecar has long done that when vLLM serves, so it is killed. The same
        afterwards is what to compare with.
        """
        engine.call(_CALL_S, tasks.timed, self.short)
        processes.send_signal(sidecar.pid, signal.SIGKILL)
        for when, limit_s in (("while the pool is pinned", 60.0), ("pool pinned", 4.0)):
            loads: list[float] = []
            gaps: list[float] = []
            begun = time.monotonic()
            while time.monotonic() - begun < limit_s:
                if limit_s > 10.0 and self._pinned(sidecar):
                    break
                for _ in range(3):
                    timed = engine.call(_CALL_S, tasks.timed, self.short, reset=True)
                    if timed.served.cached:
                        loads.append(timed.ttft_ms)
                gaps += engine.call(_CALL_S, tasks.gaps_ms, len(gaps), 4, 12 if self.tiny else 50)
            took = time.monotonic() - begun
            self.results.row(part="pinning", when=when, loads_ms=loads, gaps_ms=gaps, seconds=took)
            self.results.add(f"{when}: looked at for", took, "s")
            self._longest(f"{when}: time to first token of {len(self.short)} loaded tokens", loads)
            self._longest(f"{when}: time a token", gaps)

    def _longest(self, name: str, values: list[float]) -> None:
        if values:
            self.results.add(f"{name}, median of {len(values)}", statistics.median(values), "ms")
            self.results.add(f"{name}, longest", max(values), "ms")

    @staticmethod
    def _pinned(sidecar: Sidecar) -> bool:
        try:
            return connectors.pinned(sidecar)
        except FlexKVError:  # the next one has not begun yet
            return False

    def conclude(self) -> None:
        """What can be said only once all have run."""
        none = self.start_s.get("none")
        for mode, took in self.start_s.items():
            if none is not None and mode != "none":
                bar = 1.0 if mode == "flexkv" else None
                self.results.add(f"{mode}: vLLM serves later than without a connector by",
                                 took - none, "s", bar=bar,
                                 met=None if bar is None else took - none <= bar)  # fmt: skip
        ours = self.warm_s.get("flexkv")
        for mode, seconds in self.warm_s.items():
            if ours is not None and mode != "flexkv":
                self.results.add(f"{self.what}: flexkv over {mode}", ours / seconds, "x", bar=1.0,
                                 met=ours <= seconds)  # fmt: skip


def idle(sidecar: Sidecar, results: Results) -> None:
    """Memory on the GPU and share of a core of a sidecar that has nothing to do."""
    pid = sidecar.pid
    before, begun = cpu_s(pid), time.monotonic()
    time.sleep(3)
    share = 100 * (cpu_s(pid) - before) / (time.monotonic() - begun)
    results.add("idle sidecar: share of a core", share, "%", bar=1.0, met=share < 1.0)
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=20, check=False,
        ).stdout  # fmt: skip
    except OSError:
        return
    for line in listed.splitlines():
        number, _, used = line.partition(",")
        if number.strip() == str(pid) and used.strip().isdigit():
            results.add("sidecar: memory of its context on the GPU", int(used), "MiB")


def cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser, "build/bench/gpu")
    parser.add_argument("--modes", default="none,flexkv,native,pegaflow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-gib", type=float, default=33)
    parser.add_argument("--pool-gib", type=float, default=64)
    args = parser.parse_args()
    if reason := why_skipped(args):
        return skip(Path(args.out) / "batches.json", reason)
    results = Results(Path(args.out), "batches", args.budget_s)
    batches = Batches(args, results, write_config(args.shape))
    for mode in args.modes.split(","):
        if reason := connectors.missing(mode):
            results.add(f"{mode}: not run", reason, "")
        elif results.time_left(f"batch with {mode}"):
            try:
                batches.measure(mode)
            except (RemoteError, RuntimeError, TimeoutError, OSError) as error:
                results.add(f"{mode}: ran to its end", "no", "", met=False)
                say(f"{mode}: {error}")
    batches.conclude()
    print(table(results.records.all), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
