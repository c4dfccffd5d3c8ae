"""One vLLM engine inside the present process, stepped by hand; a child of `harness.zygote`."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Blocks of 32 tokens are the smallest that vLLM's CPU attention takes: many boundaries in short
#: prompts.
BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is started with.

    `kv_transfer` is the value of `--kv-transfer-config`, None for plain vLLM, `kv_events` that of
    `--kv-events-config`; `blocks` the number of blocks in the engine's own pool, block 0 included,
    which is never handed out.
    """

    model: str
    kv_transfer: Mapping[str, Any] | None = None
    kv_events: Mapping[str, Any] | None = None
    blocks: int = 600
    block_tokens: int = BLOCK_TOKENS
    max_sequences: int = 16
    batched_tokens: int = 2048
    longest_tokens: int = 2048
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request brought.

    `external_tokens` is what the connector was granted at its last allocation (0 after a failed
    load was recomputed), `cached_tokens` vLLM's count for its user, `error` true where the request
    did not end by its length.
    """

    token_ids: tuple[int, ...]
    cached_tokens: int
    external_tokens: int
    error: bool


def _takes(function: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


class Engine:
    """A vLLM engine core, scheduler and worker in this very process.

    Nothing runs between calls: a request proceeds only inside `step`, so a test can act at an exact
    point of its life.
    """

    def __init__(self, settings: EngineSettings) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.update(settings.environment)
        from vllm import LLM, __version__

        if __version__.startswith("0.18."):
            # On a CPU that release alone insists on these names here, and looks at nothing else.
            os.environ.setdefault("LD_PRELOAD", "libtcmalloc libiomp")

        arguments: dict[str, Any] = {}
        if __version__.startswith("0.20."):
            # That release alone starts a process for the only worker of a CPU, unless told a class.
            from vllm.v1.executor.uniproc_executor import UniProcExecutor

            arguments["distributed_executor_backend"] = UniProcExecutor
        if settings.kv_transfer is not None:
            arguments["kv_transfer_config"] = dict(settings.kv_transfer)
        if settings.kv_events is not None:
            arguments["kv_events_config"] = dict(settings.kv_events)
        self._llm = LLM(
            settings.model,
            dtype="float32",
            block_size=settings.block_tokens,
            max_model_len=settings.longest_tokens,
            num_gpu_blocks_override=settings.blocks,
            kv_cache_memory_bytes=256 << 20,
            max_num_seqs=settings.max_sequences,
            max_num_batched_tokens=settings.batched_tokens,
            enable_prefix_caching=True,
            enforce_eager=True,
            disable_log_stats=True,
            **arguments,
        )
        self._engine = self._llm.llm_engine
        self.scheduler: Any = self._engine.engine_core.engine_core.scheduler
        self.block_tokens = settings.block_tokens
        self.preemptions = 0
        self.failed_blocks = 0
        self._external: dict[str, int] = {}
        self._outputs: dict[str, Any] = {}
        self._count = 0
        self.notes: dict[str, Any] = {}
        """What a scenario keeps between calls."""
        self._watch()

    # ---- what a test does

    def submit(
        self, prompt: Sequence[int], max_tokens: int, *, name: str = "", **sampling: Any
    ) -> str:
        """Hands one greedy request to the engine and returns its id, of the user's name for it."""
        from vllm import SamplingParams

        self._count += 1
        wanted = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, **sampling)
        known = set(self.scheduler.requests)
        name = name or f"r{self._count}"
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, wanted)
        # The name that the engine gave it, which versions before 0.18 do not return.
        (request,) = set(self.scheduler.requests) - known
        self._external.pop(request, None)
        return str(request)

    def step(self) -> None:
        """One scheduling step."""
        for output in self._engine.step():
            self._outputs[output.request_id] = output

    def abort(self, requests: Iterable[str]) -> None:
        """What vLLM's front end does when a user hangs up."""
        # By the engine's own names, which versions before 0.14 do not tell from the user's.
        more = {"internal": True} if _takes(self._engine.abort_request, "internal") else {}
        self._engine.abort_request(list(requests), **more)

    def wait(self, timeout_s: float = 120.0) -> None:
        """Steps until no request is left, nor a finished one that the worker has not heard of."""
        deadline = time.monotonic() + timeout_s
        while self.scheduler.has_requests():
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests left after {timeout_s:g} s: {self.states()}")
            self.step()

    def step_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Steps until `condition` holds; raises `TimeoutError` at the bound."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout_s:g} s; requests: {self.states()}")
            self.step()

    def answer(self, request: str) -> Answer:
        """What this request brought; it must have ended."""
        output = self._outputs[request.rpartition("-")[0] or request]
        completion = output.outputs[0]
        return Answer(
            token_ids=tuple(completion.token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            external_tokens=self._external.get(request, 0),
            error=completion.finish_reason != "length",
        )

    def run(
        self, prompts: Iterable[Sequence[int]], max_tokens: int, timeout_s: float = 120.0
    ) -> list[Answer]:
        """Answers these prompts together and steps on until the scheduler is empty."""
        requests = [self.submit(prompt, max_tokens) for prompt in prompts]
        self.wait(timeout_s)
        return [self.answer(request) for request in requests]

    def idle_step(self) -> None:
        """Computes less than a block, so that the connector's hooks run once more."""
        self.run([[3, 4, 5]], 1)

    def reset_prefix_cache(self, *, external: bool = False) -> bool:
        """Drops the engine's prefix cache, with `external` the connector's too; vLLM's answer."""
        if not self.resets_connector:
            return bool(self._engine.reset_prefix_cache())
        return bool(self._engine.reset_prefix_cache(False, external))

    @property
    def resets_connector(self) -> bool:
        """Whether a reset can be handed on to the connector: from 0.14 on."""
        return _takes(self._engine.reset_prefix_cache, "reset_connector")

    # ---- what a test looks at

    def states(self) -> dict[str, str]:
        """The scheduler's state of every request it still knows."""
        return {name: request.status.name for name, request in self.scheduler.requests.items()}

    def leaked_blocks(self) -> int:
        """Blocks that somebody holds, of all but the null block; 0 when no request is left."""
        pool = self.scheduler.kv_cache_manager.block_pool
        leaked: int = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
        return leaked

    def external_tokens(self) -> dict[str, int]:
        """Tokens that the connector was granted, per request."""
        return dict(self._external)

    @property
    def scheduler_connector(self) -> Any:
        """The connector's scheduler side, None in plain vLLM."""
        return self.scheduler.connector

    @property
    def worker_connector(self) -> Any:
        """The connector's worker side."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group()

    def kv_tensors(self) -> list[Any]:
        """The KV tensor of every layer, blocks first."""
        return list(self.runner.kv_caches)

    @property
    def runner(self) -> Any:
        """The worker's model runner."""
        return self._engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner

    @property
    def config(self) -> Any:
        """vLLM's whole configuration."""
        return self._engine.vllm_config

    def before(self, owner: Any, hook: str, action: Callable[..., None]) -> Callable[[], None]:
        """Calls `action` with the hook's arguments before each call; returns what undoes that."""
        original = getattr(owner, hook)

        def watched(*args: Any, **kwargs: Any) -> Any:
            action(*args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, hook, watched)

        def undo() -> None:
            setattr(owner, hook, original)

        return undo

    def close(self) -> None:
        """Ends the engine as vLLM does."""
        self._engine.engine_core.shutdown()

    def _watch(self) -> None:
        def preempted(*_: Any, **__: Any) -> None:
            self.preemptions += 1

        self.before(self.scheduler, "_preempt_request", preempted)
        if self.scheduler_connector is None:
            return

        def allocated(request: Any, _blocks: Any, num_external_tokens: int) -> None:
            # vLLM calls a second time, with 0, when an asynchronous load has ended.
            if num_external_tokens:
                self._external[request.request_id] = num_external_tokens

        self.before(self.scheduler_connector, "update_state_after_alloc", allocated)
        worker = self.worker_connector
        original = worker.get_block_ids_with_load_errors

        def failed() -> set[int]:
            blocks: set[int] = original()
            self.failed_blocks += len(blocks)
            return blocks

        worker.get_block_ids_with_load_errors = failed
