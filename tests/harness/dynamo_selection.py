"""Runs in Dynamo's environment: calls `SelectionService`, a line in and a line out.

In: `[method, argument]`. Out: `{"result": …}` or `{"error": …}`, always the last line of a call;
Dynamo's own log, which it writes to the standard output, is turned away from it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys


async def main() -> None:
    """Until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    service = importlib.import_module("dynamo.llm").SelectionService(indexer_threads=1)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, argument = json.loads(line)
        try:
            result = getattr(service, method)(argument)
            if hasattr(result, "__await__"):
                result = await result
            answer = {"result": result}
        except Exception as error:  # every failure is the caller's to see
            answer = {"error": repr(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
