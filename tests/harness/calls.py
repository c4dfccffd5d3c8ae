"""The far side of an engine in a process of its own: takes functions, calls them, sends answers."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def serve(connection: Connection, start: Callable[[Any], tuple[Any, Any]]) -> None:
    """Answers messages until `("close",)` or the end of the connection.

    `("start", settings)` calls `start(settings)`, which returns the engine and the answer;
    `("call", function, args, kwargs)` answers what `function(engine, *args, **kwargs)` returned. An
    answer is `("returned", value)`, or `("raised", traceback)`. Messages are pickled by our own
    tests, never by anybody else.
    """
    engine: Any = None
    while True:
        try:
            kind, *rest = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            value: Any = None
            if kind == "start":
                engine, value = start(rest[0])
            elif kind == "call":
                function, args, kwargs = rest
                value = function(engine, *args, **kwargs)
            elif engine is not None:
                engine.close()
            connection.send(("returned", value))
        except BaseException:  # whatever it is, the other side must hear of it
            connection.send(("raised", traceback.format_exc()))
        if kind == "close":
            return
