"""Entry point ``vllm.general_plugins``: our connector class under the name that vLLM ships.

vLLM's in-tree ``FlexKVConnectorV1`` forwards only part of the hooks (no ``handle_preemptions``, no
``reset_cache``, …), and its name cannot be registered a second time, so the entry of the registry
is replaced.  vLLM calls ``register`` in the front end, the engine core and every worker, mostly
without a connector in use: the factory module is not imported for it, the replacement waits until
somebody else imports it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from flexkv.config import Settings
from flexkv.dynamo import adopt_connector_flag
from flexkv.errors import ConfigError

logger = logging.getLogger(__name__)

FACTORY_MODULE = "vllm.distributed.kv_transfer.kv_connector.factory"
CONNECTOR_NAME = "FlexKVConnectorV1"
CONNECTOR_MODULE = "flexkv.connector"


def register() -> None:
    """Puts our class in the place of vLLM's in-tree one; may be called again; never raises."""
    try:
        module = sys.modules.get(FACTORY_MODULE)
        if module is not None:
            replace_in(module)
        elif not any(isinstance(finder, _FactoryFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _FactoryFinder())
    except Exception:
        logger.exception("FlexKV could not register its connector; vLLM's in-tree one stays")
    try:
        adopt_connector_flag()
    except Exception:
        logger.exception("FlexKV could not answer for Dynamo's --connector; use its remedy")


def replace_in(module: ModuleType) -> None:
    """Replaces the registry's entry in vLLM's factory module."""
    factory = getattr(module, "KVConnectorFactory", None)
    registry = getattr(factory, "_registry", None)
    if not isinstance(registry, dict):
        logger.warning(
            "This vLLM's connector factory has no registry that FlexKV knows. Remedy: add "
            '"kv_connector_module_path": "%s" to --kv-transfer-config',
            CONNECTOR_MODULE,
        )
        return
    in_tree = registry.get(CONNECTOR_NAME)
    if in_tree is None or getattr(in_tree, "flexkv_own", False) is not True:
        registry[CONNECTOR_NAME] = _loader(in_tree)


def _loader(in_tree: Callable[[], type[Any]] | None) -> Callable[[], type[Any]]:
    """What vLLM calls when ``FlexKVConnectorV1`` is used; decides which class it gets."""
    told: list[bool] = []

    def load() -> type[Any]:
        try:
            wanted = Settings.load().plugin_replace
        except ConfigError:
            wanted = True  # our connector says what is wrong, and stays off
        if in_tree is not None and not wanted:
            return in_tree()
        connector: type[Any] = getattr(importlib.import_module(CONNECTOR_MODULE), CONNECTOR_NAME)
        if in_tree is not None and not told:
            told.append(True)
            logger.info(
                "%s is FlexKV's own class, in the place of vLLM's in-tree one "
                "(FLEXKV_PLUGIN_REPLACE=0 keeps vLLM's)",
                CONNECTOR_NAME,
            )
        return connector

    load.flexkv_own = True  # type: ignore[attr-defined]
    return load


class _FactoryFinder(importlib.abc.MetaPathFinder):
    """Waits for the import of vLLM's factory module, runs ``replace_in`` after it, and goes."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != FACTORY_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ReplacingLoader(spec.loader)
        return spec


class _ReplacingLoader(importlib.abc.Loader):
    """The module's own loader, and ``replace_in`` once it has run."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source and others, for tracebacks

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        try:
            replace_in(module)
        except Exception:
            logger.exception("FlexKV could not register its connector; vLLM's in-tree one stays")
