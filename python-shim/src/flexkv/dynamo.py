"""NVIDIA Dynamo: the ways in that its users know, and what is missing where events are off.

Dynamo from 1.0 on refuses ``--connector`` for vLLM workers and names ``--kv-transfer-config``,
which is the way that we document.  Scripts that still say ``--connector flexkv`` (or have
``DYN_CONNECTOR=flexkv``) work all the same: vLLM runs our plugin before Dynamo looks at the flag,
and the plugin answers for Dynamo's refusal.  Only for exactly this name: everything else is
Dynamo's to judge.  It replaces a private function; where that is not there, nothing happens.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flexkv.config import Settings
from flexkv.errors import ConfigError

logger = logging.getLogger(__name__)

ARGS_MODULE = "dynamo.vllm.args"
REFUSAL = "_reject_connector_flag"
CONNECTOR = "flexkv"
CONNECTOR_ENV = "DYN_CONNECTOR"
EVENTS_EXAMPLE = (
    '{"enable_kv_cache_events": true, "publisher": "zmq", "topic": "kv-events", '
    '"endpoint": "tcp://*:20080"}'
)


def under_dynamo() -> bool:
    """Whether this process belongs to a Dynamo worker."""
    return ARGS_MODULE in sys.modules or any(name.startswith("DYN_") for name in os.environ)


def adopt_connector_flag() -> None:
    """Makes a Dynamo that parses its arguments right now take ``--connector flexkv``."""
    module = sys.modules.get(ARGS_MODULE)
    refuse = getattr(module, REFUSAL, None)
    if not isinstance(module, ModuleType) or refuse is None or _is_ours(refuse):
        return
    try:
        wanted = Settings.load().dynamo_connector_flag
    except ConfigError:
        wanted = True  # our connector says what is wrong
    if wanted:
        setattr(module, REFUSAL, _adopting(refuse))


def _is_ours(function: Any) -> bool:
    return getattr(function, "flexkv_own", False) is True


def _adopting(refuse: Callable[[Any], None]) -> Callable[[Any], None]:
    """Dynamo's refusal, except for our own name."""

    def judge(dynamo_config: Any) -> None:
        if not _asks_for_us(dynamo_config):
            return refuse(dynamo_config)
        engine_args = dynamo_config.engine_args
        if getattr(engine_args, "kv_transfer_config", None) is not None:
            raise ValueError(
                "Cannot specify both --connector flexkv (or DYN_CONNECTOR=flexkv) and "
                "--kv-transfer-config. Remedy: leave --connector out"
            )
        from vllm.config import KVTransferConfig

        engine_args.kv_transfer_config = KVTransferConfig(
            kv_connector="FlexKVConnectorV1", kv_role="kv_both"
        )
        dynamo_config.connector = []
        os.environ.pop(CONNECTOR_ENV, None)
        logger.warning(
            "FlexKV takes --connector flexkv as --kv-transfer-config "
            '\'{"kv_connector":"FlexKVConnectorV1","kv_role":"kv_both"}\', which is the way that '
            "lasts (FLEXKV_DYNAMO_CONNECTOR_FLAG=0 leaves the flag to Dynamo, which refuses it)"
        )
        return None

    judge.flexkv_own = True  # type: ignore[attr-defined]
    return judge


def _asks_for_us(dynamo_config: Any) -> bool:
    """Whether exactly our name was given, by the flag, the variable, or both."""
    flag = [str(name).strip().lower() for name in (dynamo_config.connector or [])]
    env = os.environ.get(CONNECTOR_ENV, "").replace(",", " ").lower().split()
    given = [names for names in (flag, env) if names]
    return bool(given) and all(names == [CONNECTOR] for names in given)
