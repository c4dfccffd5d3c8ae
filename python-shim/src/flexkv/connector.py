"""``FlexKVConnectorV1``, the class that vLLM loads: a façade over ``hooks`` and ``wiring``.

Use it by ``--kv-transfer-config '{"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both",
"kv_connector_module_path": "flexkv.connector"}'``, or by name alone where FlexKV's plugin is
installed.  Every hook is total: no exception of ours reaches vLLM.

Hooks that a version of vLLM does not know are never called by it; what else differs between
versions is in ``vllm_api``.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole

from flexkv.early import begin
from flexkv.forwarding import HookForwarding, step_of
from flexkv.metadata import StepMetadata
from flexkv.vllm_api import HybridBase, base_arguments, lacking, quirks
from flexkv.wiring import scheduler_hooks, worker_hooks


class FlexKVConnectorV1(HookForwarding, KVConnectorBase_V1, HybridBase):
    """One instance in the scheduler's process, one in each worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config=vllm_config, role=role, **base_arguments(kv_cache_config))
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = scheduler_hooks(
                vllm_config,
                kv_cache_config,
                lacking=lacking(),
                quirks=quirks(),
            )
        else:
            self._worker = worker_hooks(vllm_config, kv_cache_config, lacking=lacking())

    @property
    def requires_kv_delivery(self) -> bool:
        """False: a dropped save is a later miss, and no reason to recompute a preempted request."""
        return False

    @property
    def prefer_cross_layer_blocks(self) -> bool:
        """False: layouts are taken as vLLM makes them (read by versions before 0.32).

        Why: docs/decisions/no-cross-layer-blocks.md.
        """
        return False

    def bound_step(self) -> StepMetadata | None:
        return step_of(self._connector_metadata)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """False; and the first that vLLM tells us: from here on the sidecar may come up."""
        begin(extra_config)
        return False

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> None:  # noqa: ARG003
        return None

    @classmethod
    def build_prom_metrics(cls, *args: Any, **kwargs: Any) -> None:  # noqa: ARG003
        return None
