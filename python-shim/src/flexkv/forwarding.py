"""vLLM's hooks, forwarded to the role's side: what both of the classes that vLLM makes share.

``connector.FlexKVConnectorV1`` is loaded by vLLM itself; ``FlexKVConnectorV1Impl`` (in
``integration.vllm``) is wrapped by vLLM's in-tree class of that name, which hands on only some of
the hooks.  The others are here for both: a hook that nobody calls costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.metadata import StepMetadata


@dataclasses.dataclass
class FlexKVConnectorMetadata(KVConnectorMetadata):
    """One step's jobs, in the class that vLLM expects."""

    step: StepMetadata


if TYPE_CHECKING:
    _WorkerMetadata = Any
else:  # versions before 0.20 do not ask for any
    _WorkerMetadata = getattr(base, "KVConnectorWorkerMetadata", object)


class LoadsOpen(_WorkerMetadata):
    """A rank says that loads of it are open, and nothing more.

    vLLM hands an output to the scheduler side only if there is something in it, and a step without
    tokens has nothing else.
    """

    def aggregate(self, other: Any) -> LoadsOpen:  # noqa: ARG002
        return self


def step_of(metadata: Any) -> StepMetadata | None:
    """The jobs in what vLLM hands to a worker; ``None`` for anything that is not ours."""
    return metadata.step if isinstance(metadata, FlexKVConnectorMetadata) else None


class HookForwarding:
    """A connector of one role: the other role's side is ``None``, and its hooks answer neutrally.

    No logic: the sides' own guards make every hook total.
    """

    _scheduler: SchedulerHooks | None = None
    _worker: WorkerHooks | None = None

    def bound_step(self) -> StepMetadata | None:
        """The step that vLLM has bound before ``start_load_kv``."""
        raise NotImplementedError

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.shutdown()

    # ------------------------------------------------------------------ scheduler
    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._scheduler is None:
            return FlexKVConnectorMetadata(StepMetadata())
        return FlexKVConnectorMetadata(self._scheduler.build_connector_meta(scheduler_output))

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.update_connector_output(connector_output)

    def request_finished(
        self,
        request: Any,
        block_ids: list[int],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        """Never delays a free for a save: saves check afterwards what they copied.

        True only where vLLM would free blocks that a load still writes: before 0.16.
        """
        kept = self._scheduler is not None and self._scheduler.request_finished(request)
        return kept, None

    def request_finished_all_groups(
        self,
        request: Any,
        block_ids: tuple[list[int], ...],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, [])

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.bind_gpu_block_pool(gpu_block_pool)

    def take_events(self) -> Iterable[Any]:
        """KV events of our tiers: they leave in the batch of this step."""
        return () if self._scheduler is None else self._scheduler.take_events()

    def has_pending_push_work(self) -> bool:
        """True while KV events wait, which go out only when the engine steps; bounded."""
        return self._scheduler is not None and self._scheduler.has_pending_push_work()

    def reset_cache(self) -> bool | None:
        return None if self._scheduler is None else self._scheduler.reset_cache()

    # ------------------------------------------------------------------ worker
    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._worker is not None:
            self._worker.register_kv_caches(kv_caches)

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        if self._worker is not None:
            self._worker.begin_step("handle_preemptions", step_of(kv_connector_metadata))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._worker is not None:
            self._worker.begin_step("start_load_kv", self.bound_step())

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: all loads are asynchronous."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing: whole blocks are saved, by another process."""

    def wait_for_save(self) -> None:
        if self._worker is not None:
            self._worker.wait_for_save()

    def get_finished(
        self,
        finished_req_ids: set[str],  # noqa: ARG002
    ) -> tuple[set[str] | None, set[str] | None]:
        """Nothing is "sent" but what ``request_finished`` kept: no block waits for a save."""
        if self._worker is None:
            return None, None
        received = self._worker.get_finished()
        return self._worker.take_sent() or None, received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.get_block_ids_with_load_errors()

    def build_connector_worker_meta(self) -> LoadsOpen | None:
        """Keeps outputs coming to ``update_connector_output`` while a load is open."""
        return LoadsOpen() if self._worker is not None and self._worker.has_open_loads() else None

    # ------------------------------------------------------------------ statistics
    def get_kv_connector_stats(self) -> None:
        return None
