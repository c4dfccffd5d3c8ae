"""Each cell of the first table of ``docs/versions.md`` was filled by a test."""

from __future__ import annotations

import ast

import pytest
from pages import releases

from versions import read_contract

RUNS = releases.records(read_contract.known()["versions"])
TESTS = releases.ROOT / "tests" / "e2e" / "test_release.py"


def rows_of_the_tests() -> set[str]:
    """The names that ``record("row", …)`` is called with."""
    calls = [node for node in ast.walk(ast.parse(TESTS.read_text())) if isinstance(node, ast.Call)]
    return {
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "record"
        and isinstance(call.args[0], ast.Constant)
    }


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run["vllm"]))
def test_record_has_only_rows_of_tests_and_every_answer_was_equal(run: dict[str, object]) -> None:
    rows = run["rows"]
    assert isinstance(rows, dict)
    assert set(rows) <= rows_of_the_tests(), "make test-versions"
    assert rows["cold, engine hit, sidecar hit"] == "72 of 72 answers equal"
    assert rows["sidecar dies during loads"] == "recomputed, answers equal"
    assert len(rows) >= 16


def test_the_newest_run_filled_every_row() -> None:
    assert set(RUNS[-1]["rows"]) == rows_of_the_tests()
