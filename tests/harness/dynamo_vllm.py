"""Runs in the environment with vLLM: `python -m dynamo.vllm`, under a vLLM that is newer than its.

Dynamo 1.6 is made for vLLM 0.31 and imports one function that 0.32 has renamed, for embedding
models only.
"""

from __future__ import annotations

import importlib
import runpy


def main() -> None:
    """Dynamo's worker, with the arguments of this command line."""
    utils = importlib.import_module("vllm.v1.engine.utils")
    if not hasattr(utils, "get_engine_zmq_addresses"):
        utils.get_engine_zmq_addresses = None  # type: ignore[attr-defined]
    runpy.run_module("dynamo.vllm", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
