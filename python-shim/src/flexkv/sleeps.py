"""Sleeps that end when they were asked to.

The kernel lets a thread sleep up to 50 µs longer than it asks, to wake several at once.  The
scheduler's thread looks for a load's end every 20 µs, and vLLM lets it sleep a millisecond before
the step that takes the load up: both are on the way to the first token.
"""

from __future__ import annotations

import ctypes

_PR_SET_TIMERSLACK = 29
_NANOS = 1


def exact_sleeps() -> bool:
    """Does without that slack, for the calling thread; false where the kernel does not know it.

    Threads and processes that it starts later inherit that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_NANOS), 0, 0, 0) == 0)
