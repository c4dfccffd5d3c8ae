"""How long an answered lookup takes, seen from Python, beside a bare echo of the same ring.

Fills the sidecar with one chain, then asks for it as the connector does: the hashes, the question
behind them, a spin for the answer, a new request every time.  An answer that has not come when the
connector's patience is over (``lookups.LookupLimits``) is an "ask again"; "over_spin" counts, more
strictly, what took longer than ``FLEXKV_LOOKUP_SPIN_US`` from the first hash on.  Echoes of the
same number of bytes are interleaved.

    FLEXKV_JAR=… python python-shim/tests/bench/lookup.py [--rounds 2000] [--out build/bench]

Writes ``lookup.json``: records of {name, value, unit, limit, ratio, bar, met, command, machine}.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from bench_rig import Record, percentile, run
from plain_instance import PlainInstance, random_hashes

from flexkv import protocol as p
from flexkv.lookups import LookupLimits

KEYS = (8, 64, 512, 2048)
WIDTH = 32
WARM_UP = 3000
COLLECT_US = 200_000.0
BARS = {
    ("p50", 512): 20.0,
    ("p99", 512): 150.0,
    ("over_spin", 512): 1.0,
    ("ask_again", 512): 1.0,
    ("ask_again", 2048): 1.0,
}
"""What was asked for: µs, and percent of lookups that must be asked again."""


class Bench:
    """One instance, one chain of the largest length, resident."""

    def __init__(self, socket_path: str, spin_us: float, seed: int = 5) -> None:
        self.spin_us = spin_us
        self.limits = LookupLimits(lookup_spin_us=spin_us)
        self.asked_again = 0
        self.engine = PlainInstance(socket_path, blocks=max(KEYS) + 8, block_bytes=4096)
        self.scheduler = self.engine.scheduler
        self.chain = random_hashes(seed, max(KEYS), WIDTH)
        saved = self.engine.save(1, self.chain, list(range(4, 4 + max(KEYS))))
        assert saved.committed == max(KEYS), saved
        self.request = 1000
        self.query = 1 << 32

    def ask(self, keys: int) -> float:
        """µs until the answer, in one try or several."""
        self.request += 1
        self.query += 1
        hashes = [self.chain[i * WIDTH : (i + 1) * WIDTH] for i in range(keys)]
        began = time.perf_counter_ns()
        lookup = p.Lookup(self.query, self.request, keys, 0, keys)
        sent = self.scheduler.ask(lookup, hashes, 0)
        answer = self.scheduler.wait_for(self.query, self.limits.patience_us(keys))
        if answer is None:
            self.asked_again += 1
            answer = self.scheduler.wait_for(self.query, COLLECT_US)
        took_us = (time.perf_counter_ns() - began) / 1000
        assert sent == (keys, True), sent
        assert isinstance(answer, p.LookupAnswer), _no_answer(answer)
        assert answer.servable == keys, answer
        assert self.scheduler.send(p.EndRequest(self.request))
        return took_us

    def echo(self, keys: int) -> float:
        """µs of a record of the same size that is only sent back."""
        self.query += 1
        payload = self.chain[: keys * WIDTH]
        began = time.perf_counter_ns()
        assert self.scheduler.send(p.Echo(self.query, payload))
        answer = self.scheduler.wait_for(self.query, COLLECT_US)
        took_us = (time.perf_counter_ns() - began) / 1000
        assert isinstance(answer, p.EchoAnswer), _no_answer(answer)
        return took_us


def _no_answer(instead: object) -> str:
    return (
        f"the sidecar did not answer within {COLLECT_US / 1000:.0f} ms ({instead!r} came): is this "
        "machine busy with something else?"
    )


def measure(bench: Bench, rounds: int, where: str) -> list[Record]:
    for i in range(WARM_UP):
        bench.ask(KEYS[i % len(KEYS)])
        bench.echo(8)
    records: list[Record] = []
    command = f"python {' '.join(sys.argv)}"

    def record(name: str, keys: int, value: float, unit: str, limit: float | None) -> None:
        bar = BARS.get((name, keys))
        records.append(
            {
                "name": f"lookup_{name}_{keys}_keys",
                "value": round(value, 2),
                "unit": unit,
                "limit": None if limit is None else round(limit, 2),
                "ratio": None if not limit else round(value / limit, 2),
                "bar": bar,
                "met": None if bar is None else value <= bar,
                "command": command,
                "machine": where,
            }
        )

    for keys in KEYS:
        bench.asked_again = 0
        asked: list[float] = []
        echoed: list[float] = []
        for _ in range(rounds):
            asked.append(bench.ask(keys))
            echoed.append(bench.echo(keys))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            record(name, keys, percentile(asked, share), "us", percentile(echoed, share))
        late = sum(took > bench.spin_us for took in asked) / len(asked)
        late_echo = sum(took > bench.spin_us for took in echoed) / len(echoed)
        record("over_spin", keys, 100 * late, "%", 100 * late_echo)
        record("ask_again", keys, 100 * bench.asked_again / rounds, "%", None)
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description="Answered lookups from Python.")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--spin-us", type=float, default=50.0)
    return run(
        "lookup",
        lambda path, given, where: measure(Bench(path, given.spin_us), given.rounds, where),
        parser,
    )


if __name__ == "__main__":
    sys.exit(main())
