"""What the engine's log says of a sidecar that does not answer: once, and once that it does."""

from __future__ import annotations

import pytest

from flexkv.silence import SAY_EVERY_S, Silence

AFTER_S = 2.0


class Rig:
    """An engine that makes a step a second."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self.silence = Silence(lambda: self.now, AFTER_S)
        self._caplog = caplog

    def silent_for(self, seconds: int, since: float | None = None) -> None:
        """From now on, found out at once."""
        self.silence.begin(7, self.now if since is None else since)
        for _ in range(seconds):
            self.silence.goes_on()
            self.now += 1.0

    def said(self) -> list[str]:
        lines = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return lines


@pytest.fixture
def rig(caplog: pytest.LogCaptureFixture) -> Rig:
    return Rig(caplog)


def test_begin_of_a_long_silence_is_said_at_once_and_only_once(rig: Rig) -> None:
    rig.silent_for(10 * int(SAY_EVERY_S), since=rig.now - 2.5)
    (line,) = rig.said()
    assert line == (
        "The FlexKV sidecar (pid 7) has answered nothing for 2.5 s: it is stopped, frozen or "
        "overloaded. Remedy: kill -CONT 7 (or thaw its container); if it must go, kill -9 7, and "
        "engines start another. Until it answers, requests are computed without hits, and none "
        "waits for it"
    )
    assert rig.silence.on
    rig.silence.end()
    assert rig.said() == ["The FlexKV sidecar (pid 7) answers again, after 602.5 s"]
    assert not rig.silence.on


def test_begin_that_did_not_last_long_enough_yet_is_said_when_it_has(rig: Rig) -> None:
    rig.silent_for(1)
    assert rig.said() == [] and rig.silence.on, "a question was lost, of others it answers"
    rig.silence.end()
    assert rig.said() == [], "what was not said to begin does not end"
    rig.silent_for(3)
    assert "answered nothing for 2.0 s" in rig.said()[0]


def test_end_that_an_idle_engine_sees_late_says_within_what_time_it_came(rig: Rig) -> None:
    """Whether the sidecar answered at once or just now is not to be seen."""
    rig.silent_for(4)
    assert len(rig.said()) == 1
    rig.now += 597.0
    rig.silence.end()
    (line,) = rig.said()
    assert line == (
        "The FlexKV sidecar (pid 7) answers again, after 3.0 s at least and 601.0 s at most: this "
        "engine looks only in its steps, and made none between"
    )


def test_begin_again_within_a_minute_is_said_only_if_it_lasts(rig: Rig) -> None:
    rig.silent_for(3)
    rig.silence.end()
    assert len(rig.said()) == 2
    for _ in range(5):
        rig.silent_for(5)
        rig.silence.end()
    assert rig.said() == []
    rig.silent_for(int(SAY_EVERY_S))
    (line,) = rig.said()
    assert "answered nothing for 3" in line, "of this silence alone"
    rig.silence.end()
    assert len(rig.said()) == 1


def test_forget_with_the_session_says_nothing_more(rig: Rig) -> None:
    rig.silent_for(3)
    rig.said()
    rig.silence.forget()
    assert not rig.silence.on
    rig.silence.end()
    assert rig.said() == []
