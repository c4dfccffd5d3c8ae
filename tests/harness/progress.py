"""Says what is being waited for, so that nobody stares at a silent terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Between two signs of life; in a log that nobody watches fewer are enough.
_QUIET_S = 2.0 if sys.stderr.isatty() else 15.0
_WORTH_TELLING_S = 2.0


@contextmanager
def step(text: str) -> Iterator[None]:
    """Prints `text` at once, a sign of life now and then, and how long the body took."""
    begun = time.monotonic()
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(_QUIET_S):
            sys.stderr.write(f"    … {text}: {time.monotonic() - begun:.0f} s\n")
            sys.stderr.flush()

    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        took = time.monotonic() - begun
        if took >= _WORTH_TELLING_S:
            sys.stderr.write(f"    done after {took:.1f} s\n")
            sys.stderr.flush()
