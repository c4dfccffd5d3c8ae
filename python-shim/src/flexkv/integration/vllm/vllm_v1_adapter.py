"""``FlexKVConnectorV1Impl``: what vLLM's own ``FlexKVConnectorV1`` wraps.

That wrapper hands on neither ``handle_preemptions``, ``on_new_request``, ``reset_cache`` nor the
newer hooks, and it keeps a step's metadata to itself.  So here lookups start when the scheduler
asks, fences are recorded in ``start_load_kv``, and a reset of vLLM's cache reaches neither FlexKV
nor its KV events.
The plugin puts ``flexkv.connector`` in the wrapper's place, where none of this applies.
"""

from __future__ import annotations

from typing import Any

from flexkv.engine import wrappers_kv_cache_config
from flexkv.forwarding import HookForwarding, step_of
from flexkv.metadata import StepMetadata
from flexkv.wiring import scheduler_hooks, worker_hooks


class FlexKVConnectorV1Impl(HookForwarding):
    """Constructed as ``(vllm_config, role)`` in the wrapper's constructor.

    The wrapper keeps ``kv_cache_config``, which is read there: without it nothing is served.
    """

    def __init__(self, vllm_config: Any, role: Any) -> None:
        kv_cache_config = wrappers_kv_cache_config()
        if getattr(role, "name", str(role)) == "SCHEDULER":
            self._scheduler = scheduler_hooks(vllm_config, kv_cache_config, facade=True)
        else:
            self._worker = worker_hooks(vllm_config, kv_cache_config, facade=True)

    def bound_step(self) -> StepMetadata | None:
        """The step's metadata, which only the wrapper around us holds."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        group = get_kv_transfer_group()
        for wrapper in (group, *getattr(group, "_connectors", ())):
            if getattr(wrapper, "_flexkv_connector", None) is self:
                return step_of(getattr(wrapper, "_connector_metadata", None))
        return None
