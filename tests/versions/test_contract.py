"""Our connector against what every release of vLLM asks of one (``contract.json``), without vLLM.

A stand-in package with the release's base class, as the record has it, takes vLLM's place; our
module is imported anew on top of it, made for both roles as vLLM makes it, and called as vLLM calls
it.  What a release really does with it is tested by ``make test-versions``.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import logging
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from environments import PINNED
from versions import read_contract

KNOWN = read_contract.known()
BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
SCHEDULER = "vllm.v1.core.sched.scheduler"
MANAGER = "vllm.v1.core.kv_cache_manager"
#: Our modules that look at vLLM when they are imported.
OURS = ("flexkv.connector", "flexkv.forwarding", "flexkv.vllm_api")
IMPL = "flexkv.integration.vllm.vllm_v1_adapter"


class Release:
    """One release of vLLM as the record has it, standing in for vLLM."""

    def __init__(self, version: str) -> None:
        self.version = version
        known = read_contract.of_version(KNOWN, version)
        self.hooks: dict[str, str] = known["hooks"]
        self.facts: dict[str, bool] = known["facts"]
        self.calls = [call.split("/") for call in known["calls"]]
        self.wrapper = [call.split("/") for call in known["wrapper"]]

    def modules(self) -> dict[str, types.ModuleType]:
        base = types.ModuleType(BASE)
        hybrid = {"request_finished_all_groups"} & set(self.hooks)
        text = "from abc import ABC, abstractmethod\n"
        text += self._class("KVConnectorBase_V1", sorted(set(self.hooks) - hybrid))
        if self.facts["supports_hma_class"]:
            text += self._class("SupportsHMA", sorted(hybrid))
        exec(text, base.__dict__)
        base.__dict__["KVConnectorRole"] = enum.Enum("KVConnectorRole", "SCHEDULER WORKER")
        base.__dict__["KVConnectorMetadata"] = type("KVConnectorMetadata", (), {})
        kept = ", delay_free_blocks=False" * self.facts["aborted_loads_keep_their_blocks"]
        room = ", reserved_blocks=0" * self.facts["admitted_loads_keep_room"]
        scheduler, manager = types.ModuleType(SCHEDULER), types.ModuleType(MANAGER)
        exec(
            f"class Scheduler:\n def _free_request(self, request{kept}): pass\n",
            scheduler.__dict__,
        )
        exec(
            f"class KVCacheManager:\n def allocate_slots(self, request{room}): pass\n",
            manager.__dict__,
        )
        top = types.ModuleType("vllm")
        top.__dict__["__version__"] = self.version
        modules = {"vllm": top, BASE: base, SCHEDULER: scheduler, MANAGER: manager}
        for name in (BASE, SCHEDULER, MANAGER):
            for parent in _parents(name):
                modules.setdefault(parent, types.ModuleType(parent))
        for name, module in modules.items():
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(modules[parent], last, module)
        return modules

    def _class(self, name: str, hooks: list[str]) -> str:
        lines = [f"class {name}(ABC):", " pass"]
        for hook in hooks:
            kind, _, parameters = self.hooks[hook].partition("(")
            for mark in kind.replace("abstract", "abstractmethod").split():
                lines.append(f" @{mark}")
            first = "cls" if "classmethod" in kind else "self"
            parameters = f"{first}, {parameters}" if parameters != ")" else f"{first})"
            body = "pass" if hook != "__init__" else "self._connector_metadata = None"
            lines.append(f" def {hook}({parameters}: {body}")
        return "\n".join(lines) + "\n"

    def make(self, connector: Any, role: str, **extra: Any) -> Any:
        """As vLLM's factory does."""
        roles = sys.modules[BASE].KVConnectorRole
        transfer = SimpleNamespace(kv_connector_extra_config=extra)
        arguments: list[Any] = [SimpleNamespace(kv_transfer_config=transfer), roles[role]]
        if self.facts["kv_cache_config_argument"]:
            arguments.append(SimpleNamespace(kv_cache_groups=[]))
        return connector(*arguments)


@pytest.fixture(params=KNOWN["versions"])
def release(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """Every release in turn, in vLLM's place."""
    for name in [m for m in sys.modules if m.partition(".")[0] == "vllm" or m in (*OURS, IMPL)]:
        monkeypatch.delitem(sys.modules, name)
    one = Release(request.param)
    for name, module in one.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    yield one
    for name in (*OURS, IMPL):
        sys.modules.pop(name, None)


def connector() -> Any:
    return importlib.import_module("flexkv.connector").FlexKVConnectorV1


def test_made_for_both_roles_and_switched_off_answers_every_call(release: Release) -> None:
    for role in ("SCHEDULER", "WORKER"):
        ours = release.make(connector(), role, enable_flexkv=False)
        for name, count, names in release.calls:
            call = getattr(ours, name)
            if callable(call):
                call(*[_Anything()] * int(count), **_named(names))
        assert ours.get_num_new_matched_tokens(_Anything(), 16) == (0, False)
        assert ours.request_finished(_Anything(), [1]) == (False, None)
        assert ours.get_finished(set()) == (None, None)


def test_every_hook_takes_its_parameters_by_place_and_by_name(release: Release) -> None:
    for name, known in release.hooks.items():
        if "property" in known:
            continue
        mine = inspect.signature(getattr(connector(), name))
        bound = [] if "classmethod" in known else [None]
        plain = [p for p in _parameters(known) if p.kind is p.POSITIONAL_OR_KEYWORD]
        mine.bind(*bound, *(object() for _ in plain))
        if len(KNOWN["hooks"][name]) == 1 or name == "__init__":  # else vLLM calls it by place
            mine.bind(*bound, **{p.name: object() for p in plain})
        if any(p.kind is p.VAR_KEYWORD for p in _parameters(known)):
            assert any(p.kind is p.VAR_KEYWORD for p in mine.parameters.values()), name


def test_vllms_own_wrapper_finds_what_it_calls(release: Release) -> None:
    assert bool(release.wrapper) == release.facts["in_tree_wrapper"]
    impl = importlib.import_module(IMPL).FlexKVConnectorV1Impl
    for name, count, names in release.wrapper:
        inspect.signature(getattr(impl, name)).bind(None, *[0] * int(count), **_named(names))


@pytest.mark.parametrize("role", ["SCHEDULER", "WORKER"])
def test_vllms_own_wrapper_need_not_hand_on_what_its_kv_caches_are(
    release: Release, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(IMPL)
    seen: list[Any] = []
    for name in ("scheduler_hooks", "worker_hooks"):
        monkeypatch.setattr(module, name, lambda _, caches, **__: seen.append(caches))

    class Wrapper:
        def __init__(self, role: Any, kv_cache_config: Any) -> None:
            self._kv_cache_config = kv_cache_config
            self._flexkv_connector = module.FlexKVConnectorV1Impl(object(), role)

    told = object()
    Wrapper(sys.modules[BASE].KVConnectorRole[role], told)
    assert seen == [told]


def test_release_that_cannot_hear_of_failed_loads_is_told_so_and_runs_on(
    release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "flexkv")
    lacking = importlib.import_module("flexkv.vllm_api").lacking()
    assert bool(lacking) != release.facts["failed_loads_are_recomputed"]
    if not lacking:
        return
    scheduler = release.make(connector(), "SCHEDULER")
    worker = release.make(connector(), "WORKER")
    worker.register_kv_caches({"layer": object()})
    assert scheduler.get_num_new_matched_tokens(_Anything(), 0) == (0, False)
    assert f"vLLM {release.version} cannot hear of a load that failed" in caplog.text
    assert "Remedy: vLLM 0.11.1 or newer" in caplog.text
    assert caplog.text.count("serves nothing") == 1


def test_what_older_releases_leave_to_us_is_seen(release: Release) -> None:
    facts = release.facts
    served = facts["failed_loads_are_recomputed"]
    found = importlib.import_module("flexkv.vllm_api").quirks()
    assert found.frees_open_loads == (served and not facts["aborted_loads_keep_their_blocks"])
    assert found.resumes_loads_as_new == found.shows_new_blocks_only
    assert found.shows_new_blocks_only == (served and not facts["alloc_shows_the_whole_table"])
    assert found.admits_without_room == (served and not facts["admitted_loads_keep_room"])
    scheduler = release.make(connector(), "SCHEDULER", enable_flexkv=False)
    assert (scheduler._scheduler._kept is not None) == found.frees_open_loads


def test_hybrid_allocator_stays_on_where_vllm_asks(release: Release) -> None:
    mark = getattr(sys.modules[BASE], "SupportsHMA", None)
    assert (mark is not None) == release.facts["supports_hma_class"]
    assert mark is None or issubclass(connector(), mark)


def test_record_names_every_release_that_is_run() -> None:
    assert set(PINNED) <= set(KNOWN["versions"])


def test_record_read_packed_and_unpacked_is_the_same() -> None:
    every = {v: read_contract.of_version(KNOWN, v) for v in KNOWN["versions"]}
    assert read_contract.packed(every) == KNOWN


def test_reading_a_source_names_parameters_calls_and_behaviour() -> None:
    files = {
        read_contract._BASE: (
            "class KVConnectorBase_V1(ABC):\n"
            " def __init__(self, vllm_config, role): pass\n"
            " @classmethod\n"
            " def layout(cls, vllm_config: int = 3, *rest: int): pass\n"
            " @abstractmethod\n"
            " def start(self, context: str, **kwargs): pass\n"
            " def _private(self): pass\n"
        ),
        read_contract._FACTORY: "register('FlexKVConnectorV1')\nkv_cache_config\n",
        read_contract._SCHEDULER: (
            "def _free_request(self, request, delay_free_blocks=False):\n"
            " self.connector.start(1, x=2)\n self.ec_connector.start(1, 2)\n"
        ),
        read_contract._WRAPPER: "self._flexkv_connector.start(context)\n",
    }
    found = read_contract.read(files)
    assert found["hooks"] == {
        "__init__": "(vllm_config, role)",
        "layout": "classmethod (vllm_config=3, *rest)",
        "start": "abstract (context, **kwargs)",
    }
    assert found["calls"] == ["start/1/x"]
    assert found["wrapper"] == ["start/1/"]
    assert found["facts"]["aborted_loads_keep_their_blocks"]
    assert not found["facts"]["failed_loads_are_recomputed"]


class _Anything:
    """An argument of any type: our hooks look at nothing while FlexKV is off."""

    request_id = "r"


def _named(names: str) -> dict[str, Any]:
    return {name: _Anything() for name in names.split(",") if name}


def _parameters(known: str) -> list[inspect.Parameter]:
    scope: dict[str, Any] = {}
    exec(f"def f({known.partition('(')[2]}: pass", scope)
    return list(inspect.signature(scope["f"]).parameters.values())


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
