"""``KVManager``: the cache by token ids, for engines that drive it themselves.

The names, arguments and meaning are those of the original FlexKV.  What differs, and why:

* The sidecar moves blocks between the memory that each rank lent it (``KVTPClient``) and its tiers.
  It knows nothing of streams: *the KV of a put must be complete in memory when it is launched, and
  the blocks of a get must not be in use*.  On a GPU, synchronise the stream that writes them.
* A put *holds its blocks* until ``wait`` says that it has ended: do not write them before.
* A get whose mask promised tokens may still fail (a reset, a sidecar that died): ``wait`` then says
  ``FAILED``, and ``return_mask`` has the tokens that did arrive; the others must be computed.
* ``shutdown`` ends this client only.  The sidecar serves the others, and ends itself when nobody
  has used it for ``FLEXKV_IDLE_EXIT_S``.

Every wait is bounded, and without a sidecar every match is empty and every put fails: the caller
computes.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flexkv.addresses import manager_ports, publish_register_port, withdraw_register_port
from flexkv.client import Link
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.request import KVResponse, KVResponseStatus
from flexkv.config import Settings
from flexkv.kvtask import Task, TaskStatus, TaskTable, TaskType
from flexkv.log import setup_logging
from flexkv.matching import Matcher
from flexkv.namespaces import namespace_digest
from flexkv.owed_reset import OwedReset
from flexkv.protocol import (
    ROLE_SCHEDULER,
    Hello,
    JobDone,
    LookupAnswer,
    ResetAnswer,
    SaveDone,
)
from flexkv.session import Session
from flexkv.slots import MAX_BLOCK_ID, masked_blocks, slot_blocks
from flexkv.tokens import ChainHasher, int64_array
from flexkv.tracing import Tracer, described, effective
from flexkv.transfers import Transfers

if TYPE_CHECKING:
    from flexkv.common.request import Mask

__all__ = ["KVManager", "KVResponse", "KVResponseStatus"]

logger = logging.getLogger(__name__)

RESET_WAIT_S = 5.0
LAUNCH_WAIT_S = 1.0
"""How long a launch waits for room in the ring to the sidecar."""

_FIRST_IDS = 10_000_000
_POLL_MIN_S = 20e-6
_POLL_MAX_S = 1e-3
_POLLS_A_WAIT = 256

_F = TypeVar("_F", bound=Callable[..., Any])


def _locked(method: _F) -> _F:
    @functools.wraps(method)
    def run(self: KVManager, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


class KVManager:
    """One client of a sidecar: matches prefixes of token ids, gets and puts their KV.

    Any thread may call any method; calls take turns, and none but ``wait`` and ``reset`` takes
    longer than a second.  Token ids are whole numbers, 1-D: a numpy array, a torch tensor (one on a
    GPU is copied) or a list.  Only full blocks of ``cache_config.tokens_per_block`` tokens count.
    ``namespace`` (LoRA name, cache salt, …) keeps equal tokens apart.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        cache_config: CacheConfig,
        dp_client_id: int = 0,
        server_recv_port: str = "",
        gpu_register_port: str = "",
        event_collector: Any = None,
    ) -> None:
        """Reads the settings; connects to nothing.  Raises ``ConfigError`` or ``ValueError``."""
        self.model_config = model_config
        self.cache_config = cache_config
        self.dp_client_id = dp_client_id
        if model_config.nnodes > 1:
            raise ValueError(
                f"nnodes is {model_config.nnodes}: ranks must live on the sidecar's host, so run a "
                "KVManager on each"
            )
        block_bytes = model_config.token_size_in_bytes * cache_config.tokens_per_block
        extra = dict(cache_config.sidecar_options(block_bytes))
        if server_recv_port:
            extra["server_recv_port"] = server_recv_port
        self._settings = Settings.load(extra)
        setup_logging(self._settings.log_level, self._settings.logging_prefix)
        self.server_recv_port = self._settings.server_recv_port
        self.gpu_register_port, instance = manager_ports(
            self.server_recv_port, gpu_register_port, dp_client_id
        )
        hello = Hello(
            role=ROLE_SCHEDULER,
            pid=0,
            instance=instance,
            world_size=model_config.ranks,
            namespace=namespace_digest(
                model_config, cache_config.tokens_per_block, self._settings.weights_version
            ),
            block_tokens=cache_config.tokens_per_block,
        )
        self._lock = threading.RLock()
        self._link = Link(self._settings, lambda: hello, generation_entries=MAX_BLOCK_ID)
        self._tasks = TaskTable((dp_client_id + 1) * _FIRST_IDS)
        self._matcher = Matcher(ChainHasher(cache_config.tokens_per_block))
        self._transfers = Transfers(
            self._link.generations,
            model_config.ranks,
            self._settings.load_deadline_ms / 1000,
            self._settings.drain_timeout_ms / 1000,
        )
        self._reset = OwedReset(self._matcher.next_query)
        self._said: set[str] = set()
        self._explain(event_collector)
        self._tracer = Tracer.of(self._settings, dp_client_id)
        if self._tracer is not None:
            config = {
                "model_config": described(model_config), "cache_config": described(cache_config),
                "global_config": effective(self._settings),
            }  # fmt: skip
            self._tracer.event("config", config)

    def _explain(self, event_collector: Any) -> None:
        """One line for everything that was asked for and has another shape here."""
        for name, what in self.cache_config.replaced().items():
            logger.info("CacheConfig.%s has no effect here: %s", name, what)
        for warning, text in self._settings.notes:
            logger.log(logging.WARNING if warning else logging.INFO, "%s", text)
        if event_collector is not None:
            logger.warning("event_collector is not used: vLLM's connector reports KV events")

    # ------------------------------------------------------------------ life
    def start(self) -> None:
        """Connects in the background, starting a sidecar where none serves; returns at once."""
        publish_register_port(self.gpu_register_port, self.server_recv_port)
        self._link.start()

    @_locked
    def is_ready(self) -> bool:
        """Whether a sidecar serves and every rank has registered its memory; ≤ 1 s."""
        session = self._present()
        return session is not None and self._matcher.is_ready(session)

    def shutdown(self) -> None:
        """Ends this client: the sidecar frees what it held.  Tasks that run end as failed.

        Gets that run are taken back first, while the sidecar can still say when no copy of theirs
        writes any more; bounded by ``FLEXKV_DRAIN_TIMEOUT_MS``.
        """
        self._take_gets_back()
        self._link.close()
        withdraw_register_port(self.gpu_register_port, self.server_recv_port)
        if self._tracer is not None:
            self._tracer.close()
        logger.info("KVManager %d is shut down", self.dp_client_id)

    @_locked
    def _take_gets_back(self) -> None:
        deadline = time.monotonic() + self._settings.drain_timeout_ms / 1000
        self._transfers.take_loads_back()
        while self._transfers.loads_open and time.monotonic() < deadline:
            self._advance()
            time.sleep(_POLL_MIN_S)

    @_locked
    def reset(self) -> None:
        """Forgets everything that was cached for this model; matched and running gets fail.

        From this call on nothing put before is matched, whatever the sidecar does.  Waits up to
        5 s for the sidecar; if it cannot be reached the reset is made up for when it can, and until
        then every match is empty.  So it is, too, where no disk of the SSD tier takes the reset.
        """
        self._reset.owe()
        deadline = time.monotonic() + RESET_WAIT_S
        for task in self._tasks.open_tasks:
            if task.status is TaskStatus.UNREADY and not task.parts:
                self._drop(task, TaskStatus.FAILED)
        while self._reset.owed and self._link.session() and time.monotonic() < deadline:
            self._present()
            time.sleep(_POLL_MIN_S)

    def _clear_cpu_cache(self) -> None:
        """The original's test hook: the same as ``reset``."""
        self.reset()

    # ------------------------------------------------------------------ match
    @_locked
    def get_match(
        self,
        token_ids: Any,
        token_mask: Any = None,
        cpu_only: bool = False,
        namespace: Sequence[str] | None = None,
        swa_aware: bool = False,  # noqa: ARG002
    ) -> tuple[int, Mask]:
        """Finds how much of a prefix is cached; returns a task and what it would load.

        ``token_mask`` (bool, shape ``(len(token_ids),)``) is False for leading tokens whose KV the
        GPU has, in whole blocks.  The returned mask has that shape and is True for the tokens that
        ``launch`` will load, one run from the first unmasked one on.  They are kept for it until
        ``launch`` or ``cancel``, one of which must follow (unless the mask is empty), at most
        ``FLEXKV_LEASE_TTL_S`` seconds.  With ``cpu_only`` only what lies in the host tier counts;
        ``swa_aware`` changes nothing.
        """
        task = self._match(TaskType.GET, token_ids, token_mask, namespace, cpu_only=cpu_only)
        return task.task_id, task.wanted_mask

    @_locked
    def put_match(
        self,
        token_ids: Any,
        token_mask: Any = None,
        namespace: Sequence[str] | None = None,
    ) -> tuple[int, Mask]:
        """Finds how much of a prefix is not cached yet; returns a task and what it would save.

        The mask is True for the tokens whose KV ``launch`` will save: full blocks behind those that
        are cached or on their way in.  ``token_mask`` must begin with True.  ``launch`` or
        ``cancel`` must follow, unless the mask is empty.
        """
        task = self._match(TaskType.PUT, token_ids, token_mask, namespace)
        return task.task_id, task.wanted_mask

    def _match(
        self,
        kind: TaskType,
        token_ids: Any,
        token_mask: Any,
        namespace: Sequence[str] | None,
        *,
        cpu_only: bool = False,
        eager: bool = False,
    ) -> Task:
        tokens = int64_array(token_ids, "token_ids")
        block_tokens = self.cache_config.tokens_per_block
        first, end = masked_blocks(token_mask, len(tokens), block_tokens)
        if kind is TaskType.PUT and first > 0:
            raise ValueError(
                f"token_mask of a put begins at token {first * block_tokens}, must begin at token "
                "0: the sidecar skips by itself what is cached"
            )
        session = self._present()
        self._make_room()
        task = Task(self._tasks.new_id(), kind, len(tokens), block_tokens, session)
        if session is None or end <= first or self._tasks.is_full:
            lost = kind is TaskType.PUT and end > first
            task.end(TaskStatus.FAILED if lost else TaskStatus.COMPLETED, 0)
        else:
            asked = tokens[: end * block_tokens]
            if kind is TaskType.PREFETCH:
                self._matcher.prefetch(task, asked, end, namespace)
            else:
                self._matcher.match(
                    task, asked, first, end, namespace, cpu_only=cpu_only, eager=eager
                )
        self._tasks.add(task)
        if self._tracer is not None:
            self._trace_request(self._tracer, task, tokens, token_mask, namespace)
        return task

    def _trace_request(
        self, tracer: Tracer, task: Task, tokens: Any, token_mask: Any, namespace: Any
    ) -> None:
        request = {
            "request_type": task.kind.name.lower(), "request_id": task.task_id,
            "token_ids": tokens.copy(),  # its owner may write over it
            "token_mask": None if token_mask is None else list(map(bool, token_mask)),
            "namespace": namespace, "dp_client_id": self.dp_client_id,
            "first_block": task.first, "blocks": task.blocks,
        }  # fmt: skip
        tracer.event("request", request)

    def _make_room(self) -> None:
        oldest = self._tasks.oldest_unlaunched()
        if oldest is not None:
            self._say_once(
                "full", "KVManager has too many matched tasks: the oldest are cancelled; launch or "
                "cancel what was matched",
            )  # fmt: skip
            self._drop(oldest, TaskStatus.CANCELLED)

    # ------------------------------------------------------------------ launch
    @_locked
    def get_async(
        self,
        token_ids: Any,
        slot_mapping: Any,
        token_mask: Any = None,
        namespace: Sequence[str] | None = None,
    ) -> int:
        """``get_match`` and ``launch`` in one; returns the task.

        ``slot_mapping`` (int64) has a slot for each token that ``token_mask`` asks for; only those
        of tokens that are cached are written.
        """
        ids = slot_blocks(slot_mapping, self.cache_config.tokens_per_block)
        task = self._match(TaskType.GET, token_ids, token_mask, namespace)
        self._launch([(task, ids)])
        return task.task_id

    @_locked
    def put_async(
        self,
        token_ids: Any,
        slot_mapping: Any,
        token_mask: Any = None,
        namespace: Sequence[str] | None = None,
    ) -> int:
        """``put_match`` and ``launch`` in one; returns the task.

        ``slot_mapping`` (int64) has a slot for each token that ``token_mask`` asks for; those of
        tokens that are cached already are passed over.  The blocks are held until ``wait``.
        """
        ids = slot_blocks(slot_mapping, self.cache_config.tokens_per_block)
        task = self._match(TaskType.PUT, token_ids, token_mask, namespace, eager=True)
        self._launch([(task, ids)])
        return task.task_id

    @_locked
    def prefetch_async(
        self,
        token_ids: Any,
        namespace: Sequence[str] | None = None,
        swa_aware: bool = False,  # noqa: ARG002
    ) -> int:
        """Brings what is cached of a prefix into the host tier; returns the task.

        The tokens that are there in the end are True in its ``return_mask``.
        """
        task = self._match(TaskType.PREFETCH, token_ids, None, namespace)
        return task.task_id

    @_locked
    def launch(
        self,
        task_ids: int | Sequence[int],
        slot_mappings: Any,
        swa_slot_mappings: Any = None,
        as_batch: bool = False,
        layerwise_transfer: bool = False,
        counter_id: int = 0,  # noqa: ARG002
    ) -> list[int]:
        """Starts matched tasks; returns the ids to wait for.

        ``slot_mappings`` has a slot mapping (int64, a slot a token) for each task, for the tokens
        that are True in its mask.  One for all tokens that the match was asked for is taken too.
        With ``as_batch`` the tasks, all gets or all puts, become one with a new id; theirs are not
        known any more.  A task that had nothing to move has ended already and stays so.  Whole
        blocks are moved at once: ``layerwise_transfer`` and ``counter_id`` change nothing.

        Raises ``ValueError``, and starts nothing, for a task that is not matched or a slot mapping
        that does not fit.
        """
        ids = [task_ids] if isinstance(task_ids, int) else list(task_ids)
        mappings = slot_mappings if isinstance(slot_mappings, (list, tuple)) else [slot_mappings]
        if isinstance(task_ids, int) and len(mappings) != 1:
            mappings = [slot_mappings]  # one mapping, as a plain list of slots
        if len(set(ids)) != len(ids):
            raise ValueError("a task is named twice: each is launched once")
        if len(ids) != len(mappings):
            raise ValueError(f"{len(ids)} tasks and {len(mappings)} slot mappings")
        if swa_slot_mappings is not None:
            self._say_once("swa", "swa_slot_mappings are not used: one KV group is served")
        if layerwise_transfer:
            self._say_once("layers", "layerwise_transfer is not used: blocks are moved whole")
        block_tokens = self.cache_config.tokens_per_block
        work = [
            (self._launchable(task_id), slot_blocks(mapping, block_tokens))
            for task_id, mapping in zip(ids, mappings, strict=True)
        ]
        kinds = {task.kind for task, _ in work}
        if as_batch and (not work or len(kinds) > 1):
            raise ValueError("a batch has at least one task, all of them gets or all of them puts")
        self._launch(work)
        if not as_batch:
            return ids
        kind = TaskType.BATCH_GET if kinds == {TaskType.GET} else TaskType.BATCH_PUT
        batch = self._tasks.merge([task for task, _ in work], kind)
        self._tasks.settle(batch)
        if self._tracer is not None:
            self._tracer.event("batch", {"task_ids": ids, "batch_id": batch.task_id})
        return [batch.task_id]

    def _launchable(self, task_id: int) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            raise ValueError(f"task {task_id} is not known; match it first")
        if not task.ended and (task.status is not TaskStatus.UNREADY or task.parts):
            raise ValueError(f"task {task_id} is {task.status.value}, must be matched only")
        return task

    def _launch(self, work: list[tuple[Task, list[int]]]) -> None:
        chosen = [(task, task.fitting(ids)) for task, ids in work if not task.ended]
        if self._tracer is not None and chosen:
            launched = {
                "task_ids": [task.task_id for task, _ in chosen],
                "block_ids": [list(ids) for _, ids in chosen],
            }
            self._tracer.event("launch_tasks", launched)
        present = self._present()
        deadline = time.monotonic() + LAUNCH_WAIT_S
        for task, ids in chosen:
            if task.session is not present or present is None or self._reset.owed:
                task.end(TaskStatus.FAILED, 0)  # another life of the sidecar knows nothing of it
            else:
                self._hand_over(task, ids, deadline)
            self._tasks.settle(task)

    def _hand_over(self, task: Task, ids: list[int], deadline: float) -> None:
        def room() -> bool:
            session = task.session
            if session is None or not session.alive() or time.monotonic() > deadline:
                return False
            self._advance()
            time.sleep(_POLL_MIN_S)
            return True

        if self._transfers.launch(task, ids, room) < task.blocks:
            self._release(task)

    @_locked
    def cancel(self, task_ids: int | Sequence[int]) -> None:
        """Gives matched tasks up: what was kept for them is free again.

        One that is launched runs on, with a warning; one that has ended stays as it is.
        """
        for task_id in [task_ids] if isinstance(task_ids, int) else task_ids:
            task = self._tasks.get(task_id)
            if task is None or task.ended:
                continue
            if task.status is TaskStatus.RUNNING or task.parts:
                logger.warning("Task %d is running and cannot be cancelled", task_id)
            else:
                self._drop(task, TaskStatus.CANCELLED)

    # ------------------------------------------------------------------ wait
    def wait(
        self,
        task_ids: int | Sequence[int],
        timeout: float = 20.0,
        completely: bool = False,  # noqa: ARG002
    ) -> dict[int, KVResponse]:
        """Waits until the tasks have ended, at most ``timeout`` seconds for all of them.

        Every id has an answer: one that is not known ``NOTFOUND``, one that is not launched
        ``UNREADY``, both at once; one that still runs ``TIMEOUT``, and it runs on.  ``completely``
        changes nothing: a task has ended only when the sidecar has all of it.
        """
        ids = [task_ids] if isinstance(task_ids, int) else list(task_ids)
        began = time.monotonic()
        while True:
            found, running = self._answers(ids)
            waited = time.monotonic() - began
            if running and waited >= timeout:
                late = KVResponseStatus.TIMEOUT
                found |= {task_id: KVResponse(late, task_id, None) for task_id in running}
                running = []
            if not running:
                self._trace_wait("wait", found, timeout)
                return found
            # An end is seen late by half a hundredth of what it took at most.
            pause = min(max(waited / _POLLS_A_WAIT, _POLL_MIN_S), _POLL_MAX_S)
            time.sleep(min(pause, timeout - waited))

    def try_wait(self, task_ids: int | Sequence[int]) -> dict[int, KVResponse]:
        """As ``wait`` without waiting: tasks that still run have no entry."""
        found, _ = self._answers([task_ids] if isinstance(task_ids, int) else list(task_ids))
        self._trace_wait("try_wait", found, 0.0)
        return found

    def _trace_wait(self, kind: str, found: dict[int, KVResponse], timeout: float) -> None:
        if self._tracer is not None and found:
            status = {task_id: answer.status.value for task_id, answer in found.items()}
            waited = {"wait_type": kind, "task_ids": list(found), "timeout": timeout}
            self._tracer.event("wait", {**waited, "status": status})

    @_locked
    def _answers(self, ids: list[int]) -> tuple[dict[int, KVResponse], list[int]]:
        self._advance()
        found: dict[int, KVResponse] = {}
        running: list[int] = []
        for task_id in ids:
            task = self._tasks.get(task_id)
            if task is None:
                found[task_id] = KVResponse(KVResponseStatus.NOTFOUND, task_id, None)
            elif task.ended:
                self._tasks.settle(task)
                found[task_id] = task.response()
            elif task.status is TaskStatus.UNREADY and not task.parts:
                found[task_id] = KVResponse(KVResponseStatus.UNREADY, task_id, None)
            else:
                running.append(task_id)
        return found, running

    # ------------------------------------------------------------------ the sidecar
    def _present(self) -> Session | None:
        """The session, heard out, with a reset that is owed sent and confirmed; else ``None``."""
        self._advance()
        session = self._link.session()
        if session is None or not session.alive():
            return None
        self._matcher.attach(session)
        if self._reset.owed:
            self._reset.ask(session)
            return None
        return session

    def _advance(self) -> None:
        sessions = self._transfers.sessions()
        present = self._link.session()
        if present is not None and present not in sessions:
            sessions.append(present)
        for session in sessions:
            for record in session.poll():
                self._dispatch(session, record)
        for task in (*self._transfers.advance(present), *self._matcher.advance()):
            self._tasks.settle(task)

    def _dispatch(self, session: Session, record: Any) -> None:
        self._matcher.heard()
        task: Task | None = None
        if isinstance(record, JobDone):
            task = self._transfers.job_done(session, record)
        elif isinstance(record, SaveDone):
            task = self._transfers.save_done(session, record)
        elif isinstance(record, ResetAnswer):
            self._reset_answered(record)
        elif isinstance(record, LookupAnswer):
            self._matcher.answered(record)
        if task is not None:
            self._tasks.settle(task)

    def _reset_answered(self, answer: ResetAnswer) -> None:
        """A sidecar whose SSD tier did not take the reset would serve what was put before again."""
        if not self._reset.heard(answer):
            self._say_once(
                f"reset {answer.query_id}", "The sidecar cannot make a reset durable on its SSD "
                "tier: nothing is matched until another one serves. Its log says what is wrong",
            )  # fmt: skip

    def _drop(self, task: Task, status: TaskStatus) -> None:
        """Ends a task that was matched and not launched."""
        self._release(task)
        task.end(status, 0)
        self._tasks.settle(task)

    def _release(self, task: Task) -> None:
        if task.session is not None:
            self._matcher.end_request(task.session, task.request)

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            logger.warning("%s", text)
