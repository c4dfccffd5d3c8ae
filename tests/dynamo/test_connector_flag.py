"""`--connector flexkv` and `DYN_CONNECTOR=flexkv` before the real `dynamo.vllm.args`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import checkout, dynamo, processes
from harness.model import write_model

PROGRAM = Path(dynamo.__file__).with_name("dynamo_flags.py")
TRANSFER = json.dumps({"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both"})
TAKEN: dict[str, Any] = {
    "connector": "FlexKVConnectorV1", "role": "kv_both", "left": [], "variable": None,
}  # fmt: skip
REFUSED = "--connector is no longer supported for the vLLM backend"

Case = tuple[list[str], dict[str, str]]


def parsed(folder: Path, cases: list[Case], **environment: str) -> list[dict[str, Any]]:
    """What Dynamo makes of each command line, all of them in one process."""
    (folder / "dynamo").symlink_to(dynamo.packages() / "dynamo")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", str(PROGRAM), str(write_model(checkout.MODELS / "tiny-model"))],
        input=json.dumps(cases), capture_output=True, text=True, timeout=200, check=False,
        env={**processes.vllm_environment(), "PYTHONPATH": path, **environment},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("case ")]
    assert len(lines) == len(cases), done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line.removeprefix("case ")) for line in lines]


def test_flag_and_variable_are_taken_and_all_else_is_refused(folder: Path) -> None:
    found = parsed(
        folder,
        [
            (["--connector", "flexkv"], {}),
            ([], {"DYN_CONNECTOR": "flexkv"}),
            (["--kv-transfer-config", TRANSFER], {}),
            ([], {}),
            (["--connector", "nixl"], {}),
            (["--connector", "flexkv", "nixl"], {}),
            (["--connector", "flexkv"], {"DYN_CONNECTOR": "nixl"}),
            ([], {"DYN_CONNECTOR": "none"}),
            (["--connector", "flexkv", "--kv-transfer-config", TRANSFER], {}),
        ],
    )
    assert found[:3] == [TAKEN] * 3
    assert found[3] == {**TAKEN, "connector": None, "role": None}
    for refused in found[4:8]:
        assert REFUSED in refused["error"]
    assert "Cannot specify both --connector flexkv" in found[8]["error"]
    assert "Remedy: leave --connector out" in found[8]["error"]


@pytest.mark.parametrize(
    "environment",
    [{"FLEXKV_DYNAMO_CONNECTOR_FLAG": "0"}, {"VLLM_PLUGINS": "none_of_ours"}],
    ids=["switched off", "plugin not in the list"],
)
def test_without_the_plugin_dynamo_refuses_as_ever(
    folder: Path, environment: dict[str, str]
) -> None:
    flag, transfer = parsed(
        folder,
        [(["--connector", "flexkv"], {}), (["--kv-transfer-config", TRANSFER], {})],
        **environment,
    )
    assert REFUSED in flag["error"]
    assert transfer == TAKEN
