"""Quantiles from buckets against sorted lists."""

from __future__ import annotations

import random

import pytest

from flexkv.latency import Latencies


def test_quantile_without_any_is_zero() -> None:
    assert Latencies().quantile(0.5) == 0.0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_quantile_is_the_sorted_one_within_a_bucket(share: float) -> None:
    rng = random.Random(20261121)
    values = sorted(10 ** rng.uniform(0.2, 5) for _ in range(5000))
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = values[int(share * len(values)) - 1]
    assert exact <= latencies.quantile(share) <= exact * 2 ** (1 / 4) * 1.001


def test_add_out_of_range_falls_into_the_outermost_buckets() -> None:
    latencies = Latencies()
    for value in (0.0, 0.5, 1e30):
        latencies.add(value)
    assert latencies.count == 3
    assert latencies.quantile(0.5) == 1.0
    assert latencies.quantile(1.0) > 1e9
