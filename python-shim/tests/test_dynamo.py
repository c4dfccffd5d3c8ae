"""Dynamo's ways in: ``--connector flexkv`` works, whatever else was refused still is."""

from __future__ import annotations

import os
import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest

from flexkv import dynamo, plugin
from flexkv.config import Settings


@pytest.fixture
def args(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """``dynamo.vllm.args`` with its refusal, and vLLM's transfer configuration."""
    module = types.ModuleType(dynamo.ARGS_MODULE)

    def refuse(config: Any) -> None:
        if config.connector or os.environ.get("DYN_CONNECTOR") is not None:
            raise ValueError("--connector is no longer supported for the vLLM backend")

    module._reject_connector_flag = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, dynamo.ARGS_MODULE, module)
    config = types.ModuleType("vllm.config")
    config.KVTransferConfig = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    monkeypatch.delenv("DYN_CONNECTOR", raising=False)
    return module


def parsed(*connector: str, transfer: Any = None) -> Any:
    return SimpleNamespace(
        connector=list(connector), engine_args=SimpleNamespace(kv_transfer_config=transfer)
    )


def adopted(config: Any) -> bool:
    transfer = config.engine_args.kv_transfer_config
    return (
        transfer is not None
        and (transfer.kv_connector, transfer.kv_role) == ("FlexKVConnectorV1", "kv_both")
        and config.connector == []
    )


@pytest.mark.parametrize("name", ["flexkv", "FlexKV"])
def test_flag_becomes_a_transfer_config(args: types.ModuleType, name: str) -> None:
    dynamo.adopt_connector_flag()
    config = parsed(name)
    args._reject_connector_flag(config)
    assert adopted(config)


def test_variable_becomes_a_transfer_config_and_is_gone(
    args: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYN_CONNECTOR", "flexkv")
    dynamo.adopt_connector_flag()
    config = parsed("flexkv")  # Dynamo reads the variable into the list as well
    args._reject_connector_flag(config)
    assert adopted(config)
    assert "DYN_CONNECTOR" not in os.environ


@pytest.mark.parametrize("names", [("nixl",), ("none",), ("flexkv", "nixl"), ("lmcache",)])
def test_other_names_are_dynamos_to_refuse(args: types.ModuleType, names: tuple[str, ...]) -> None:
    dynamo.adopt_connector_flag()
    config = parsed(*names)
    with pytest.raises(ValueError, match="no longer supported"):
        args._reject_connector_flag(config)
    assert config.engine_args.kv_transfer_config is None


def test_flag_and_variable_that_differ_are_refused(
    args: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYN_CONNECTOR", "nixl")
    dynamo.adopt_connector_flag()
    with pytest.raises(ValueError, match="no longer supported"):
        args._reject_connector_flag(parsed("flexkv"))


def test_flag_beside_a_transfer_config_is_refused(args: types.ModuleType) -> None:
    dynamo.adopt_connector_flag()
    with pytest.raises(ValueError, match=r"Cannot specify both .* Remedy: leave --connector out"):
        args._reject_connector_flag(parsed("flexkv", transfer=object()))


def test_plugin_that_vllm_loads_does_it(
    args: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    plugin.register()
    config = parsed("flexkv")
    args._reject_connector_flag(config)
    assert adopted(config)


def test_no_flag_is_no_business_of_ours(args: types.ModuleType) -> None:
    dynamo.adopt_connector_flag()
    config = parsed()
    args._reject_connector_flag(config)
    assert config.engine_args.kv_transfer_config is None


def test_switched_off_dynamo_refuses_as_ever(
    args: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_DYNAMO_CONNECTOR_FLAG", "0")
    dynamo.adopt_connector_flag()
    with pytest.raises(ValueError, match="no longer supported"):
        args._reject_connector_flag(parsed("flexkv"))


def test_registered_twice_wraps_once(args: types.ModuleType) -> None:
    dynamo.adopt_connector_flag()
    once = args._reject_connector_flag
    dynamo.adopt_connector_flag()
    assert args._reject_connector_flag is once


def test_dynamo_without_that_function_is_left_alone(args: types.ModuleType) -> None:
    del args._reject_connector_flag
    dynamo.adopt_connector_flag()
    assert not hasattr(args, "_reject_connector_flag")


def test_process_under_dynamo_is_known_by_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("DYN_")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, dynamo.ARGS_MODULE, raising=False)
    assert not dynamo.under_dynamo()
    monkeypatch.setenv("DYN_SYSTEM_PORT", "9090")
    assert dynamo.under_dynamo()


def test_switch_of_the_original_is_accepted_and_its_replacement_named() -> None:
    notes = Settings.load(env={"DYNAMO_USE_FLEXKV": "1"}).notes
    assert len(notes) == 1
    assert "DYNAMO_USE_FLEXKV" in notes[0].text
    assert "--kv-events-config" in notes[0].text
