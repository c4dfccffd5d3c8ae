"""Runs in the environment with vLLM: lets Dynamo's real `dynamo.vllm.args` parse command lines.

    python dynamo_flags.py MODEL_FOLDER < CASES

CASES: a JSON list of `[arguments, environment]`. A line of JSON for each: the transfer config that
the engine gets, or the error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Parses every case in this one process."""
    args = importlib.import_module("dynamo.vllm.args")
    for arguments, environment in json.load(sys.stdin):
        os.environ.pop("DYN_CONNECTOR", None)
        os.environ.update(environment)
        sys.stdout.write(f"case {json.dumps(_parsed(args, arguments))}\n")
        sys.stdout.flush()


def _parsed(args: Any, arguments: list[str]) -> dict[str, Any]:
    try:
        config = args.parse_args(["--model", sys.argv[1], *arguments])
    except ValueError as error:
        return {"error": str(error)}
    transfer = config.engine_args.kv_transfer_config
    return {
        "connector": transfer and transfer.kv_connector,
        "role": transfer and transfer.kv_role,
        "left": list(config.connector or []),
        "variable": os.environ.get("DYN_CONNECTOR"),
    }


if __name__ == "__main__":
    main()
