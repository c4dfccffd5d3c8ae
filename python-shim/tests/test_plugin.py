"""The plugin: our class in the place of the in-tree one, whenever the factory comes to life."""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexkv import plugin

FACTORY = """
class InTree: pass
class Other: pass
class KVConnectorFactory:
    _registry = {"FlexKVConnectorV1": lambda: InTree, "Other": lambda: Other}
"""


@pytest.fixture(autouse=True)
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with vLLM's module names, and a connector module of ours."""
    folder = tmp_path
    for part in plugin.FACTORY_MODULE.split(".")[:-1]:
        folder = folder / part
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (folder / "factory.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    connector = types.ModuleType(plugin.CONNECTOR_MODULE)
    connector.FlexKVConnectorV1 = type("FlexKVConnectorV1", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.CONNECTOR_MODULE, connector)
    before = dict(sys.modules)
    finders = list(sys.meta_path)
    for name in [m for m in sys.modules if m == "vllm" or m.startswith("vllm.")]:
        del sys.modules[name]
    yield
    sys.meta_path[:] = finders
    for name in [m for m in sys.modules if m == "vllm" or m.startswith("vllm.")]:
        del sys.modules[name]
    sys.modules.update({n: m for n, m in before.items() if n.startswith("vllm")})


def chosen() -> Any:
    factory = importlib.import_module(plugin.FACTORY_MODULE).KVConnectorFactory
    return factory._registry["FlexKVConnectorV1"]()


def ours() -> Any:
    return sys.modules[plugin.CONNECTOR_MODULE].FlexKVConnectorV1


def test_registered_before_the_factory_is_imported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flexkv")
    plugin.register()
    plugin.register()
    assert plugin.FACTORY_MODULE not in sys.modules, "nothing is imported for it"
    assert chosen() is ours()
    assert chosen() is ours()
    assert caplog.text.count("in the place of vLLM's in-tree one") == 1
    assert not any(isinstance(f, plugin._FactoryFinder) for f in sys.meta_path)
    module = sys.modules[plugin.FACTORY_MODULE]
    assert module.KVConnectorFactory._registry["Other"]() is module.Other
    assert module.__spec__ is not None


def test_registered_after_the_factory_was_imported() -> None:
    importlib.import_module(plugin.FACTORY_MODULE)
    plugin.register()
    plugin.register()
    assert chosen() is ours()


def test_without_the_plugin_it_is_vllms() -> None:
    assert chosen().__name__ == "InTree"


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.register()
    monkeypatch.setenv("FLEXKV_PLUGIN_REPLACE", "0")
    assert chosen().__name__ == "InTree"
    monkeypatch.setenv("FLEXKV_PLUGIN_REPLACE", "1")
    assert chosen() is ours()


def test_version_without_an_in_tree_class() -> None:
    factory = importlib.import_module(plugin.FACTORY_MODULE).KVConnectorFactory
    del factory._registry["FlexKVConnectorV1"]
    plugin.register()
    assert chosen() is ours()


def test_broken_settings_leave_our_class_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXKV_LOAD_DEADLINE_MS", "soon")
    plugin.register()
    assert chosen() is ours()


def test_unknown_factory_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    module = types.ModuleType(plugin.FACTORY_MODULE)
    sys.modules[plugin.FACTORY_MODULE] = module
    plugin.register()
    assert "kv_connector_module_path" in caplog.text


def test_without_vllm_nothing_happens() -> None:
    plugin.register()
    with pytest.raises(ImportError):
        importlib.import_module("vllm.no_such_module")
