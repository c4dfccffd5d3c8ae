"""The SSD tier: what it holds survives engine and sidecar, and nothing wrong comes out of it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import checkout, processes
from harness.prompts import random_tokens
from harness.sidecar import Sidecar

from e2e import scenarios
from e2e.conftest import OUTPUT_TOKENS, Line, Lines, Reference, wait_new_sidecar
from e2e.test_pressure import distinct_blocks
from flexkv import cli

Equal = Callable[..., None]

#: What the engine of the test of speeds computes in a step; 32 blocks, of which speeds are told.
CHUNK_TOKENS = 1024


def ssd(sidecar: Sidecar) -> dict[str, Any]:
    """What the sidecar says of its SSD tier."""
    figures: dict[str, Any] = sidecar.status()["ssd"]
    return figures


def with_ssd(folder: Path, disks: Path, **settings: str) -> Sidecar:
    """A sidecar with an SSD tier in two folders that outlive it."""
    return Sidecar(
        folder,
        FLEXKV_CPU_CACHE_GB="0.2",
        FLEXKV_SSD_CACHE_GB="1",
        FLEXKV_SSD_CACHE_DIR=f"{disks / 'a'};{disks / 'b'}",
        # What is tested comes from there, however fast the engine is.
        FLEXKV_SSD_RECOMPUTE_TOKENS_S="1",
        **settings,
    )


def computes(sidecar: Sidecar, tokens_per_second: int) -> None:
    """Tells how fast the engine computes; 0 = as the sidecar sees it."""
    change = f"ssd_recompute_tokens_s={tokens_per_second}"
    assert cli.main(["set", "--address", f"ipc://{sidecar.socket}", change]) == 0


def wait_written(sidecar: Sidecar) -> int:
    """Returns the number of blocks on the SSD once nothing waits to be written."""

    def written() -> bool:
        figures = ssd(sidecar)
        busy = figures["queued_bytes"] + figures["writes"]
        return bool(busy == 0 and figures["blocks"] > 0)

    processes.wait_until(written, 30, "all blocks are on the SSD", 0.1)
    return int(ssd(sidecar)["blocks"])


def wait_found(sidecar: Sidecar, blocks: int) -> None:
    """Returns when the recovery has found so many blocks."""
    processes.wait_until(
        lambda: ssd(sidecar)["adopted_blocks"] >= blocks, 30, f"{blocks} blocks found again", 0.1
    )


def stop(lines: Lines, line: Line) -> None:
    """Ends an engine and with it its sidecar."""
    line.engine.close()
    line.sidecar.wait_gone()
    lines.open.remove(line)


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """Where the SSD tier's folders are made."""
    return tmp_path


def answer_all(line: Line, reference: Reference, equal: Equal) -> int:
    """Every prompt, the engine's own cache dropped before; tokens that came from the sidecar."""
    line.engine.call(scenarios.reset)
    answers = line.engine.call(scenarios.run, reference.token_ids, OUTPUT_TOKENS)
    equal(reference, answers)
    return sum(answer.external_tokens for answer in answers)


@pytest.mark.both_versions
def test_engine_and_sidecar_restarted_hits_come_from_the_ssd(
    lines: Lines,
    reference: Reference,
    equal: Equal,
    counts: Counter[str],
    scratch: Path,
    disks: Path,
) -> None:
    line = lines(sidecar=with_ssd(scratch / "ssd1", disks))
    answer_all(line, reference, equal)
    line.settle()
    blocks = wait_written(line.sidecar)
    assert blocks >= distinct_blocks(reference) * 0.9
    stop(lines, line)
    again = lines(sidecar=with_ssd(scratch / "ssd1", disks))
    wait_found(again.sidecar, blocks)
    served = answer_all(again, reference, equal)
    figures = ssd(again.sidecar)
    counts["tokens served from the SSD after a restart"] += served
    counts["blocks promoted from the SSD"] += figures["promoted_blocks"]
    assert served > 0
    assert figures["hits"] > 0
    assert figures["promoted_blocks"] > 0
    assert figures["lost_blocks"] == 0
    again.settle()
    again.assert_nothing_held()


def what_computing_brings_sooner_is_not_read(
    line: Line, reference: Reference, equal: Equal, counts: Counter[str]
) -> None:
    """An engine that computes a prompt at once waits for no disk, and its answers stay right."""
    computes(line.sidecar, 1_000_000_000)
    before = ssd(line.sidecar)["promotions_declined"]
    some = list(range(0, len(reference.prompts), 6))
    prompts = [reference.token_ids[i] for i in some]
    equal(reference, line.engine.call(scenarios.run_alone, prompts, OUTPUT_TOKENS), some)
    declined = ssd(line.sidecar)["promotions_declined"] - before
    counts["reads from the SSD declined: computing is quicker"] += declined
    assert declined > 0


def drop_from_host(line: Line, rng: random.Random, host_blocks: int) -> None:
    """Computes others until all that the host tier has now is on the SSD alone."""
    line.settle()
    wait_written(line.sidecar)
    evicted = line.sidecar.counters()["evicted_blocks"]
    for _ in range(12):
        if line.sidecar.counters()["evicted_blocks"] - evicted >= host_blocks:
            return
        # A busy machine may save less than all of it: blocks that are not written yet stay.
        line.engine.call(scenarios.run_alone, [random_tokens(rng, 3 * CHUNK_TOKENS + 20)], 1)
        line.settle()
        wait_written(line.sidecar)
    raise AssertionError(f"after 12 prompts of others the host tier still had some: {evicted}")


def what_the_ssd_brings_sooner_is_read(line: Line, rng: random.Random, host_blocks: int) -> None:
    """By what is measured: this engine computes three chunks of each long prompt, slowly."""
    computes(line.sidecar, 0)
    prompts = [random_tokens(rng, 3 * CHUNK_TOKENS + 20) for _ in range(2)]
    computed = line.engine.call(scenarios.run_alone, prompts, 1)
    drop_from_host(line, rng, host_blocks)
    before = ssd(line.sidecar)["promoted_blocks"]
    answers = line.engine.call(scenarios.run_alone, prompts, 1)
    assert [a.token_ids for a in answers] == [a.token_ids for a in computed]
    assert 3 * CHUNK_TOKENS in [a.external_tokens for a in answers], "a disk may be busy for one"
    assert ssd(line.sidecar)["promoted_blocks"] > before


def test_host_tier_of_a_third_the_ssd_has_the_rest(
    lines: Lines,
    reference: Reference,
    equal: Equal,
    counts: Counter[str],
    scratch: Path,
    disks: Path,
    seed: int,
) -> None:
    third = distinct_blocks(reference) // 3
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": {"num_cpu_blocks": third}}
    line = lines(
        sidecar=with_ssd(scratch / "ssd2", disks),
        flag=flag,
        batched_tokens=CHUNK_TOKENS,
        longest_tokens=4 * CHUNK_TOKENS,
    )
    rng = random.Random(seed)
    for _ in range(3):
        order = list(range(len(reference.prompts)))
        rng.shuffle(order)
        for start in range(0, len(order), 12):
            some = order[start : start + 12]
            prompts = [reference.token_ids[i] for i in some]
            answers = line.engine.call(scenarios.run, prompts, OUTPUT_TOKENS)
            equal(reference, answers, some)
            line.engine.call(scenarios.reset)
    figures = ssd(line.sidecar)
    counts["blocks promoted from the SSD"] += figures["promoted_blocks"]
    assert line.sidecar.counters()["evicted_blocks"] > third
    assert figures["promoted_blocks"] > 0
    what_computing_brings_sooner_is_not_read(line, reference, equal, counts)
    what_the_ssd_brings_sooner_is_read(line, rng, third)
    line.settle()
    line.assert_nothing_held()


def test_sidecar_killed_the_next_one_serves_what_verifies(
    lines: Lines,
    reference: Reference,
    equal: Equal,
    counts: Counter[str],
    scratch: Path,
    disks: Path,
) -> None:
    line = lines(sidecar=with_ssd(scratch / "ssd3", disks))
    answer_all(line, reference, equal)
    line.settle()
    wait_written(line.sidecar)
    old = line.sidecar.kill()
    counts["sidecars killed"] += 1
    line.engine.call(scenarios.idle)
    wait_new_sidecar(line.sidecar, old)
    wait_found(line.sidecar, 1)
    served = answer_all(line, reference, equal)
    counts["tokens served from the SSD after a restart"] += served
    assert served > 0
    line.settle()
    line.assert_nothing_held()


def test_reset_then_restart_serves_nothing_of_before(
    lines: Lines, reference: Reference, equal: Equal, scratch: Path, disks: Path
) -> None:
    line = lines(sidecar=with_ssd(scratch / "ssd4", disks))
    answer_all(line, reference, equal)
    line.settle()
    wait_written(line.sidecar)
    line.engine.call(scenarios.reset, external=True)
    processes.wait_until(
        lambda: ssd(line.sidecar)["blocks"] == 0, 20, "the reset has reached the SSD", 0.1
    )
    line.engine.call(scenarios.idle)
    stop(lines, line)
    again = lines(sidecar=with_ssd(scratch / "ssd4", disks))
    answers = again.engine.call(scenarios.run_alone, reference.token_ids[:6], OUTPUT_TOKENS)
    equal(reference, answers, list(range(6)))
    assert answers[0].external_tokens == 0
    assert ssd(again.sidecar)["adopted_blocks"] <= 8, "what the idle step saved, no more"


def test_ssd_folders_removed_while_running_tokens_are_right(
    lines: Lines, reference: Reference, equal: Equal, scratch: Path, disks: Path
) -> None:
    third = distinct_blocks(reference) // 3
    flag = {**checkout.readme_flag(), "kv_connector_extra_config": {"num_cpu_blocks": third}}
    line = lines(sidecar=with_ssd(scratch / "ssd5", disks), flag=flag)
    answer_all(line, reference, equal)
    shutil.rmtree(disks)
    for _ in range(2):
        answer_all(line, reference, equal)
    line.settle()
    line.assert_nothing_held()
