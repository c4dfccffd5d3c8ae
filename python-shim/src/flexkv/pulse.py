"""The everyday sign of life: one line of figures every so many requests, in the engine's log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flexkv.requests import RequestState

if TYPE_CHECKING:
    from flexkv.scheduler import SchedulerSide

logger = logging.getLogger(__name__)


class Pulse:
    """Counts ended requests and where the KV of their prompts came from.

    Every ``interval`` requests (``FLEXKV_NUM_LOG_INTERVAL_REQUESTS``) it logs a line about those
    since the last one.  Scheduler's thread only.
    """

    def __init__(self, interval: int, block_tokens: int) -> None:
        self._interval = interval
        self._block_tokens = block_tokens
        self._lookups = self._failed = self._committed = 0
        self._begin()

    def _begin(self) -> None:
        self._requests = self._prompt = self._local = self._loaded = 0

    def finished(self, side: SchedulerSide, state: RequestState) -> None:
        """A request has ended."""
        prompt = int(getattr(state.request, "num_prompt_tokens", 0) or 0)
        local = min(state.local * self._block_tokens, prompt)
        self._requests += 1
        self._prompt += prompt
        self._local += local
        self._loaded += min(state.loaded * self._block_tokens, prompt - local)
        if self._requests >= self._interval:
            logger.info("%s", self._line(side))
            self._begin()

    def _line(self, side: SchedulerSide) -> str:
        lookups, self._lookups = side.lookups.asked - self._lookups, side.lookups.asked
        failed, self._failed = side.loads.failed - self._failed, side.loads.failed
        saved, self._committed = side.blocks_committed - self._committed, side.blocks_committed
        prompt = max(1, self._prompt)
        computed = self._prompt - self._local - self._loaded
        return (
            f"{self._requests} requests, {self._prompt} prompt tokens: "
            f"{self._loaded / prompt:.1%} from FlexKV, {self._local / prompt:.1%} from GPU memory, "
            f"{computed / prompt:.1%} computed; {lookups} lookups (p50 "
            f"{side.lookups.times.quantile(0.5):.0f} us, p99 "
            f"{side.lookups.times.quantile(0.99):.0f} us since the start), {failed} loads failed, "
            f"{saved} blocks saved"
        )
