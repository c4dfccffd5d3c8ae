"""One failed synchronous load, step by step on vLLM's own asynchronous scheduler, without a model.

Runs inside an engine's process, which has vLLM imported; the assertions are in the test.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine import Engine
from harness.model import write_model

BLOCK_TOKENS = 16
PROMPT_TOKENS = 70
WRONG, COMPUTED_ON_IT = 666, 667


@dataclass(frozen=True, slots=True)
class Seen:
    """What the scheduler did with a request whose load failed while its next step was launched."""

    first_tokens: dict[str, int]
    after_failure: list[int]
    computed_after_failure: int
    after_second: list[int]
    third_tokens: int


def run(_engine: Engine, folder: Path) -> Seen:
    """Four blocks are promised in the same step, do not arrive, and the next step is launched."""
    sys.modules["promising_connector"] = _connector_module()
    scheduler, request = _scheduler_and_request(folder)
    first = scheduler.schedule()
    second = scheduler.schedule()  # launched before the first one's output is taken
    loaded = set(scheduler.kv_cache_manager.get_block_ids("r")[0][:4])
    scheduler.update_from_output(first, _output_of(first, WRONG, loaded))
    after_failure = list(request.output_token_ids)
    computed = request.num_computed_tokens
    third = scheduler.schedule()
    scheduler.update_from_output(second, _output_of(second, COMPUTED_ON_IT, set()))
    return Seen(
        dict(first.num_scheduled_tokens),
        after_failure,
        computed,
        list(request.output_token_ids),
        third.num_scheduled_tokens["r"],
    )


def _connector_module() -> types.ModuleType:
    """A connector that promises four blocks in the same step, once a request."""
    from vllm.distributed.kv_transfer.kv_connector.v1 import base

    class Promising(base.KVConnectorBase_V1):
        asked = False

        def get_num_new_matched_tokens(
            self,
            request: Any,
            num_computed_tokens: int,
        ) -> tuple[int, bool]:
            first, self.asked = not self.asked, True
            return (4 * BLOCK_TOKENS if first else 0), False

        def build_connector_meta(self, scheduler_output: Any) -> Any:
            return base.KVConnectorMetadata()

        def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
            return False, None

        def update_state_after_alloc(self, *_: Any) -> None: ...

        def start_load_kv(self, *_: Any, **__: Any) -> None: ...

        def wait_for_layer_load(self, layer_name: str) -> None: ...

        def save_kv_layer(self, *_: Any, **__: Any) -> None: ...

        def wait_for_save(self) -> None: ...

    module = types.ModuleType("promising_connector")
    module.Promising = Promising  # type: ignore[attr-defined]
    return module


def _scheduler_and_request(folder: Path) -> tuple[Any, Any]:
    """vLLM's asynchronous scheduler over 50 blocks, and one request of 70 tokens."""
    import torch
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.hashing import sha256
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager

    config = EngineArgs(
        model=str(write_model(folder)),
        skip_tokenizer_init=True,
        max_model_len=512,
        enforce_eager=True,
        block_size=BLOCK_TOKENS,
        max_num_batched_tokens=512,
        kv_transfer_config={
            "kv_connector": "Promising",
            "kv_connector_module_path": "promising_connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
        },
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = 50
    spec = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=16, dtype=torch.float32
    )
    scheduler = AsyncScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(50, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
    )
    kv_cache_utils.init_none_hash(sha256)
    request = Request(
        request_id="r",
        prompt_token_ids=list(range(100, 100 + PROMPT_TOKENS)),
        sampling_params=SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True),
        pooling_params=None,
        block_hasher=kv_cache_utils.get_request_block_hasher(BLOCK_TOKENS, sha256),
    )
    scheduler.add_request(request)
    return scheduler, request


def _output_of(step: Any, token: int, invalid: set[int]) -> Any:
    """What the workers answer: one token a request, and the blocks that did not arrive."""
    from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

    names = list(step.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: index for index, name in enumerate(names)},
        sampled_token_ids=[[token] for _ in names],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
        kv_connector_output=KVConnectorOutput(invalid_block_ids=invalid),
    )
