"""The line of figures that appears every so many requests."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from flexkv.latency import Latencies
from flexkv.pulse import Pulse
from flexkv.requests import RequestState


def side(**figures: int) -> Any:
    lookups = SimpleNamespace(asked=figures.get("asked", 0), times=Latencies())
    return SimpleNamespace(
        lookups=lookups,
        loads=SimpleNamespace(failed=figures.get("failed", 0)),
        blocks_committed=figures.get("committed", 0),
    )


def ended(prompt: int, local: int, loaded: int) -> RequestState:
    state = RequestState(1, "r", SimpleNamespace(num_prompt_tokens=prompt))
    state.local, state.loaded = local, loaded
    return state


def test_line_comes_every_interval_and_counts_from_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flexkv")
    pulse = Pulse(2, 16)
    pulse.finished(side(), ended(100, 1, 0))
    assert caplog.text == ""
    pulse.finished(side(asked=3, committed=7, failed=1), ended(100, 0, 4))
    (first,) = caplog.messages
    assert first.startswith(
        "2 requests, 200 prompt tokens: 32.0% from FlexKV, 8.0% from GPU memory, 60.0% computed; "
        "3 lookups"
    )
    assert first.endswith("1 loads failed, 7 blocks saved")
    for _ in range(2):
        pulse.finished(side(asked=5, committed=7, failed=1), ended(32, 0, 0))
    assert caplog.messages[1].startswith("2 requests, 64 prompt tokens: 0.0% from FlexKV")
    assert "; 2 lookups" in caplog.messages[1]
    assert caplog.messages[1].endswith("0 loads failed, 0 blocks saved")


def test_request_without_a_prompt_divides_nothing_by_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "flexkv")
    Pulse(1, 16).finished(side(), ended(0, 0, 0))
    assert "0.0% computed" in caplog.text
