"""A sidecar, engines without a model, and Dynamo's real router at the other end."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import checkout, dynamo
from harness.dynamo import Indexer
from harness.modelless import BLOCK_TOKENS
from harness.routing import Rig, make_rig

_COUNTS = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=20261126, help="seed of chains and of what happens"
    )
    parser.addoption("--chain", action="store_true", help="the chain with real engines as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chain: real engines behind Dynamo, minutes")
    config.stash[_COUNTS] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--chain"):
        items[:] = [item for item in items if item.get_closest_marker("chain") is None]
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))
        if not dynamo.PYTHON.exists():
            item.add_marker(pytest.mark.skip(reason=f"no {dynamo.PYTHON}: make test-dynamo"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if counts := config.stash[_COUNTS]:
        terminalreporter.section("what was done with Dynamo's router")
        for name, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:8d}  {name}")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("--seed")
    return number


@pytest.fixture(scope="session")
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """What was done, printed after the last test."""
    return request.config.stash[_COUNTS]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    with tempfile.TemporaryDirectory(prefix="fkd-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def rig(folder: Path) -> Iterator[Rig]:
    made = make_rig(folder, FLEXKV_CPU_CACHE_GB="0.05")
    yield made
    made.close()


@pytest.fixture
def indexer() -> Iterator[Indexer]:
    with Indexer(checkout.LOGS / "dynamo-indexer.log", BLOCK_TOKENS) as made:
        yield made
