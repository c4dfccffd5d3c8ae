"""What both sides do first in a vLLM process: what the user should know, hash seed, namespace."""

from __future__ import annotations

import logging
from typing import Any

from flexkv import hashseed
from flexkv.config import Settings
from flexkv.identity import identity
from flexkv.version import __version__

logger = logging.getLogger(__name__)


def prepare_scheduler(vllm_config: Any, settings: Settings) -> str:
    """The engine's namespace; called once, in the constructor of the scheduler side.

    Says what the user should know, and sets the block-hash seed where the user set none: vLLM reads
    it after this constructor, in this process.  Raises ``ConfigError`` (see ``identity``).
    """
    logger.info("FlexKV %s, sidecar at %s", __version__, settings.server_recv_port)
    if settings.ignored:
        logger.warning(
            "kv_connector_extra_config has %s, which FlexKV does not know and leaves alone",
            ", ".join(settings.ignored),
        )
    for warning, text in settings.notes:
        logger.log(logging.WARNING if warning else logging.INFO, "%s", text)
    hashseed.ensure(vllm_config, settings)
    found = identity(vllm_config, settings)
    for note in found.notes:
        logger.warning(note)
    logger.debug("FlexKV namespace %s: %s", found.digest, found.description)
    return found.digest


def prepare_worker(vllm_config: Any, settings: Settings) -> str:
    """The same namespace, computed in a worker's process."""
    return identity(vllm_config, settings).digest
