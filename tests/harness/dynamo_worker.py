"""Runs in Dynamo's environment: a worker without an engine, which relays a stream of KV events.

    python dynamo_worker.py MODEL_FOLDER ZMQ_ENDPOINT BLOCK_TOKENS TAG

Registered as `dynamo.vllm` registers a worker, and with the same publisher. It answers every
request with one token, TAG, so that whoever asked knows where the request went.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any


async def main(model: str, events: str, block_tokens: int, tag: int) -> None:
    """Serves until it is ended."""
    llm = importlib.import_module("dynamo.llm")
    runtime_module = importlib.import_module("dynamo.runtime")
    runtime = runtime_module.DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
    endpoint = runtime.endpoint("dynamo.backend.generate")
    publisher = llm.KvEventPublisher(
        endpoint=endpoint, kv_block_size=block_tokens, zmq_endpoint=events, zmq_topic="",
        enable_local_indexer=True,
    )  # fmt: skip
    await llm.register_model(
        llm.ModelInput.Tokens, llm.ModelType.Completions, endpoint, model, "tiny",
        worker_type=llm.WorkerType.Aggregated, kv_cache_block_size=block_tokens,
        ignore_weights=True,
    )  # fmt: skip

    async def generate(request: Any, context: Any = None) -> AsyncIterator[dict[str, Any]]:
        yield {"token_ids": [tag], "finish_reason": "length"}

    await endpoint.serve_endpoint(generate)
    del publisher


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
