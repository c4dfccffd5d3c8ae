"""vLLM's hooks, total and independent of which class vLLM made.

A side runs behind a guard.  One that is refused, or that could not be built, answers every hook
neutrally; one that failed finishes what is open and answers neutrally from then on.  What builds a
side from vLLM's configuration is in ``wiring.py``.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any

from flexkv.guard import Guard
from flexkv.metadata import VOID_EPOCH, StepJob, StepMetadata
from flexkv.older_vllm import KeptRequests, SentInstead
from flexkv.protocol import KIND_LOAD
from flexkv.scheduler import SchedulerSide
from flexkv.stats import scheduler_line, worker_line
from flexkv.worker import WorkerSide

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
"""As vLLM's own figures: vLLM does not always let a connector end in order, nor say a last word."""


class SchedulerHooks:
    """The scheduler role.  ``build`` answers ``None`` where nothing is to be served.

    ``frees_open_loads``: this vLLM is before 0.16, see ``older_vllm``.
    """

    def __init__(
        self, build: Callable[[], SchedulerSide | None], *, frees_open_loads: bool = False
    ) -> None:
        self._serving = True
        self._kept = KeptRequests() if frees_open_loads else None
        self._logged_at = time.monotonic()
        self._logged = ""
        self._rescued: list[StepJob] = []
        self._pool: Any = None
        self._cache_seen: Any = None
        self.guard = Guard("scheduler", self._switch_off)
        self.side: SchedulerSide | None = None
        self.side = self.guard.run("__init__", None, build)
        if self._kept is not None and self.side is not None:
            # Workers name the loads of aborted requests as sent there, so their word on a load
            # that vLLM was told of need not come.
            self.side.arrivals.switch_off()
            self.side.barred = self._kept.remembered

    def _switch_off(self) -> None:
        """Before the hook that failed returns: what vLLM hands out from here on is not counted."""
        self._serving = False
        if self.side is not None:
            self.side.abandon()

    def on_new_request(self, request: Any) -> None:
        if self._serving and self.side is not None:
            self.guard.run("on_new_request", None, self.side.on_new_request, request)

    def get_num_new_matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        neutral: tuple[int | None, bool] = (0, False)
        if self._kept is not None:
            self._kept.scheduled(request.request_id)
        if not self._serving or self.side is None:
            return neutral
        return self.guard.run(
            "get_num_new_matched_tokens", neutral,
            self.side.get_num_new_matched_tokens, request, computed,
        )  # fmt: skip

    def update_state_after_alloc(self, request: Any, blocks: Any, external: int) -> None:
        """A load that vLLM has granted must be answered for, whatever fails here."""
        side = self.side
        if side is None:
            return
        if self._kept is not None:
            self._kept.scheduled(request.request_id)
        ids: list[int] = self.guard.run("update_state_after_alloc", [], _table_of, blocks)
        if self._serving:
            self.guard.run(
                "update_state_after_alloc", None,
                side.update_state_after_alloc, request, ids, external,
            )  # fmt: skip
        if external > 0 and self.guard.tripped and not side.loads.has_planned(request.request_id):
            self._rescued.append(
                StepJob(0, VOID_EPOCH, request.request_id, KIND_LOAD, blocks=array("I", ids))
            )

    def build_connector_meta(self, output: Any) -> StepMetadata:
        meta = StepMetadata()
        if self.side is not None:
            if time.monotonic() - self._logged_at > LOG_EVERY_S:
                self._logged_at = time.monotonic()
                self.guard.run("log", None, self._log, self.side)
            if self._serving:
                meta = self.guard.run(
                    "build_connector_meta", meta, self.side.build_connector_meta, output
                )
            if self.guard.tripped:
                self.guard.run("reset_cache", None, self.side.send_owed_reset)
                loads = self.guard.run("build_connector_meta", meta, self.side.loads.take)
                meta = StepMetadata(loads.jobs + self._rescued, loads.void)
                self._rescued = []
        if self._kept is not None:
            meta.kept = self._kept.take()
        return meta

    def update_connector_output(self, output: Any) -> None:
        if self.side is not None:
            self.guard.run(
                "update_connector_output", None, self.side.update_connector_output, output
            )
            if self._kept is not None:
                output.finished_recving = self._kept.take_out(output.finished_recving) or None
                for request_id in self._kept.sent(output.finished_sending):
                    self.side.loads.forget(request_id)

    def request_finished(self, request: Any) -> bool:
        """Whether vLLM must keep the request's blocks until a worker names it as sent."""
        if self.side is None:
            return False
        keep = self._kept is not None and self._kept.finished(
            request.request_id, loading=request.request_id in self.side.loads
        )
        if self._serving:
            self.guard.run("request_finished", None, self.side.request_finished, request)
        return keep

    def reset_cache(self) -> bool:
        """True: nothing cached before is served again.

        A side that is off serves nothing, but others may share what it saved, and so may this
        engine after a restart: the sidecar hears of the reset all the same.
        """
        side = self.side
        if side is None:
            return True
        done = self._serving and self.guard.run("reset_cache", False, side.reset_cache)
        if not done:
            self.guard.run("reset_cache", None, side.reset_abandoned)
        return True

    def bind_gpu_block_pool(self, pool: Any) -> None:
        """The pool whose prefix cache vLLM may reset; see ``take_events``."""
        self._pool = pool
        if self.side is not None and callable(getattr(pool, "get_cached_block", None)):
            self.side.holdings.pool = pool
        self._cache_seen = getattr(pool, "cached_block_hash_to_block", None)

    def take_events(self) -> list[Any]:
        """Called right behind the block pool's own, into the same batch.

        When the pool forgot its prefix cache, its events say ``AllBlocksCleared``, by which routers
        forget every tier of this engine: what ours hold is announced anew then.
        """
        side = self.side
        if side is None or side.events is None:
            return []
        if self._cache_was_reset():
            self._cache_seen = self._pool.cached_block_hash_to_block
            side.events.forgotten()
        if not self._serving:
            return self.guard.run("take_events", [], side.events.take)  # takes back what was said
        return self.guard.run("take_events", [], side.take_events)

    def has_pending_push_work(self) -> bool:
        side = self.side
        if side is None or side.events is None or not self._serving:
            return False
        if self._cache_was_reset():
            return True
        return self.guard.run("has_pending_push_work", False, side.keeps_engine_awake)

    def _cache_was_reset(self) -> bool:
        """A reset makes a new map; nothing else does."""
        cache = getattr(self._pool, "cached_block_hash_to_block", None)
        return cache is not self._cache_seen

    def _log(self, side: SchedulerSide) -> None:
        line = scheduler_line(side)
        if line != self._logged:
            self._logged = line
            logger.info("FlexKV scheduler: %s", line)

    def shutdown(self) -> None:
        side, self.side = self.side, None
        if side is not None:
            self.guard.run("log", None, self._log, side)
            self.guard.run("shutdown", None, side.shutdown)


def _table_of(blocks: Any) -> list[int]:
    """All block ids of a request, of the one group that is served."""
    return list(blocks.get_block_ids()[0])


class WorkerHooks:
    """The worker role of one rank.

    ``register`` makes the side out of vLLM's KV tensors, or answers ``None`` where nothing is to be
    served; ``close`` ends what it began.
    """

    def __init__(
        self,
        register: Callable[[Mapping[str, Any]], WorkerSide | None],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._register = register
        self._close = close
        self._orphans: list[StepJob] = []
        self._open: set[str] = set()
        self._sent = SentInstead()
        self._last_meta: StepMetadata | None = None
        self.guard = Guard("worker", self._switch_off)
        self.side: WorkerSide | None = None

    def _switch_off(self) -> None:
        if self.side is not None:
            self.side.switch_off()

    def register_kv_caches(self, kv_caches: Mapping[str, Any]) -> None:
        """Once, before any block is live; may wait for a sidecar, bounded by the settings."""
        if self.side is None:
            self.side = self.guard.run("register_kv_caches", None, self._register, kv_caches)

    def begin_step(self, hook: str, meta: Any) -> None:
        """``handle_preemptions``, or ``start_load_kv`` in steps where the former does not come.

        Takes each step's ``StepMetadata`` once; vLLM before 0.18 gives ``handle_preemptions`` a set
        of request ids instead.
        """
        if not isinstance(meta, StepMetadata) or meta is self._last_meta:
            return
        self._last_meta = meta
        loads = [job for job in meta.jobs if job.is_load]
        self._open.update(job.request_id for job in loads)
        self._sent.hear(meta.kept, self._open.__contains__)
        if self.side is None:
            # Nobody else will report these: no copy was ever started for them.
            self._orphans.extend(loads)
        else:
            self.side.expect(loads)
            self.guard.run(hook, None, self.side.begin_step, meta)

    def wait_for_save(self) -> None:
        if self.side is not None:
            self.guard.run("wait_for_save", None, self.side.wait_for_save)

    def get_finished(self) -> set[str]:
        """Requests whose load has ended here, each named once."""
        received = {job.request_id for job in self._orphans}
        if self.side is not None:
            received |= self.guard.run("get_finished", set(), self.side.get_finished)
        self._open -= received
        self._sent.ended(received)
        return received

    def take_sent(self) -> set[str]:
        """Requests that were aborted with their load open, now that it has ended here."""
        return self._sent.take()

    def get_block_ids_with_load_errors(self) -> set[int]:
        orphans, self._orphans = self._orphans, []
        failed = {block for job in orphans for block in job.blocks if block}
        if self.side is not None:
            failed |= self.guard.run(
                "get_block_ids_with_load_errors", set(), self.side.get_block_ids_with_load_errors
            )
        return failed

    def has_open_loads(self) -> bool:
        """Whether a step's output must reach the scheduler side, though nobody has ended yet."""
        return self.side is not None and self.guard.run("worker_meta", False, self._open_loads)

    def _open_loads(self) -> bool:
        return self.side is not None and self.side.open_loads > 0

    def shutdown(self) -> None:
        side, self.side = self.side, None
        if side is not None:
            logger.info("FlexKV worker: %s", self.guard.run("log", "", worker_line, side))
        self.guard.run("shutdown", None, self._close)
