"""A vLLM engine that is stepped by hand, so that requests can be timed, aborted and compared."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.model import redraw_weights

_STUCK_S = 240


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is started with; `kv_transfer` is None for plain vLLM."""

    model: str
    kv_transfer: Mapping[str, Any] | None
    kv_bytes: int
    max_model_len: int
    dtype: str = "bfloat16"
    kv_dtype: str = "auto"
    batched_tokens: int = 8192
    sequences: int = 64
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    eager: bool = False
    seed: int = 1
    load_format: str = "dummy"
    redraw: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Served:
    """One request's outcome.

    `cached` counts tokens that vLLM did not compute: its own prefix cache's and the connector's.
    `logprobs` are those of the chosen tokens, the finest thing that a front end can see.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ttft_s: float = float("nan")
    end_s: float = float("nan")
    cached: int = 0
    token_at_s: list[float] = field(default_factory=list)

    @property
    def answer(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Tokens and their log-probabilities, to be compared bit for bit."""
        return tuple(self.tokens), tuple(self.logprobs)


class Engine:
    """One engine as vLLM runs it (a core process of its own), stepped from here."""

    def __init__(self, settings: EngineSettings) -> None:
        os.environ.update(settings.environment)
        # The core gets `redraw_weights` by reference and must be let.
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        from vllm import LLM

        on_gpu = has_gpu()
        extra: dict[str, Any] = {}
        if settings.kv_transfer is not None:
            extra["kv_transfer_config"] = dict(settings.kv_transfer)
        if on_gpu:
            # Several engines share the GPU: each takes what it is told, not a share of what is
            # free. Few graph sizes, because capturing fifty of them is most of a start.
            extra["gpu_memory_utilization"] = 0.2
            if not settings.eager:
                extra["compilation_config"] = {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64]}
        begun = time.monotonic()
        self.llm: Any = LLM(
            model=settings.model, load_format=settings.load_format, skip_tokenizer_init=True,
            seed=settings.seed, dtype=settings.dtype, kv_cache_dtype=settings.kv_dtype,
            max_model_len=settings.max_model_len,
            kv_cache_memory_bytes=settings.kv_bytes, enforce_eager=settings.eager or not on_gpu,
            disable_log_stats=False, max_num_seqs=settings.sequences,
            max_num_batched_tokens=settings.batched_tokens, enable_prefix_caching=True,
            tensor_parallel_size=settings.tensor_parallel,
            pipeline_parallel_size=settings.pipeline_parallel, **extra,
        )  # fmt: skip
        self.start_s = time.monotonic() - begun
        if settings.redraw:
            # With vLLM's dummy weights an answer depends on the last token alone: it would be
            # equal whatever the cache served.
            self.llm.apply_model(redraw_weights)
        self._engine: Any = self.llm.llm_engine
        self._count = 0

    # ---- requests
    def add(self, prompt: Sequence[int], outputs: int, *, logprobs: bool = False) -> str:
        """Hands one greedy request to the engine; returns its name."""
        from vllm import SamplingParams

        self._count += 1
        name = f"r{self._count}"
        sampling = SamplingParams(
            temperature=0.0, max_tokens=outputs, ignore_eos=True, detokenize=False,
            logprobs=1 if logprobs else None,
        )  # fmt: skip
        self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, sampling)
        return name

    def abort(self, name: str) -> None:
        """What vLLM's front end does when a user hangs up."""
        self._engine.abort_request([name])

    @property
    def busy(self) -> bool:
        """Whether a request is left."""
        return bool(self._engine.has_unfinished_requests())

    def step(self, started: Mapping[str, float], served: dict[str, Served]) -> None:
        """Waits for the engine's next outputs and books them; times count from `started`."""
        for output in self._engine.step():
            name = output.request_id.split("-")[0]
            if name not in started:
                continue
            now = time.perf_counter() - started[name]
            one = served.setdefault(name, Served())
            completion = output.outputs[0]
            tokens = list(completion.token_ids)
            if tokens and not one.tokens:
                one.ttft_s = now
            one.token_at_s += [now] * (len(tokens) - len(one.tokens))
            one.tokens = tokens
            one.cached = output.num_cached_tokens or 0
            if output.finished:
                one.end_s = now
                if completion.logprobs:
                    one.logprobs = [
                        float(at[token].logprob)
                        for at, token in zip(completion.logprobs, tokens, strict=True)
                    ]

    def drain(
        self, started: Mapping[str, float], on_step: Callable[[int], None] | None = None
    ) -> dict[str, Served]:
        """Steps until no request is left (bounded); `on_step(n)` runs between steps."""
        served: dict[str, Served] = {name: Served() for name in started}
        limit = time.monotonic() + _STUCK_S
        steps = 0
        while self.busy:
            if time.monotonic() > limit:
                raise TimeoutError(f"requests are stuck: {_STUCK_S} s without an end")
            self.step(started, served)
            steps += 1
            if on_step is not None:
                on_step(steps)
        return served

    def alone(self, prompt: Sequence[int], outputs: int, *, logprobs: bool = False) -> Served:
        """One request with nothing beside it."""
        begin = time.perf_counter()
        name = self.add(prompt, outputs, logprobs=logprobs)
        return self.drain({name: begin})[name]

    def together(
        self, prompts: Sequence[Sequence[int]], outputs: int, *, logprobs: bool = False
    ) -> list[Served]:
        """These requests at once."""
        begin = time.perf_counter()
        names = [self.add(prompt, outputs, logprobs=logprobs) for prompt in prompts]
        served = self.drain(dict.fromkeys(names, begin))
        return [served[name] for name in names]

    # ---- the engine
    def reset(self) -> bool:
        """Drops vLLM's own prefix cache; false if a block is held."""
        return bool(self.llm.reset_prefix_cache())

    def close(self) -> None:
        """Ends the core process and its workers."""
        self._engine.engine_core.shutdown()

    def metric(self, name: str) -> float:
        """A counter of vLLM's, summed over its labels."""
        found = [m for m in self.llm.get_metrics() if m.name == name and hasattr(m, "value")]
        return float(sum(m.value for m in found))


def has_gpu() -> bool:
    """Whether torch finds a CUDA device; asks NVML, so that no context is made here."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return bool(torch.cuda.is_available())
