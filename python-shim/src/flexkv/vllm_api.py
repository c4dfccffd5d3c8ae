"""What the vLLM that loads us has and what it lacks: the one place where versions differ.

Everything is asked by looking, not by number: builds from source carry odd ones.  Which release
has what is recorded in ``tests/versions/contract.json`` and shown in ``docs/versions.md``.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1 import base

HybridBase: type[Any] = getattr(base, "SupportsHMA", type("NoHybridAllocator", (), {}))
"""vLLM's mark of connectors that leave the hybrid memory allocator on (from 0.11.1 on)."""


@dataclass(frozen=True, slots=True)
class VllmApi:
    """One vLLM, as far as it matters to a connector.

    ``frees_open_loads``: before 0.16, see ``early_free``.
    ``lacking``: empty, or one sentence: why nothing can be served to this vLLM.
    """

    takes_cache_config: bool
    frees_open_loads: bool
    lacking: str


def look() -> VllmApi:
    """The vLLM of this process."""
    hooks = base.KVConnectorBase_V1
    return VllmApi(
        takes_cache_config="kv_cache_config" in inspect.signature(hooks.__init__).parameters,
        frees_open_loads=_frees_open_loads(hooks),
        lacking=_lacking(hooks),
    )


def _lacking(hooks: type[Any]) -> str:
    """Without a word for a load that failed, what did not arrive would be read as if it had."""
    if hasattr(hooks, "get_block_ids_with_load_errors"):
        return ""
    version = getattr(importlib.import_module("vllm"), "__version__", "of unknown version")
    return (
        f"vLLM {version} cannot hear of a load that failed (no get_block_ids_with_load_errors), so "
        "blocks that did not arrive would be read as if they had. vLLM runs on without FlexKV. "
        "Remedy: vLLM 0.11.1 or newer"
    )


def _frees_open_loads(hooks: type[Any]) -> bool:
    """Whether an abort frees the blocks that a load still writes.

    Two signs, so that a later rename of vLLM's private method does not look like an old version.
    """
    if hasattr(hooks, "build_connector_worker_meta"):  # from 0.18 on
        return False
    scheduler = importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler
    free = getattr(scheduler, "_free_request", None)
    return free is None or "delay_free_blocks" not in inspect.signature(free).parameters
