"""Sleeps of the scheduler's thread."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

from flexkv.sleeps import exact_sleeps

_PR_GET_TIMERSLACK = 30


def slack_ns() -> int:
    return int(ctypes.CDLL(None).prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0))


def test_exact_sleeps_takes_the_slack_from_the_calling_thread_alone() -> None:
    usual = slack_ns()
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(slack_ns).result()
        assert pool.submit(exact_sleeps).result()
        assert pool.submit(slack_ns).result() == 1
    assert before == usual != 1
    assert slack_ns() == usual
