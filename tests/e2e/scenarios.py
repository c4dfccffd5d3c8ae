"""What runs inside an engine's process; `EngineProcess.call` sends these functions there by name.

Each takes the `Engine` first and returns plain data; the assertions are in the tests.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import processes
from harness.engine import Answer, Engine

Tokens = Sequence[int]

#: vLLM's state of a request whose asynchronous load is open.
LOADING = "WAITING_FOR_REMOTE_KVS"


@dataclass(frozen=True, slots=True)
class Held:
    """What an engine still holds when all requests have ended."""

    requests: dict[str, str]
    blocks: int
    reset: bool


def run(engine: Engine, prompts: Sequence[Tokens], max_tokens: int) -> list[Answer]:
    """All prompts together."""
    return engine.run(prompts, max_tokens)


def run_alone(engine: Engine, prompts: Sequence[Tokens], max_tokens: int) -> list[Answer]:
    """One after the other, the engine's own prefix cache dropped before each."""
    answers = []
    for prompt in prompts:
        reset(engine)
        answers += engine.run([prompt], max_tokens)
    return answers


def run_after(
    engine: Engine, pairs: Sequence[tuple[Tokens, Tokens]], max_tokens: int
) -> list[Answer]:
    """For each (first, second): a fresh prefix cache, then `first`, then the answer to `second`."""
    answers = []
    for first, second in pairs:
        reset(engine)
        if first:
            engine.run([first], 1)
        answers += engine.run([second], max_tokens)
    return answers


def run_in_short_steps(
    engine: Engine, prompts: Sequence[Tokens], max_tokens: int, step_tokens: int
) -> tuple[list[Answer], int]:
    """All prompts together, a step computing no more than `step_tokens`.

    And how many of them were admitted upon blocks that a running request got in the same step.
    """
    hits: set[str] = set()

    def look(output: Any) -> None:
        new = output.scheduled_cached_reqs.new_block_ids
        fresh = {block for groups in new if groups for block in groups[0]}
        for request in output.scheduled_new_reqs:
            if not fresh.isdisjoint(request.block_ids[0]):
                hits.add(request.req_id)

    scheduler = engine.scheduler
    longest = scheduler.max_num_scheduled_tokens
    undo = engine.before(engine.scheduler_connector, "build_connector_meta", look)
    scheduler.max_num_scheduled_tokens = step_tokens
    try:
        return engine.run(prompts, max_tokens), len(hits)
    finally:
        scheduler.max_num_scheduled_tokens = longest
        undo()


def reset(engine: Engine, external: bool = False) -> None:
    """Drops the engine's prefix cache; must succeed, for no request holds a block."""
    if not engine.reset_prefix_cache(external=external):
        raise AssertionError(
            f"reset_prefix_cache() is False: {engine.leaked_blocks()} blocks held, "
            f"requests {engine.states()}"
        )


def held(engine: Engine) -> Held:
    """What is left; the engine's prefix cache is dropped by looking."""
    return Held(engine.states(), engine.leaked_blocks(), engine.reset_prefix_cache())


def idle(engine: Engine) -> None:
    """One small request, so that hooks which wait for a step get one."""
    engine.idle_step()


def counters(engine: Engine) -> tuple[int, int]:
    """Preemptions, and blocks that the worker reported as not loaded."""
    return engine.preemptions, engine.failed_blocks


def told_ahead(engine: Engine) -> int:
    """Loads whose end the scheduler heard of from the sidecar before its workers had reported."""
    told: int = engine.scheduler_connector._scheduler.side.arrivals.told_ahead
    return told


def run_aborting(
    engine: Engine, prompts: Sequence[Tokens], max_tokens: int, seed: int
) -> list[Answer | None]:
    """All prompts together; every third is aborted at a random step. None for an aborted one."""
    rng = random.Random(seed)
    requests = [engine.submit(prompt, max_tokens) for prompt in prompts]
    doomed = {request: rng.randrange(0, 8) for request in requests[::3]}
    aborted: set[str] = set()
    for step in range(8):
        now = [request for request, at in doomed.items() if at == step]
        engine.abort(request for request in now if request in engine.states())
        aborted.update(now)
        engine.step()
    engine.wait()
    return [None if request in aborted else engine.answer(request) for request in requests]


def abort_open_loads(
    engine: Engine, prompts: Sequence[Tokens], max_tokens: int, sidecar: int
) -> tuple[list[Answer | None], list[str]]:
    """A load is granted, the sidecar stands still, its request is aborted, the sidecar goes on.

    Of the other requests every second one is aborted, too. Returns the answers of the rest in
    order, and the states that the aborted ones were in.
    """
    requests = [engine.submit(prompt, max_tokens) for prompt in prompts]
    undo = engine.before(
        engine.scheduler_connector,
        "update_state_after_alloc",
        _at_first_load(sidecar, signal.SIGSTOP),
    )
    try:
        engine.step_until(lambda: _loading(engine) > 0, 20, "a load is open")
        states = engine.states()
        loading = [r for r in requests if states.get(r) == LOADING]
        doomed = {*loading, *requests[::2]} & set(states)
        engine.abort(doomed)
        for _ in range(3):
            engine.step()
    finally:
        undo()
        os.kill(sidecar, signal.SIGCONT)
    engine.wait()
    rest = [None if request in doomed else engine.answer(request) for request in requests]
    return rest, [states[request] for request in doomed]


def again_by_name(
    engine: Engine, first: Tokens, second: Tokens, max_tokens: int, sidecar: int
) -> tuple[Answer, bool]:
    """The answer to `second`, asked by the name of `first`, which is aborted behind its load.

    Its load has ended then, and vLLM has not run it yet. Should a load be granted to `second`, the
    sidecar stands still for five steps. Also returns whether vLLM's own id was the same.
    """
    loaded = engine.submit(first, max_tokens, name="again")
    received = engine.scheduler.finished_recving_kv_req_ids
    engine.step_until(lambda: loaded in received, 20, "a load has ended")
    engine.abort([loaded])
    engine.wait()
    undo = engine.before(
        engine.scheduler_connector,
        "update_state_after_alloc",
        _at_first_load(sidecar, signal.SIGSTOP),
    )
    try:
        request = engine.submit(second, max_tokens, name="again")
        for _ in range(5):
            engine.step()
    finally:
        undo()
        os.kill(sidecar, signal.SIGCONT)
    engine.wait()
    return engine.answer(request), request == loaded


def signal_at_load(
    engine: Engine,
    prompts: Sequence[Tokens],
    max_tokens: int,
    sidecar: int,
    number: int,
    *,
    until_gone: bool = False,
) -> list[Answer]:
    """All prompts together; when vLLM has allocated for the first load the sidecar is signalled.

    With `until_gone` the engine goes on only when the process has ended: no load of that step can
    begin any more. Otherwise death and beginning race.
    """
    undo = engine.before(
        engine.scheduler_connector,
        "update_state_after_alloc",
        _at_first_load(sidecar, signal.Signals(number), until_gone=until_gone),
    )
    try:
        return engine.run(prompts, max_tokens)
    finally:
        undo()


def kill_while_running(
    engine: Engine, prompts: Sequence[Tokens], max_tokens: int, sidecar: int, after_steps: int
) -> list[Answer]:
    """All prompts together; the sidecar is killed after so many steps."""
    requests = [engine.submit(prompt, max_tokens) for prompt in prompts]
    for _ in range(after_steps):
        engine.step()
    os.kill(sidecar, signal.SIGKILL)
    engine.wait()
    return [engine.answer(request) for request in requests]


def reset_with_save_in_flight(
    engine: Engine, prompts: Sequence[Tokens], sidecar: int
) -> tuple[list[Answer], bool]:
    """Answers while the sidecar stands still, so that no save can end, then resets."""
    os.kill(sidecar, signal.SIGSTOP)
    try:
        answers = engine.run(prompts, 4)
        return answers, engine.reset_prefix_cache()
    finally:
        os.kill(sidecar, signal.SIGCONT)


def reuse_blocks_before_their_save(
    engine: Engine, first: Sequence[Tokens], others: Sequence[Tokens], sidecar: int
) -> int:
    """Saves of `first` are planned while the sidecar stands still, and their blocks reused.

    Returns how many of the blocks that held the last of `first` were handed out again.
    """
    os.kill(sidecar, signal.SIGSTOP)
    try:
        held = [_cached_blocks(engine, prompt) for prompt in first]
        pool = engine.scheduler.kv_cache_manager.block_pool
        before = {block: pool.blocks[block].block_hash for block in held[-1]}
        engine.run(others, 2)
        return sum(pool.blocks[block].block_hash != was for block, was in before.items())
    finally:
        os.kill(sidecar, signal.SIGCONT)


def with_a_foreign_block(
    engine: Engine, prompt: Tokens, foreign: Tokens, max_tokens: int
) -> tuple[Answer, list[Answer]]:
    """The answer to a prompt, and its answers with one cached block at a time taken from another.

    `foreign` is as long; block i of the prompt then holds the keys and values of its block i.
    """
    right = engine.run([prompt], max_tokens)[0]
    wrong = []
    for number in range((len(prompt) - 1) // engine.block_tokens):
        engine.reset_prefix_cache()
        ours, theirs = _cached_blocks(engine, prompt), _cached_blocks(engine, foreign)
        for tensor in engine.kv_tensors():
            tensor[ours[number]].copy_(tensor[theirs[number]])
        wrong += engine.run([prompt], max_tokens)
    engine.reset_prefix_cache()
    return right, wrong


def with_exchanged_blocks(
    engine: Engine, prompt: Tokens, max_tokens: int
) -> list[tuple[Answer, Answer]]:
    """(right, wrong) answers to the prompt cut after block i, with blocks i and i + 1 exchanged."""
    pairs = []
    for number in range((len(prompt) - 1) // engine.block_tokens - 1):
        cut = prompt[: (number + 1) * engine.block_tokens + 5]
        engine.reset_prefix_cache()
        right = engine.run([cut], max_tokens)[0]
        engine.reset_prefix_cache()
        blocks = _cached_blocks(engine, prompt)
        a, b = blocks[number : number + 2]
        for tensor in engine.kv_tensors():
            kept = tensor[a].clone()
            tensor[a].copy_(tensor[b])
            tensor[b].copy_(kept)
        pairs.append((right, engine.run([cut], max_tokens)[0]))
    engine.reset_prefix_cache()
    return pairs


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an engine was started with, as far as a connector cares."""

    hybrid_allocator: bool
    asynchronous: bool
    runner: str
    cross_layer: bool
    kv_shape: str


def configuration(engine: Engine) -> Configuration:
    """How this release runs with our connector, on this machine."""
    config = engine.config
    shape = engine.kv_tensors()[0].shape
    heads, width = 2, 64  # of the tests' model
    names = {engine.block_tokens: "tokens", 2 * width: "K and V", heads: "heads", width: "width"}
    parts = [names.get(int(size), "blocks") for size in shape]
    if len(shape) == 5:  # the split form before 0.26
        parts[0 if int(shape[0]) == 2 else 1] = "K and V"
    return Configuration(
        hybrid_allocator=not config.scheduler_config.disable_hybrid_kv_cache_manager,
        asynchronous=bool(getattr(config.scheduler_config, "async_scheduling", False)),
        runner="V2" if ".worker.gpu." in type(engine.runner).__module__ else "V1",
        cross_layer=bool(getattr(engine.runner, "cross_layers_kv_cache", None) is not None),
        kv_shape=f"({', '.join(parts)})",
    )


def watch_hooks(engine: Engine, names: Sequence[str]) -> None:
    """Notes from now on which of these hooks vLLM calls on our two connectors."""
    seen: set[str] = engine.notes.setdefault("hooks", set())

    def watch(side: Any, name: str) -> None:
        engine.before(side, name, lambda *_, **__: seen.add(name))

    for side in (engine.scheduler_connector, engine.worker_connector):
        for name in names:
            if callable(getattr(side, name)) and not name.startswith("_"):
                watch(side, name)


def hooks_seen(engine: Engine) -> list[str]:
    """The hooks called since ``watch_hooks``, in alphabetical order."""
    return sorted(engine.notes["hooks"])


def run_watching_states(
    engine: Engine, prompt: Tokens, max_tokens: int
) -> tuple[Answer, list[str]]:
    """The answer to one prompt, and the states that its request was in after each step."""
    request = engine.submit(prompt, max_tokens)
    states: list[str] = []
    while request in engine.states():
        engine.step()
        states += [state for name, state in engine.states().items() if name == request]
    engine.wait()
    return engine.answer(request), states


def keeps_aborted(engine: Engine) -> bool:
    """Whether our connector asks vLLM to keep the blocks of a request aborted while it loads."""
    return engine.scheduler_connector._scheduler._kept is not None


def resets_connector(engine: Engine) -> bool:
    """Whether this vLLM hands a reset of its prefix cache on to the connector."""
    return engine.resets_connector


def connector_names(engine: Engine) -> tuple[str, str]:
    """Modules and names of the classes that vLLM made for scheduler and worker."""
    both = (type(engine.scheduler_connector), type(engine.worker_connector))
    return f"{both[0].__module__}.{both[0].__qualname__}", (
        f"{both[1].__module__}.{both[1].__qualname__}"
    )


def encoded_events(_engine: Engine) -> dict[str, str]:
    """Events of one block as our shim makes them, each a batch encoded by this vLLM, in hex."""
    import msgspec
    from vllm.distributed.kv_events import KVEventBatch

    from flexkv.protocol import TIER_HOST, TIER_SSD
    from flexkv.vllm_events import VllmEvents

    block, parent, tokens = 0x1111, 0x123456789ABCDEF, list(range(1, 17))
    make = VllmEvents(16, "CPU")
    nothing, lora = (
        msgspec.msgpack.encode(extra) for extra in ((None, None, None), (7, "sql", ("sql", "salt")))
    )
    events = {
        "cpu_store_child": make.stored(TIER_HOST, block, parent, tokens, b""),
        "disk_store_child": make.stored(TIER_SSD, block, parent, tokens, b""),
        "cpu_remove": make.removed(TIER_HOST, block),
        "by_names": make.stored(TIER_HOST, block, parent, tokens, nothing),
        "lora_and_salt": make.stored(TIER_HOST, block, parent, tokens, lora),
    }
    encoder = msgspec.msgpack.Encoder()
    return {
        name: encoder.encode(
            KVEventBatch(ts=1700000000.5, events=[event], data_parallel_rank=0)
        ).hex()
        for name, event in events.items()
    }


def _at_first_load(pid: int, number: signal.Signals, *, until_gone: bool = False) -> Any:
    """A watcher of `update_state_after_alloc` that signals once, when a load is granted."""
    done: list[bool] = []

    def act(_request: Any, _blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens and not done:
            done.append(True)
            os.kill(pid, number)
            if until_gone:
                processes.wait_until(lambda: not processes.is_running(pid), 10, f"end of {pid}")

    return act


def _loading(engine: Engine) -> int:
    return sum(state == LOADING for state in engine.states().values())


def _cached_blocks(engine: Engine, prompt: Tokens) -> list[int]:
    """Answers a prompt; the ids of the blocks in which the engine's prefix cache then has it."""
    request = engine.submit(prompt, 2)
    engine.step()  # the whole prompt fits into one step, the second token needs another
    blocks = list(engine.scheduler.kv_cache_manager.get_block_ids(request)[0])
    engine.wait()
    return blocks
