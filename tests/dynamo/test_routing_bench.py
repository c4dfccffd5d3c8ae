"""What the routing benchmark compares with: the trace's slice, the replays, the cost function.

The benchmark itself runs minutes (`make bench-dynamo`); here a part of the slice goes through the
real router, so that its program cannot rot.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from harness import checkout
from router_bench.arm import Setting, run_arm
from router_bench.decision import Choice, Weights, judge
from router_bench.replay import Cluster, as_dynamo, by_the_book, typical
from router_bench.residency import Reach, Residency
from router_bench.trace import BLOCK_TOKENS, Row, read

from flexkv.protocol import NOTICE_EVICTED, NOTICE_STORED, TIER_HOST, TIER_SSD, KvNotice

NOWHERE = Reach(0, 0, 0)


def row(number: int, ids: tuple[int, ...], at_s: float = 0.0, tokens: int = 0) -> Row:
    return Row(number, at_s, tokens or BLOCK_TOKENS * len(ids), 10, ids)


def test_slice_is_the_beginning_of_the_trace() -> None:
    rows = read()
    assert len(rows) == 2000
    assert sum(one.input_tokens for one in rows) == 27_441_774
    assert len({block for one in rows for block in one.ids}) == 38_788
    assert rows[-1].arrival_s == 669.0


def test_prompts_share_exactly_the_blocks_that_the_ids_share() -> None:
    one, other = row(0, (1, 2, 3)).prompt(), row(1, (1, 2, 4), tokens=2 * BLOCK_TOKENS + 5).prompt()
    assert one[: 2 * BLOCK_TOKENS] == other[: 2 * BLOCK_TOKENS]
    assert one[2 * BLOCK_TOKENS] != other[2 * BLOCK_TOKENS]
    assert len(other) == 2 * BLOCK_TOKENS + 5


@pytest.mark.parametrize(
    ("sees", "published"), [("nothing", 11.29), ("gpu", 10.08), ("all", 18.14)]
)
def test_published_rules_give_their_figures(sees: str, published: float) -> None:
    found = by_the_book(read(), Cluster(4, 500, 5000, sees))
    assert round(100 * found, 2) == published


@pytest.mark.parametrize("replay", [as_dynamo, by_the_book])
def test_replay_with_the_lower_tier_in_sight_goes_back_to_it(replay: object) -> None:
    """The GPU holds one prompt, so each conversation's second turn finds only the lower pool."""
    assert callable(replay)
    long, other = tuple(range(8)), tuple(range(100, 108))
    rows = [row(0, long), row(1, other, 100), row(2, (50, 51), 200), row(3, long, 300)]
    whole = 7 * BLOCK_TOKENS / sum(one.input_tokens for one in rows)
    assert replay(rows, Cluster(2, 1, 100, "all")) == pytest.approx(whole)
    assert replay(rows, Cluster(3, 1, 100, "nothing")) == pytest.approx(whole)
    assert replay(rows, Cluster(2, 1, 100, "nothing")) == 0.0


def test_typical_replay_is_the_mean_of_some() -> None:
    rows = read(most=150)
    cluster = Cluster(2, 60, 400, "all")
    mean, spread = typical(rows, cluster)
    assert abs(mean - as_dynamo(rows, cluster)) < 5 * spread + 0.01
    assert typical(rows, cluster) == (mean, spread)


def choice(
    one: Row, at_s: float, worker: int, reaches: tuple[Reach, Reach], until: tuple[float, float]
) -> Choice:
    return Choice(one, reaches, at_s, worker, *until)


def test_best_worker_is_the_one_with_most_of_the_prompt() -> None:
    prompt = row(0, tuple(range(8)))
    found = judge([choice(prompt, 1.0, 1, (NOWHERE, Reach(0, 4, 8)), (2, 3))], 2, Weights(1, 1))[0]
    assert found.costs == (16.0, 8.0)
    assert found.differs
    assert found.is_best


def test_tiers_count_by_their_weights() -> None:
    prompt = row(0, tuple(range(8)))
    reaches = (Reach(2, 2, 2), Reach(0, 2, 8))
    found = judge([choice(prompt, 1.0, 1, reaches, (2, 3))], 2, Weights(0.75, 0.25))[0]
    assert found.costs == (14.0, 16.0 - 1.5 - 1.5)
    assert found.is_best
    assert not judge([choice(prompt, 1.0, 1, reaches, (2, 3))], 2, Weights(0.1, 0.1))[0].is_best


def test_load_counts_until_first_and_last_token() -> None:
    """Prefill until the first token, blocks until the last; shared blocks once."""
    first, second = row(0, (1, 2, 3)), row(1, (1, 2, 4))
    begun = choice(first, 1.0, 0, (NOWHERE, NOWHERE), (2.0, 3.0))
    for at_s, cost in ((1.5, 3 + 3 + 4), (2.5, 3 + 4), (3.5, 3 + 3)):
        later = choice(second, at_s, 1, (NOWHERE, NOWHERE), (8, 9))
        assert judge([begun, later], 2, Weights(1, 1))[1].costs == (cost, 6)


def test_residency_follows_the_notices() -> None:
    """An eviction names no more than the ends of the hashes."""
    hashes = [bytes([i]) * 32 for i in range(1, 5)]
    seen = Residency()
    for tier in (TIER_HOST, TIER_SSD):
        seen.heard(KvNotice(NOTICE_STORED, tier, 0, 32, b"".join(hashes), b"", b""))
    assert seen.reach(hashes, 1, 4) == Reach(1, 4, 4)
    ends = b"".join(one[-8:] for one in hashes[2:])
    seen.heard(KvNotice(NOTICE_EVICTED, TIER_HOST, 0, 8, ends, b"", b""))
    assert seen.reach(hashes, 1, 4) == Reach(1, 2, 4)
    assert seen.reach(hashes, 1, 3) == Reach(1, 2, 3)


def test_a_part_of_the_slice_through_the_real_router(counts: Counter[str]) -> None:
    """Pools so small that all is in the lower tiers soon; arrivals of the trace, 16 times as fast.

    The prompts come twice, so that there is something to find.
    """
    begin = [one for one in read(most=60) if one.input_tokens < 12_000][:24]
    again = [
        Row(24 + i, 60 + i / 2, one.input_tokens, one.output_tokens, one.ids)
        for i, one in enumerate(begin)
    ]
    rows = [Row(i, i / 2, o.input_tokens, 40, o.ids) for i, o in enumerate(begin)] + again
    setting = Setting(
        "test", kv=True, tells_tiers=True, weights=Weights(1, 1), workers=2, gpu_blocks=60,
        host_blocks=80, ssd_blocks=1000, speed=16,
    )  # fmt: skip
    found = asyncio.run(run_arm(setting, rows, Path(checkout.LOGS) / "router-bench"))
    assert found.counts["reused blocks with wrong bytes"] == 0
    assert found.counts["as the oracle said"] == found.counts["prompts asked of an index at rest"]
    assert found.share_of("ssd") + found.share_of("host") > 0.2
    assert found.to_the_best >= 0.9
    assert found.costs_reproduced >= 0.8
    counts["requests through the router with their true best worker known"] += len(found.differing)
    counts["of these sent to it"] += sum(one.is_best for one in found.differing)
