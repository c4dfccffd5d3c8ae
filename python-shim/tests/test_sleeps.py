"""Sleeps of the scheduler's thread."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

from flexkv.sleeps import exact_sleeps

_PR_SET_TIMERSLACK = 29
_PR_GET_TIMERSLACK = 30
_SLACK_NS = 50_000


def slack_ns() -> int:
    return int(ctypes.CDLL(None).prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0))


def set_slack() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_SLACK_NS), 0, 0, 0)


def test_exact_sleeps_takes_the_slack_from_the_calling_thread_alone() -> None:
    with ThreadPoolExecutor(1) as main, ThreadPoolExecutor(1) as pool:
        main.submit(set_slack).result()
        pool.submit(set_slack).result()
        assert pool.submit(exact_sleeps).result()
        assert pool.submit(slack_ns).result() == 1
        assert main.submit(slack_ns).result() == _SLACK_NS
