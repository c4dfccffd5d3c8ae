"""How long something took, as quantiles, in a fixed amount of memory."""

from __future__ import annotations

import math

_STEPS_AN_OCTAVE = 4
_BUCKETS = 128


class Latencies:
    """Counts durations in buckets a quarter of an octave wide, from 1 us to 70 minutes.

    One thread adds; a quantile is the upper edge of its bucket, at most 19 % too high.
    """

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0

    def add(self, microseconds: float) -> None:
        """Counts one duration."""
        bucket = 0
        if microseconds > 1.0:
            bucket = min(math.ceil(math.log2(microseconds) * _STEPS_AN_OCTAVE), _BUCKETS - 1)
        self._counts[bucket] += 1
        self.count += 1

    def quantile(self, share: float) -> float:
        """The duration in microseconds that ``share`` (0 to 1) of all do not exceed; 0 if none."""
        wanted = share * self.count
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return float(2 ** (bucket / _STEPS_AN_OCTAVE))
        return 0.0
