"""Our hooks against those of the vLLM that is installed: names, parameters, and what is wrapped."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

pytestmark = pytest.mark.both_versions


def base() -> Any:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    return KVConnectorBase_V1


def ours() -> Any:
    from flexkv.connector import FlexKVConnectorV1

    return FlexKVConnectorV1


def hooks() -> list[str]:
    """Public methods of vLLM's base class that ours answers itself."""
    found = []
    for name, _ in inspect.getmembers(base(), inspect.isfunction):
        mine = inspect.getattr_static(ours(), name)
        if not name.startswith("_") and mine is not inspect.getattr_static(base(), name):
            found.append(name)
    return found


def test_every_abstract_hook_is_there() -> None:
    assert not ours().__abstractmethods__
    assert len(hooks()) >= 18, hooks()


def test_every_hook_takes_what_vllm_passes() -> None:
    """By position and by name: vLLM does both, and differently between versions."""
    for name in hooks():
        wanted = list(inspect.signature(getattr(base(), name)).parameters.values())[1:]
        mine = inspect.signature(getattr(ours(), name))
        plain = [p for p in wanted if p.kind is p.POSITIONAL_OR_KEYWORD]
        mine.bind(None, *(object() for _ in plain))
        if name != "handle_preemptions":  # its parameter had another name before 0.19
            mine.bind(None, **{p.name: object() for p in plain})
        if any(p.kind is p.VAR_KEYWORD for p in wanted):
            assert any(p.kind is p.VAR_KEYWORD for p in mine.parameters.values()), name


def test_the_in_tree_class_finds_every_method_that_it_calls() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1 import flexkv_connector

    from flexkv.integration.vllm.vllm_v1_adapter import FlexKVConnectorV1Impl

    source = inspect.getsource(flexkv_connector)
    called = set(re.findall(r"_flexkv_connector\.(\w+)\(", source))
    assert len(called) >= 10, called
    for name in sorted(called):
        assert callable(getattr(FlexKVConnectorV1Impl, name, None)), name
