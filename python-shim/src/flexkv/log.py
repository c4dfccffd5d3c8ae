"""Logging of the package: everything under ``flexkv``, level by ``FLEXKV_LOG_LEVEL``.

vLLM configures only its own loggers, so without a handler of ours nothing below WARNING would ever
be seen.  Where the application has configured ``flexkv`` or the root logger, that stays.
"""

from __future__ import annotations

import logging

OFF = logging.CRITICAL + 1
FORMAT = "%(levelname)s %(asctime)s [flexkv pid %(process)d %(name)s] %(message)s"


def setup_logging(level: str = "INFO", prefix: str = "") -> None:
    """Sets the level of ``flexkv`` and, if nobody handles its records, a handler to stderr.

    ``prefix`` is what that handler begins every line with.
    """
    logger = logging.getLogger("flexkv")
    logger.setLevel(OFF if level == "OFF" else level)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(prefix + FORMAT, "%m-%d %H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
