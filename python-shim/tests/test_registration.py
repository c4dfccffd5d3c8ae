"""A rank's first registration: what is not answered, or dies, is followed by another attempt."""

from __future__ import annotations

import time
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: no KV tensors to prove")

from test_proof import Sidecar, layers  # noqa: E402

from flexkv import registration  # noqa: E402
from flexkv.errors import ControlError, FlexKVError  # noqa: E402
from flexkv.fences import NoFences  # noqa: E402
from flexkv.registration import ATTEMPTS_MAX, Registration  # noqa: E402

REQUESTS = ("register", "prove_read", "prove_write", "confirm")
LATE = ControlError("timeout", "no answer within 30 s", may_run=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "ENDING_S", 0.05)
    monkeypatch.setattr(registration, "allow_tracing_by", lambda pid: None)


class OneLife(Sidecar):
    """A session that fails at one request, or sees the memory wrongly."""

    server_pid = 4711
    boot_epoch = 1

    def __init__(self, at: str = "", error: FlexKVError = LATE, *, wrong: bool = False) -> None:
        super().__init__(LAYERS[0], LAYERS[1], 0, wrong)
        self.at, self.error = at, error
        self.asked: list[str] = []
        self.open = True

    def control(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if not self.open:
            raise ControlError("gone", "the session is closed")
        self.asked.append(op)
        if op == self.at:
            raise self.error
        if op in ("register", "confirm"):
            return {"part_bytes": self.layout.part_bytes}
        return super().control(op, args, timeout_s)

    def alive(self) -> bool:
        return self.open

    def close(self) -> None:
        self.open = False

    def kill_server(self) -> bool:
        self.open = False
        return True

    def server_dead(self) -> bool:
        return not self.open


LAYERS = layers()


class Lives:
    """A link to one sidecar after the other; it is a while until it sees that one has gone."""

    def __init__(self, *lives: OneLife) -> None:
        self.lives = list(lives)
        self.waits: list[float] = []
        self.looks = 0

    def session(self) -> Any:
        self.looks += 1
        if self.lives and not self.lives[0].open and self.looks % 2 == 0:
            del self.lives[0]
        return self.lives[0] if self.lives else None

    def wait(self, timeout_s: float) -> Any:
        self.waits.append(timeout_s)
        return self.lives[0] if self.lives else None


def register(*lives: OneLife) -> tuple[bool, Lives]:
    link = Lives(*lives)
    served = Registration().first(LAYERS[0], NoFences(), link, 7.0)  # type: ignore[arg-type]
    assert not LAYERS[1].any(), "vLLM finds its blocks as they were"
    return served, link


@pytest.mark.parametrize("at", REQUESTS)
def test_request_without_an_answer_is_followed_by_another_attempt(at: str) -> None:
    silent, other = OneLife(at), OneLife()
    served, link = register(silent, other)
    assert served
    assert not silent.open, "a paused sidecar serves nobody through that session"
    assert other.asked[0] == "register"
    assert other.asked[-1] == "confirm"
    assert ("prove_write" in other.asked) == (at != "confirm"), "live blocks are not proved in"
    assert link.waits == [7.0, 7.0], "the next sidecar has all its time to start"


def test_nobody_answers_after_some_attempts_the_engine_goes_on_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lives = [OneLife("prove_read") for _ in range(ATTEMPTS_MAX + 1)]
    served, link = register(*lives)
    assert not served
    assert len(link.waits) == ATTEMPTS_MAX
    assert "FlexKV serves nothing to this rank" in caplog.text


def test_attempts_that_take_long_are_not_followed_by_one_after_twice_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1))
    slow = [OneLife("register"), OneLife("register"), OneLife()]
    for life in slow:
        ask = life.control

        def control(op: str, args: Any, timeout_s: float, ask: Any = ask) -> Any:
            now[0] += 6.0
            return ask(op, args, timeout_s)

        monkeypatch.setattr(life, "control", control)
    served, link = register(*slow)
    assert not served
    assert len(link.waits) == 2
    assert link.waits[1] < 7.0 + 1.0


def test_proved_layout_whose_confirmation_is_lost_is_registered_in_the_background() -> None:
    served, link = register(OneLife("confirm"))
    assert served, "the blocks may be in use by now, and were proved before"
    assert len(link.waits) == 2


def test_nobody_there_names_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    link = Lives()
    link.wait = time.sleep  # type: ignore[assignment, method-assign]
    assert not Registration().first(LAYERS[0], NoFences(), link, 0.01)  # type: ignore[arg-type]
    (said,) = [r.message for r in caplog.records if "serves nothing" in r.message]
    assert "no sidecar could be reached within 0 s" in said
    assert said.endswith(". Remedy: restart this engine once a sidecar answers")


@pytest.mark.parametrize("code", ["refused", "malformed"])
def test_refusal_is_final(code: str) -> None:
    refusing = OneLife("register", ControlError(code, "no"))
    served, link = register(refusing, OneLife())
    assert not served
    assert refusing.asked == ["register"]
    assert len(link.waits) == 1


@pytest.mark.parametrize("code", ["limit", "timeout", "stopping", "internal", "gone"])
def test_answer_that_says_nothing_of_the_layout_is_followed_by_another_attempt(code: str) -> None:
    served, _ = register(OneLife("register", ControlError(code, "not now")), OneLife())
    assert served


def test_refusal_of_a_sidecar_that_ends_behind_it_leads_to_the_next() -> None:
    """As one whose device is lost to it does."""
    lost = OneLife("register", ControlError("refused", "the device is lost"))
    looks = iter([True, True])
    lost.alive = lambda: next(looks, False)  # type: ignore[method-assign]
    served, _ = register(lost, OneLife())
    assert served


def test_layout_that_the_sidecar_sees_otherwise_is_final() -> None:
    served, link = register(OneLife(wrong=True), OneLife())
    assert not served
    assert len(link.waits) == 1
