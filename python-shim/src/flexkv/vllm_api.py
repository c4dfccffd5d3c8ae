"""What the vLLM that loads us has and what it lacks: the one place where versions differ.

Everything is asked by looking, not by number: builds from source carry odd ones.  Which release
has what is recorded in ``tests/versions/contract.json`` and shown in ``docs/versions.md``.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1 import base

from flexkv.older_vllm import Quirks

HybridBase: type[Any] = getattr(base, "SupportsHMA", type("NoHybridAllocator", (), {}))
"""vLLM's mark of connectors that leave the hybrid memory allocator on (from 0.11.1 on)."""


def base_arguments(kv_cache_config: Any) -> dict[str, Any]:
    """What the base class takes besides configuration and role (from 0.11.1 on)."""
    parameters = inspect.signature(base.KVConnectorBase_V1.__init__).parameters
    return {"kv_cache_config": kv_cache_config} if "kv_cache_config" in parameters else {}


def lacking() -> str:
    """Empty, or one sentence: why nothing can be served to this vLLM.

    Without a word for a load that failed, what did not arrive would be read as if it had.
    """
    if hasattr(base.KVConnectorBase_V1, "get_block_ids_with_load_errors"):
        return ""
    version = getattr(importlib.import_module("vllm"), "__version__", "of unknown version")
    return (
        f"vLLM {version} cannot hear of a load that failed (no get_block_ids_with_load_errors), so "
        "blocks that did not arrive would be read as if they had. vLLM runs on without FlexKV. "
        "Remedy: vLLM 0.11.1 or newer"
    )


def quirks() -> Quirks:
    """What this vLLM leaves to the connector.

    Asked in the scheduler's process only, which has vLLM's scheduler loaded.  Two signs each, a
    hook that came later and the thing itself, so that a rename of something private does not look
    like an old version.
    """
    hooks = base.KVConnectorBase_V1
    frees = admits = False
    if lacking():
        return Quirks()
    # Of these the other sign is the tables themselves, each time; or it costs but a few loads.
    before_0_14 = not hasattr(hooks, "handle_preemptions")
    if not hasattr(hooks, "build_connector_worker_meta"):  # 0.18
        scheduler = importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler
        frees = not _takes(scheduler, "_free_request", "delay_free_blocks")
    if not hasattr(hooks, "set_xfer_handshake_metadata_pp_aware"):  # 0.23
        manager = importlib.import_module("vllm.v1.core.kv_cache_manager").KVCacheManager
        admits = not _takes(manager, "allocate_slots", "reserved_blocks")
    return Quirks(frees, admits, before_0_14, before_0_14)


def _takes(owner: type[Any], method: str, parameter: str) -> bool:
    function = getattr(owner, method, None)
    return function is not None and parameter in inspect.signature(function).parameters
