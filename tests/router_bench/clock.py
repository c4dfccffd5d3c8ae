"""The trace's clock: faster than the wall's, and standing while anything real is under way.

So what the benchmark measures does not depend on how fast or how busy the machine is: a router that
takes 20 ms for its choice where another takes 2 changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of the trace since the start.  One asyncio loop."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._passed = 0.0
        self._since = time.monotonic()
        self._holds = 0
        self._runs = asyncio.Event()
        self._runs.set()

    def now(self) -> float:
        """Where it stands."""
        if self._holds:
            return self._passed
        return self._passed + (time.monotonic() - self._since) * self._speed

    def hold(self) -> None:
        """It stands until `release` has been called as often as this."""
        self._passed = self.now()
        self._holds += 1
        self._runs.clear()

    def release(self) -> None:
        """What was under way has ended."""
        if self._holds <= 0:
            raise RuntimeError("the clock is not held")
        self._holds -= 1
        if not self._holds:
            self._since = time.monotonic()
            self._runs.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """It stands while the body runs."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    async def until(self, moment: float) -> None:
        """Returns when it is that late."""
        while (left := moment - self.now()) > 0:
            await self._runs.wait()
            await asyncio.sleep(left / self._speed)
