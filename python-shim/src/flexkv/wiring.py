"""Builds the two sides from vLLM's configuration, and says once at start what is not served."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from flexkv.capacity import in_bytes
from flexkv.client import FENCE_WORDS, REVOKE_WORDS, Link
from flexkv.config import Settings
from flexkv.dynamo import EVENTS_EXAMPLE, under_dynamo
from flexkv.engine import (
    EngineFacts,
    adopt_failure_policy,
    hidden_blocks,
    page_sizes,
    read_facts,
)
from flexkv.errors import ConfigError, FlexKVError, MemoryInUseError
from flexkv.events import MAX_BLOCK_BYTES, EventFeed
from flexkv.fences import FENCE_EVENTS, Fences, NoFences, cuda_fences
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.joining import Joining
from flexkv.layout import derive_layout
from flexkv.log import setup_logging
from flexkv.lookups import LookupLimits
from flexkv.older_vllm import Quirks
from flexkv.protocol import Hello
from flexkv.registration import Registration
from flexkv.scheduler import SchedulerFacts, SchedulerSide
from flexkv.sleeps import exact_sleeps
from flexkv.startup import prepare_scheduler, prepare_worker
from flexkv.worker import WorkerLimits, WorkerSide

logger = logging.getLogger(__name__)

assert FENCE_EVENTS <= FENCE_WORDS  # every event has its word in the session file


def scheduler_hooks(
    vllm_config: Any,
    kv_cache_config: Any,
    *,
    facade: bool = False,
    lacking: str = "",
    quirks: Quirks = Quirks(),  # noqa: B008 (frozen)
) -> SchedulerHooks:
    """The scheduler role; ``facade`` = inside vLLM's own wrapper class.

    ``lacking`` and ``quirks`` say what this vLLM cannot do, see ``vllm_api``.
    """

    def build() -> SchedulerSide | None:
        return _build_scheduler(
            vllm_config,
            kv_cache_config,
            facade=facade,
            lacking=lacking,
            quirks=quirks,
        )

    return SchedulerHooks(build, frees_open_loads=quirks.frees_open_loads)


def worker_hooks(
    vllm_config: Any, kv_cache_config: Any, *, facade: bool = False, lacking: str = ""
) -> WorkerHooks:
    """The worker role of one rank; see ``scheduler_hooks``."""
    rank = _Rank(vllm_config, kv_cache_config, facade=facade, lacking=lacking)
    hooks = WorkerHooks(rank.register, rank.close)
    hooks.guard.run("__init__", None, rank.connect)
    return hooks


def load_settings(vllm_config: Any) -> Settings:
    """The user's settings, ``kv_connector_extra_config`` above all else; raises ``ConfigError``."""
    transfer = vllm_config.kv_transfer_config
    try:
        settings = Settings.load(getattr(transfer, "kv_connector_extra_config", None) or {})
    except ConfigError:
        setup_logging()  # whoever catches it has to be heard
        raise
    setup_logging(settings.log_level, settings.logging_prefix)
    return settings


def hello_of(facts: EngineFacts, namespace: str, *, events: bool = False) -> Hello:
    """Who this process is, for the sidecar."""
    return Hello(
        role=facts.role,
        pid=0,  # the link's to fill in
        instance=facts.instance,
        rank=facts.rank,
        world_size=facts.world_size,
        namespace=namespace,
        kv_groups=facts.kv_groups,
        block_tokens=facts.block_tokens,
        events=events,
    )


def _build_scheduler(
    vllm_config: Any,
    kv_cache_config: Any,
    *,
    facade: bool,
    lacking: str,
    quirks: Quirks,
) -> SchedulerSide | None:
    settings = load_settings(vllm_config)
    if not settings.enabled:
        logger.info("FlexKV is switched off (ENABLE_FLEXKV)")
        return None
    lacking = lacking or hidden_blocks()
    if lacking:
        logger.warning("FlexKV serves nothing to this engine: %s", lacking)
        return None
    facts = read_facts(vllm_config, scheduler=True, kv_cache_config=kv_cache_config, facade=facade)
    if facts.refused:
        logger.warning("FlexKV serves nothing to this engine: %s", facts.refused)
        return None
    for note in facts.notes:
        logger.warning("FlexKV: %s", note)
    no_loads = adopt_failure_policy(vllm_config, settings.load_failure_policy)
    if no_loads:
        logger.warning("FlexKV: %s", no_loads)
    settings = in_bytes(settings, facts, kv_cache_config)
    namespace = prepare_scheduler(vllm_config, settings)  # before vLLM reads its hash seed
    feed = _event_feed(vllm_config, settings, facts)
    link = Link(
        settings,
        lambda: hello_of(facts, namespace, events=feed is not None),
        generation_entries=facts.num_blocks,
        on_attach=Joining(settings),
    )
    side = SchedulerSide(
        SchedulerFacts(
            facts.block_tokens,
            facts.num_blocks,
            can_load=facts.can_load and not no_loads,
            can_save=facts.can_save,
            ranks=facts.world_size,
            lockstep=facts.lockstep,
            reads_ahead=facts.reads_ahead,
            by_priority=facts.by_priority,
            admits_without_room=quirks.admits_without_room,
            shows_new_blocks_only=quirks.shows_new_blocks_only,
            resumes_loads_as_new=quirks.resumes_loads_as_new,
        ),
        link,
        LookupLimits(lookup_spin_us=settings.lookup_spin_us, step_spin_us=settings.step_spin_us),
        log_interval_requests=settings.num_log_interval_requests,
        events=feed,
        load_wait_ms=settings.load_wait_ms,
    )
    link.start()
    if settings.load_wait_ms > 0:
        exact_sleeps()  # this is the scheduler's thread
    return side


def _event_feed(vllm_config: Any, settings: Settings, facts: EngineFacts) -> EventFeed | None:
    """Where vLLM publishes KV events, those of our tiers; ``None`` where it does not."""
    wanted = getattr(vllm_config, "kv_events_config", None)
    if not getattr(wanted, "enable_kv_cache_events", False):
        if under_dynamo():
            logger.warning(
                "FlexKV: this Dynamo worker publishes no KV events, so a kv router sees no tier of "
                "it and only balances load. Remedy: --kv-events-config '%s'",
                EVENTS_EXAMPLE,
            )
        return None
    if not settings.kv_events or not facts.can_save:
        return None
    if 4 * facts.block_tokens > MAX_BLOCK_BYTES:
        logger.warning(
            "FlexKV announces no blocks: %d tokens a block, at most %d travel",
            facts.block_tokens, MAX_BLOCK_BYTES // 4,
        )  # fmt: skip
        return None
    from flexkv.vllm_events import VllmEvents

    maker = VllmEvents(facts.block_tokens, settings.kv_events_cpu_medium)
    return EventFeed(facts.block_tokens, maker, time.monotonic)


class _Rank:
    """A worker between its construction and its registration."""

    def __init__(
        self, vllm_config: Any, kv_cache_config: Any, *, facade: bool, lacking: str
    ) -> None:
        self._lacking = lacking
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._facade = facade
        self._registration = Registration()
        self._link: Link | None = None
        self._settings = Settings()
        self._facts: EngineFacts | None = None

    def connect(self) -> None:
        """Starts connecting; vLLM goes on with its own start meanwhile."""
        settings = load_settings(self._vllm_config)
        if not settings.enabled or self._lacking or hidden_blocks():
            return  # the scheduler's process says so
        facts = read_facts(
            self._vllm_config,
            scheduler=False,
            kv_cache_config=self._kv_cache_config,
            facade=self._facade,
        )
        if facts.refused:
            return
        settings = in_bytes(settings, facts, self._kv_cache_config)
        namespace = prepare_worker(self._vllm_config, settings)
        self._settings, self._facts = settings, facts
        self._link = Link(
            settings,
            lambda: hello_of(facts, namespace),
            on_attach=self._registration.again,
            held_up="vLLM's start",
        )
        self._link.start()

    def register(self, kv_caches: Mapping[str, Any]) -> WorkerSide | None:
        """Describes the KV tensors and proves their layout; ``None`` = nothing is served."""
        link, settings, facts = self._link, self._settings, self._facts
        if link is None or facts is None:
            return None
        try:
            fences = self._registered(kv_caches, link, settings, facts)
        except MemoryInUseError:
            raise
        except FlexKVError as error:
            # What the memory is cannot be served: the user's to change, if anybody's.
            logger.warning("FlexKV serves nothing to this rank: %s", error)
            fences = None
        if fences is None:
            link.close()
            return None
        return WorkerSide(
            link,
            fences,
            WorkerLimits(settings.load_deadline_ms, settings.drain_timeout_ms),
            revoke_words=REVOKE_WORDS,
        )

    def _registered(
        self, kv_caches: Mapping[str, Any], link: Link, settings: Settings, facts: EngineFacts
    ) -> Fences | None:
        """The fences of memory that a sidecar has or may get; ``None`` where none ever will.

        Raises ``LayoutError``, ``HandleError`` or ``CudaError`` where the memory is of a kind that
        cannot be served.
        """
        config = self._kv_cache_config
        layout = derive_layout(
            kv_caches,
            num_blocks=facts.num_blocks,
            block_tokens=facts.block_tokens,
            layer_order=config.kv_cache_groups[0].layer_names if config is not None else (),
            page_bytes=page_sizes(config),
            layout_name=str(getattr(config, "kv_cache_layout", None) or ""),
        )
        on_cuda = layout.storages[0].tensor.device.type == "cuda"
        fences: Fences = cuda_fences() if on_cuda else NoFences()
        served = self._registration.first(
            layout,
            fences,
            link,
            settings.start_timeout_s,
            same_on_all_ranks=facts.same_on_all_ranks,
        )
        return fences if served else None

    def close(self) -> None:
        """Ends the session."""
        if self._link is not None:
            self._link.close()
