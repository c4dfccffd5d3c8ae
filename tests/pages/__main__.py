"""Prints the tables of ``docs/configuration.md`` and ``docs/versions.md``: python tests/pages.

The prose around them is written by hand; the tables stand between two comment lines. All of
``docs/performance/README.md`` is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gpu import report  # noqa: E402 (a neighbour of this script)
from pages import releases  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "python-shim" / "src" / "flexkv" / "options.json"
BEGIN = "<!-- printed from options.json by `make pages`: begin -->"
END = "<!-- printed from options.json by `make pages`: end -->"


def main() -> int:
    """0 = the pages are as their sources say; ``--check``: nothing is written and 1 = stale."""
    stale = 0
    for page, wanted in (
        (PAGE, printed()),
        (releases.PAGE, releases.printed()),
        (report.FOLDER / "README.md", report.page()),
    ):
        if page.read_text() == wanted:
            continue
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{page.relative_to(ROOT)} is stale: make pages\n")
            stale = 1
        else:
            page.write_text(wanted)
            sys.stdout.write(f"{page.relative_to(ROOT)} written\n")
    return stale


def printed() -> str:
    """The whole page of options as it should be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    schema = json.loads(SCHEMA.read_text())
    tables = "\n".join(line for section in schema["sections"] for line in _section(section))
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _section(section: dict[str, Any]) -> Iterator[str]:
    yield f"### {section['title']}"
    yield ""
    if section["about"]:
        yield section["about"]
        yield ""
    described = [row for row in section["options"] if "doc" in row]
    if described:
        yield "| name | environment | default | allowed | whose | what |"
        yield "|---|---|---|---|---|---|"
        for row in described:
            yield _described(row)
        yield ""
    accepted = [row for row in section["options"] if "doc" not in row]
    if accepted:
        yield "| name | environment | what happens |"
        yield "|---|---|---|"
        for row in accepted:
            yield f"| {_names(row)} | {_envs(row)} | {_answer(row)} |"
        yield ""


def _described(row: dict[str, Any]) -> str:
    default = f"`{row['default']}`" if row["default"] else "empty"
    what = row["doc"] + ("; `flexkv set` changes it" if row.get("live") else "")
    if row["status"] != "works":
        what += f". *{_answer(row)}*"
    cells = (_names(row), _envs(row), default, row["allowed"], row["side"], what)
    return f"| {' | '.join(cells)} |"


def _names(row: dict[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in (row["name"], *row.get("aliases", ())))


def _envs(row: dict[str, Any]) -> str:
    first = row.get("env", f"FLEXKV_{row['name'].upper()}")
    names = ", ".join(f"`{name}`" for name in (first, *row.get("env_aliases", ())))
    return names + (" ¹" if row.get("file_replaces_env") else "")


def _answer(row: dict[str, Any]) -> str:
    begin = {"absent": "Not built: ", "replaced": "Accepted: "}[row["status"]]
    return begin + str(row["says"])


if __name__ == "__main__":
    sys.exit(main())
