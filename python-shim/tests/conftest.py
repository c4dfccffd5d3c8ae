"""Fixtures shared by the shim's tests."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests, in importlib mode too


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A socket path in a folder of its own, short enough for ``AF_UNIX`` whatever TMPDIR is."""
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        yield str(Path(folder) / "s")
