"""The whole chain on request (`make test-dynamo-chain`): Dynamo's frontend, two `dynamo.vllm`
workers with vLLM on the CPU, our connector and its sidecars."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from harness import checkout, dynamo, processes
from harness.dynamo import Frontend, Routed
from harness.model import write_model
from harness.sidecar import Sidecar

BLOCK_TOKENS = 32
PROMPT_BLOCKS = 16
GPU_BLOCKS = 80
FILLERS = 24
ANSWER_TOKENS = 8
TRANSFER = json.dumps({"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both"})
#: How each of the two workers is told to use our connector.
WAYS = [["--kv-transfer-config", TRANSFER], ["--connector", "flexkv"]]


@pytest.mark.chain
@pytest.mark.timeout(580)
def test_prompt_that_left_the_gpu_goes_back_to_its_worker_and_comes_from_its_cpu_tier(
    folder: Path, seed: int, counts: Counter[str]
) -> None:
    if not dynamo.WORKER_PACKAGES.exists():
        pytest.skip(f"no {dynamo.WORKER_PACKAGES}: make test-dynamo-chain")
    model = write_model(checkout.MODELS / "tiny-model")
    sidecars = [Sidecar(folder / f"s{i}", FLEXKV_CPU_CACHE_GB="0.3") for i in range(2)]
    (folder / "discovery").mkdir()
    log = checkout.LOGS / "dynamo-frontend.log"
    log.unlink(missing_ok=True)
    with Frontend(folder / "discovery", checkout.LOGS, model) as frontend:
        for number, (sidecar, way) in enumerate(zip(sidecars, WAYS, strict=True)):
            frontend.run_engine(f"vllm-{number}", [*arguments(model), *way], environment(sidecar))
        frontend.wait_workers(400)
        rng = random.Random(seed)
        prompts = [prompt(rng) for _ in range(4)]
        first = [frontend.complete(one, ANSWER_TOKENS) for one in prompts]
        assert {one.hit_rate for one in first} == {0.0}
        for _ in range(FILLERS):
            frontend.complete(prompt(rng), 1)
        before = [sidecar.moved().loaded_bytes for sidecar in sidecars]
        again = [back(frontend, one) for one in prompts]
        for earlier, later in zip(first, again, strict=True):
            assert later.worker == earlier.worker
            assert later.tag == earlier.tag
        after = [sidecar.moved().loaded_bytes for sidecar in sidecars]
        loaded = sum(after) - sum(before)
        assert loaded > 0
        assert len({one.worker for one in first}) == 2, "both workers were to be used"
        assert all(now > was for now, was in zip(after, before, strict=True))
        said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
        pinned = re.findall(r"host_pinned_blocks=([1-9]\d*)", said)
        assert len(pinned) >= len(prompts)
    counts["prompts that went back to the worker whose CPU tier had them"] += len(prompts)
    counts["bytes that it loaded for them"] += loaded
    for sidecar in sidecars:
        sidecar.wait_gone()


def arguments(model: Path) -> list[str]:
    """Of a worker with a pool that a few prompts fill, and its events on a port of its own."""
    events = {
        "enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv-events",
        "endpoint": f"tcp://*:{processes.free_port()}",
    }  # fmt: skip
    return [
        "--model", str(model), "--served-model-name", "tiny", "--kv-events-config",
        json.dumps(events), "--block-size", str(BLOCK_TOKENS), "--max-model-len", "1024",
        "--enforce-eager", "--dtype", "float32", "--num-gpu-blocks-override", str(GPU_BLOCKS),
    ]  # fmt: skip


def environment(sidecar: Sidecar) -> dict[str, str]:
    """Of a worker on a machine that others use."""
    return {
        **sidecar.environment, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def prompt(rng: random.Random) -> list[int]:
    """Whole blocks and a token: all of the blocks can be reused."""
    return [rng.randrange(260, 1000) for _ in range(PROMPT_BLOCKS * BLOCK_TOKENS + 1)]


def back(frontend: Frontend, tokens: list[int]) -> Routed:
    """Asked again once the router takes it as cached, by less than a GPU's hit would count."""
    found = frontend.complete(tokens, ANSWER_TOKENS)
    assert 0.5 < found.hit_rate < 0.9, found
    return found
