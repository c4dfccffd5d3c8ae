"""Medians, quantiles, and intervals that say how far a median can be trusted."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

_RESAMPLES = 2000


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def bootstrap_interval(
    values: Sequence[float], share: float = 0.95, seed: int = 1
) -> tuple[float, float]:
    """An interval that holds the median of what these were drawn from, with this confidence.

    Percentile bootstrap: the medians of 2,000 samples drawn from the values with replacement.
    """
    rng = random.Random(seed)
    size = len(values)
    medians = sorted(statistics.median(rng.choices(values, k=size)) for _ in range(_RESAMPLES))
    cut = (1 - share) / 2
    return quantile(medians, cut), quantile(medians, 1 - cut)
