"""Runs in Dynamo's environment: a worker whose engine is in the benchmark's process.

    python worker.py MODEL_FOLDER ZMQ_ENDPOINT BLOCK_TOKENS TAG CONTROL_ENDPOINT

Registered as `dynamo.vllm` registers a worker, and with the same publisher of events.  A request is
told to the engine by its number, which travels as its seed; two tokens are answered, the first when
the engine has prefilled, the last when it has decoded.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

_ANSWER_TOKEN = 400


async def main(model: str, events: str, block_tokens: int, tag: int, control: str) -> None:
    """Serves until it is ended."""
    llm = importlib.import_module("dynamo.llm")
    runtime_module = importlib.import_module("dynamo.runtime")
    zmq = importlib.import_module("zmq.asyncio")
    socket = zmq.Context().socket(importlib.import_module("zmq").DEALER)
    socket.setsockopt(importlib.import_module("zmq").IDENTITY, str(tag).encode())
    socket.connect(control)
    moments: dict[tuple[int, bytes], asyncio.Future[None]] = {}
    loop = asyncio.get_running_loop()

    def moment(number: int, what: bytes) -> asyncio.Future[None]:
        return moments.setdefault((number, what), loop.create_future())

    async def listen() -> None:
        while True:
            number, what = await socket.recv_multipart()
            moment(int(number), what).set_result(None)

    listening = loop.create_task(listen())
    runtime = runtime_module.DistributedRuntime(loop, "file", "tcp")
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
        number = int(request["sampling_options"]["seed"])
        await socket.send(str(number).encode())
        await moment(number, b"first")
        yield {"token_ids": [_ANSWER_TOKEN]}
        await moment(number, b"done")
        yield {"token_ids": [_ANSWER_TOKEN], "finish_reason": "length"}

    await endpoint.serve_endpoint(generate)
    listening.cancel()
    del publisher


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
