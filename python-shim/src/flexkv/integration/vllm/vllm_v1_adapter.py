"""``FlexKVConnectorV1Impl``: what vLLM's own ``FlexKVConnectorV1`` wraps.

That wrapper hands on neither ``handle_preemptions``, ``on_new_request``, ``reset_cache`` nor the
newer hooks, and it keeps a step's metadata to itself.  So here lookups start when the scheduler
asks, fences are recorded in ``start_load_kv``, and a reset of vLLM's cache does not reach FlexKV.
The plugin puts ``flexkv.connector`` in the wrapper's place, where none of this applies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flexkv.connector import FlexKVConnectorMetadata, step_of
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.metadata import StepMetadata
from flexkv.wiring import scheduler_hooks, worker_hooks


class FlexKVConnectorV1Impl:
    """Constructed as ``(vllm_config, role)``; the wrapper keeps ``kv_cache_config``."""

    def __init__(self, vllm_config: Any, role: Any) -> None:
        self._scheduler: SchedulerHooks | None = None
        self._worker: WorkerHooks | None = None
        if getattr(role, "name", str(role)) == "SCHEDULER":
            self._scheduler = scheduler_hooks(vllm_config, None, facade=True)
        else:
            self._worker = worker_hooks(vllm_config, None, facade=True)

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.shutdown()

    def get_kv_connector_stats(self) -> None:
        return None

    # ------------------------------------------------------------------ scheduler
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        return self._scheduler.get_num_new_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.update_state_after_alloc(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> FlexKVConnectorMetadata:
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
        if self._scheduler is not None:
            self._scheduler.request_finished(request)
        return False, None

    def take_events(self) -> Iterable[Any]:
        return ()

    # ------------------------------------------------------------------ worker
    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._worker is not None:
            self._worker.register_kv_caches(kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._worker is not None:
            self._worker.begin_step("start_load_kv", self._bound_metadata())

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
        if self._worker is None:
            return None, None
        return None, self._worker.get_finished() or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self._worker is None else self._worker.get_block_ids_with_load_errors()

    def _bound_metadata(self) -> StepMetadata | None:
        """The step's metadata, which only the wrapper around us holds."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        group = get_kv_transfer_group()
        for wrapper in (group, *getattr(group, "_connectors", ())):
            if getattr(wrapper, "_flexkv_connector", None) is self:
                return step_of(getattr(wrapper, "_connector_metadata", None))
        return None
