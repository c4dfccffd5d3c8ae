"""The ready configurations for several workers of one machine, as they are, on real engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from harness import checkout
from harness.engine import BLOCK_TOKENS
from harness.prompts import loadable_tokens
from harness.sidecar import Sidecar

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Lines, Reference, assert_served

CONF = checkout.ROOT / "conf" / "four-workers"
WORKERS = 3


def worker(lines: Lines, sidecar: Sidecar, mode: str, number: int) -> Line:
    """A worker as `start.sh` starts it; only its address and its memory are this test's."""
    extra: dict[str, Any] = {
        "flexkv_server_recv_port": f"ipc://{sidecar.socket}",
        "flexkv_cpu_cache_gb": 0.3,
    }
    environment = {
        "FLEXKV_CONFIG_PATH": str(CONF / f"{mode}.yaml"),
        "WORKER": str(number),
        "FLEXKV_INSTANCE_ID": str(number),
    }
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": extra}
    return lines(sidecar=sidecar, flag=flag, environment=environment)


def test_shared_what_one_computed_the_others_serve_and_any_may_die(
    lines: Lines, reference: Reference, equal: Callable[..., None], counts: Counter[str]
) -> None:
    chosen = list(range(0, len(reference.prompts), 8))
    prompts = [reference.token_ids[i] for i in chosen]
    there = [loadable_tokens(reference.prompts[number], BLOCK_TOKENS) for number in chosen]
    sidecar = Sidecar(lines.scratch / "shared")
    workers = [worker(lines, sidecar, "shared", number) for number in range(WORKERS)]
    equal(reference, workers[0].engine.call(scenarios.run, prompts, OUTPUT_TOKENS), chosen)
    workers[0].settle()
    pid = sidecar.pid

    def serves(line: Line) -> None:
        answers = line.engine.call(scenarios.run_alone, prompts, OUTPUT_TOKENS)
        equal(reference, answers, chosen)
        assert_served(there, [answer.external_tokens for answer in answers])
        counts["tokens served by the sidecar"] += sum(a.external_tokens for a in answers)

    serves(workers[1])
    workers[0].engine.kill()  # it had started the sidecar
    counts["engines killed"] += 1
    serves(workers[2])
    serves(worker(lines, sidecar, "shared", 0))
    assert sidecar.pid == pid


def test_private_each_worker_has_a_sidecar_and_a_cache_of_its_own(
    lines: Lines, reference: Reference, equal: Callable[..., None]
) -> None:
    chosen = list(range(0, len(reference.prompts), 12))
    prompts = [reference.token_ids[i] for i in chosen]
    sidecars = [Sidecar(lines.scratch / f"own{number}") for number in range(2)]
    first, second = [worker(lines, sidecars[n], "private", n) for n in range(2)]
    assert sidecars[0].pid != sidecars[1].pid
    first.engine.call(scenarios.run, prompts, OUTPUT_TOKENS)
    first.settle()
    answers = second.engine.call(scenarios.run, prompts, OUTPUT_TOKENS)
    equal(reference, answers, chosen)
    assert sidecars[1].counters()["hit_blocks"] == 0
    assert sidecars[0].counters()["saved_blocks"] > 0
