"""The tables of ``docs/versions.md``: what releases ask for, and what was seen to work on them.

From ``tests/versions/contract.json`` (read out of the releases' sources) and the records that
``make test-versions`` writes to ``docs/versions``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from versions import read_contract

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "versions.md"
RECORDS = ROOT / "docs" / "versions"
PINS = ROOT / "tests" / "env" / "requirements"
SHIM = ROOT / "python-shim" / "src" / "flexkv"
BEGIN = "<!-- printed from docs/versions/*.json and contract.json by `make pages`: begin -->"
END = "<!-- printed from docs/versions/*.json and contract.json by `make pages`: end -->"

_COUNTS = (
    "answers compared token by token",
    "requests aborted with their load open",
    "blocks whose load failed",
    "preemptions",
)
_FACTS = {
    "module path": "module_path",
    "module path wins over a built-in name": "module_path_wins",
    "wrapper in vLLM's tree": "in_tree_wrapper",
    "a lookup may be put off": "lookup_may_be_put_off",
    "failed loads are recomputed": "failed_loads_are_recomputed",
    "aborted loads keep their blocks": "aborted_loads_keep_their_blocks",
    "allocation shows the whole block table": "alloc_shows_the_whole_table",
    "admitted loads keep room": "admitted_loads_keep_room",
    "block pool shown to connectors": "pool_is_shown",
    "mark for the hybrid allocator": "supports_hma_class",
    "MultiConnector shows all blocks": "multi_connector_shows_all_blocks",
}
_HOOKS = {
    "`on_new_request`": "on_new_request",
    "`reset_cache`": "reset_cache",
    "`has_pending_push_work`": "has_pending_push_work",
}


def printed() -> str:
    """The whole page as it should be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    known = read_contract.known()
    releases = known["versions"]
    runs = records(releases)
    tables = "\n".join([*_runs(runs), *_releases(known, runs), *_hooks(known, runs)])
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def records(releases: list[str]) -> list[dict[str, Any]]:
    """The runs, the oldest release first."""
    found = [json.loads(path.read_text()) for path in RECORDS.glob("*.json")]
    return sorted(found, key=lambda run: releases.index(run["vllm"]))


def _runs(runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Run on the CPU"
    yield ""
    yield from _table(["", *(run["vllm"] for run in runs)])
    rows = list(dict.fromkeys(row for run in reversed(runs) for row in run["rows"]))
    for row in rows:
        yield _row([row, *(run["rows"].get(row, "**not seen**") for run in runs)])
    for count in _COUNTS:
        yield _row([count, *(f"{run['counts'].get(count, 0):,}" for run in runs)])
    yield _row(["torch", *(run["torch"].partition("+")[0] for run in runs)])
    yield ""
    waiting = [version for version in _pinned() if version not in {run["vllm"] for run in runs}]
    if waiting:
        yield f"Pinned, without a record so far: {', '.join(waiting)}."
        yield ""


def _pinned() -> list[str]:
    """The releases that ``make test-versions`` has an environment for."""
    names = [path.stem.removeprefix("vllm-") for path in PINS.glob("vllm-[0-9]*.txt")]
    return sorted(names, key=lambda version: [int(part) for part in version.split(".")])


def _releases(known: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Every release"
    yield ""
    yield from _table(["vLLM", "FlexKV", "tested by", *_FACTS, *_HOOKS, "fences a step"])
    run_here = {run["vllm"] for run in runs}
    for version in known["versions"]:
        one = read_contract.of_version(known, version)
        served = "serves" if one["facts"]["failed_loads_are_recomputed"] else "off, with a warning"
        tested = "run" if version in run_here else "signatures"
        facts = [_mark(one["facts"][fact]) for fact in _FACTS.values()]
        hooks = [_mark(hook in one["hooks"]) for hook in _HOOKS.values()]
        first = "kv_connector_metadata" in one["hooks"].get("handle_preemptions", "")
        fences = "`handle_preemptions`" if first else "`start_load_kv`"
        yield _row([version, served, tested, *facts, *hooks, fences])
    yield ""


def _hooks(known: dict[str, Any], runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Every hook"
    yield ""
    yield from _table(["hook", "parameters", "in releases", "FlexKV", "called in the runs"])
    own = _own_hooks()
    for hook, forms in known["hooks"].items():
        called = [run["vllm"] for run in runs if hook in run["hooks"]]
        answer = "own" if hook in own else "vLLM's default"
        for parameters, spans in forms.items():
            mine = [v for v in called if hook_form(known, hook, v) == parameters]
            shown = "all" if mine and len(mine) == len(runs) else ", ".join(mine)
            where = ", ".join(spans).replace("..", " – ")
            yield _row([f"`{hook}`", f"`{parameters}`", where, answer, shown])
    yield ""


def hook_form(known: dict[str, Any], hook: str, version: str) -> str | None:
    """The parameters of a hook in one release."""
    form: str | None = read_contract.of_version(known, version)["hooks"].get(hook)
    return form


def _own_hooks() -> set[str]:
    """What our class answers itself, read without importing it."""
    found: set[str] = set()
    for name in ("forwarding.py", "connector.py"):
        for node in ast.walk(ast.parse((SHIM / name).read_text())):
            if isinstance(node, ast.ClassDef):
                found |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def _mark(holds: bool) -> str:
    return "yes" if holds else "–"


def _table(heads: list[str]) -> Iterator[str]:
    yield _row(heads)
    yield "|" + "---|" * len(heads)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
