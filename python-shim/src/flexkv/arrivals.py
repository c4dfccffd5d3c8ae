"""What the scheduler hears of open loads from the sidecar itself, ahead of its workers.

A worker sees the end of a load when it looks, once a step, and what it says reaches the scheduler
with that step's output: vLLM processes the output a step later, and sleeps a millisecond after each
step without tokens.  Two such steps are four milliseconds, more than the copy of a short hit.  So
the sidecar tells the scheduler too, once every rank has been told; the request is then named as
received in whatever output comes next, and the workers' own word, which must not reach vLLM a
second time, is taken out.

Only loads that are whole on every rank are told ahead.  Whatever failed goes the workers' way, for
they report the blocks that did not arrive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from flexkv.protocol import KIND_LOAD, STATUS_OK, JobDone
from flexkv.requests import OpenLoad

POLL_S = 20e-6
"""Between two looks while the scheduler has nothing else to do; sleeping lets others run."""

LONGER_S = 4e-3
"""A wait that would end less than this before a load, as the last one went, is longer: the load
would end while vLLM sleeps, and be heard of a step later."""
_LATE_S = 1e-3


class Arrivals:
    """Loads by what became of their ranks' parts.  Scheduler thread only.

    ``ranks`` is how many parts a load has; ``wait_s`` how long one step may wait for a load where
    the engine has nothing else to do, 0: nothing is told ahead.  ``lockstep``: other engines may
    wait for this one's next step (data parallelism with experts), so it never waits itself.
    """

    def __init__(
        self,
        ranks: int,
        wait_s: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
        *,
        lockstep: bool = False,
    ) -> None:
        self._ranks = ranks
        self._on = wait_s > 0
        self._wait_s = 0.0 if lockstep else wait_s
        self._clock = clock
        self._sleep = sleep
        self._deaf = False
        self._block_s = 0.0
        self._loads: dict[int, OpenLoad] = {}
        self._told: Counter[str] = Counter()
        self.told_ahead = 0

    def switch_off(self) -> None:
        """Nothing is told ahead; before the first load."""
        self._on = False

    def opened(self, load: OpenLoad) -> None:
        """A load was planned with the present sidecar."""
        if self._on:
            load.parts_left = self._ranks
            load.since = self._clock()
            self._loads[load.job_id] = load

    def heard(self, done: JobDone) -> None:
        """The sidecar says that one rank's part has ended, and that the rank knows."""
        if done.kind != KIND_LOAD:
            return
        self._deaf = False
        load = self._loads.get(done.job_id)
        if load is None:
            return
        if done.status == STATUS_OK and done.blocks_ok == len(load.blocks):
            load.parts_left -= 1
            self._block_s = done.micros / 1e6 / max(1, len(load.blocks))
        else:
            self.leave(load)

    def leave(self, load: OpenLoad) -> None:
        """This load is the workers' to report: it failed, or was voided, or its session ended."""
        self._loads.pop(load.job_id, None)

    def leave_all(self) -> None:
        """None of the open loads is told ahead."""
        self._loads.clear()

    def new_session(self) -> None:
        """What the last sidecar had begun is its workers' to report; the next one may tell us."""
        self.leave_all()
        self._deaf = False

    def reported(self, load: OpenLoad) -> None:
        """The workers were first with this load.

        Where the sidecar had not told of any part of it, it tells nobody (records go as messages,
        or it is of an older build): waiting for its word would only keep the workers from looking.
        If its word was only slower than the workers', it comes, and is waited for again.
        """
        known = self._loads.pop(load.job_id, None)
        if known is not None and load.failed is None and load.parts_left == self._ranks:
            self._deaf = True

    def is_whole(self, load: OpenLoad) -> bool:
        """Whether every rank has all of it and knows so."""
        return load.parts_left == 0 and load.failed is None and load.job_id in self._loads

    @property
    def remembers(self) -> int:
        """Loads and told requests that something is still expected of."""
        return len(self._loads) + len(self._told)

    # ------------------------------------------------------------------ what vLLM is told
    def told(self, request_id: str) -> None:
        """This request was named as received: its workers' word is not needed any more."""
        self._told[request_id] += 1
        self.told_ahead += 1

    def take_out(self, received: Iterable[str] | None) -> set[str]:
        """What workers report, less what vLLM has been told already; each word counts once."""
        rest = set(received or ())
        for request_id in rest & self._told.keys():
            rest.discard(request_id)
            self._told[request_id] -= 1
            if not self._told[request_id]:
                del self._told[request_id]
        return rest

    # ------------------------------------------------------------------ waiting
    def wait(self, loads: Iterable[OpenLoad | None], listen: Callable[[], bool]) -> None:
        """Waits until one of these loads has ended, at most ``wait_s``.

        ``listen`` hears the sidecar out and answers false when it is gone.  Returns at once if one
        of the loads is not for us to tell: its workers may report it at any step.
        """
        open_loads = list(loads)
        if not open_loads or not self._on or self._deaf or self._wait_s <= 0:
            return
        give_up_at = self._until(open_loads)
        while listen() and all(self._runs(load) for load in open_loads):
            if self._clock() >= give_up_at:
                return
            self._sleep(POLL_S)

    def _until(self, loads: Iterable[OpenLoad | None]) -> float:
        """When a wait that begins now is over."""
        now = self._clock()
        until = now + self._wait_s
        ends = [load.since + self._block_s * len(load.blocks) for load in loads if load is not None]
        due = min((end for end in ends if end >= now), default=now)
        return due + _LATE_S if until - _LATE_S < due < until + LONGER_S else until

    def _runs(self, load: OpenLoad | None) -> bool:
        return load is not None and load.job_id in self._loads and load.parts_left > 0
