"""The OpenAI server, as operators start it: front end, engine and sidecar are three processes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import checkout, processes
from harness.prompts import random_tokens
from harness.server import Completion, OpenAIServer
from harness.sidecar import Sidecar

from e2e.conftest import wait_new_sidecar

pytestmark = pytest.mark.both_versions

#: vLLM's own block size on the CPU; here nobody changes it.
_BLOCK_TOKENS = 128
_TOKENS = 12


@pytest.fixture(scope="module")
def sidecar(scratch: Path) -> Sidecar:
    return Sidecar(scratch / "server", FLEXKV_CPU_CACHE_GB="0.2")


@pytest.fixture(scope="module")
def server(model: Path, sidecar: Sidecar, scratch: Path) -> Iterator[OpenAIServer]:
    arguments = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048"]
    arguments += ["--kv-cache-memory-bytes", str(96 << 20)]
    arguments += ["--kv-transfer-config", json.dumps(checkout.readme_flag())]
    with OpenAIServer(
        model, arguments, sidecar.environment, checkout.LOGS / "server.log"
    ) as started:
        started.wait_ready()
        sidecar.wait_serving(60)
        yield started
    sidecar.wait_gone()


@pytest.fixture(scope="module")
def prompts(seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    root = random_tokens(rng, 3 * _BLOCK_TOKENS)
    lengths = [n * _BLOCK_TOKENS + odd for n in (2, 5, 9) for odd in (-1, 0, 1, 60)]
    return [
        (root + random_tokens(rng, length))[:length] if i % 2 else random_tokens(rng, length)
        for i, length in enumerate(lengths)
    ]


def _all(server: OpenAIServer, prompts: list[tuple[int, ...]]) -> list[Completion]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda p: server.complete(p, _TOKENS), prompts))


def _drop(server: OpenAIServer, sidecar: Sidecar) -> None:
    sidecar.wait_quiet(20)
    processes.wait_until(server.reset_prefix_cache, 10, "vLLM drops its prefix cache", 0.1)


def test_hits_over_http_tokens_equal_and_counted(
    server: OpenAIServer,
    sidecar: Sidecar,
    prompts: list[tuple[int, ...]],
    counts: Counter[str],
) -> None:
    cold = _all(server, prompts)
    _drop(server, sidecar)
    before = server.metric("vllm:external_prefix_cache_hits_total")
    hits = [server.complete(prompt, _TOKENS) for prompt in prompts]
    assert [hit.token_ids for hit in hits] == [one.token_ids for one in cold]
    there = [(len(prompt) - 1) // _BLOCK_TOKENS * _BLOCK_TOKENS for prompt in prompts]
    assert sum(hit.cached_tokens for hit in hits) >= 0.8 * sum(there)
    served = server.metric("vllm:external_prefix_cache_hits_total") - before
    assert served > 0
    counts["answers compared token by token"] += len(hits)
    counts["tokens served by the sidecar"] += int(served)
    sidecar.assert_nothing_held(clients=2)


def test_killed_under_traffic_tokens_right_and_hits_return(
    server: OpenAIServer,
    sidecar: Sidecar,
    prompts: list[tuple[int, ...]],
    counts: Counter[str],
    seed: int,
) -> None:
    right = [one.token_ids for one in _all(server, prompts)]
    rng = random.Random(seed)
    for _ in range(2):
        _drop(server, sidecar)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_all, server, prompts * 2)
            processes.wait_until(running.running, 5, "traffic")
            try:
                running.exception(timeout=rng.uniform(0.0, 0.6))
            except TimeoutError:
                pass
            old = sidecar.kill()
            answers = running.result(timeout=60)
        assert [one.token_ids for one in answers] == right * 2
        counts["sidecars killed"] += 1
        counts["answers compared token by token"] += len(answers)
        wait_new_sidecar(sidecar, old)
    _all(server, prompts)
    _drop(server, sidecar)
    _all(server, prompts)
    _drop(server, sidecar)
    hits = _all(server, prompts)
    assert [one.token_ids for one in hits] == right
    assert sum(hit.cached_tokens for hit in hits) > 0
    assert server.is_running()
    sidecar.assert_nothing_held(clients=2)


def test_server_ends_the_sidecar_outlives_it(server: OpenAIServer, sidecar: Sidecar) -> None:
    """vLLM kills its whole process tree at its end; other engines still need the sidecar.

    The last test of this module: it ends the server.
    """
    with sidecar.session() as session:
        pid = session.server_pid
        server.close()
        assert processes.is_running(pid), "the sidecar was killed with the server that started it"
        processes.wait_until(
            lambda: sidecar.status()["clients"] == 0, 10, "the engine's sessions are closed"
        )
        assert sidecar.pid == pid
