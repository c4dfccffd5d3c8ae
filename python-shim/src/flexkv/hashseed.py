"""The seed of vLLM's block hashes: which one is in force, and a fixed one where none is.

vLLM derives the parent of every first block (``NONE_HASH``) from ``PYTHONHASHSEED``; where the user
did not set it, versions before 0.28 take random bytes, so that no two engines, and no two lives of
one, ever name the same block alike.  ``EngineCore`` builds the scheduler, and with it our
connector, before it calls ``init_none_hash`` (read in 0.26.0 and 0.32.0): a seed that our
constructor puts into the environment is the one that vLLM then reads, and only engines with our
connector get it.

A hash that is not collision resistant (``xxhash…``) gets no fixed seed: whoever knows the seed
could prepare two prompts with one hash.  Such an engine reuses only what it saved itself.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from flexkv.config import Settings

logger = logging.getLogger(__name__)

SEED_ENV = "PYTHONHASHSEED"
FIXED_SEED = "0"
RANDOM = "random per process"


def algorithm(vllm_config: Any) -> str:
    """Name of the block-hash function."""
    return str(getattr(vllm_config.cache_config, "prefix_caching_hash_algo", "sha256"))


def _vllm_default() -> str | None:
    """The fixed default of vLLM itself, where it has one."""
    try:
        module = importlib.import_module("vllm.v1.core.kv_cache_utils")
    except ImportError:
        return None
    return getattr(module, "DEFAULT_NONE_HASH_SEED", None)


def resolve(vllm_config: Any, settings: Settings) -> str:
    """The seed that is in force once ``ensure`` has run, or ``RANDOM``.

    The same in the scheduler's process and in the workers', although only the first one's
    environment is changed and the workers were started before.
    """
    if SEED_ENV in os.environ:
        return os.environ[SEED_ENV]
    if algorithm(vllm_config).startswith("xxhash"):
        return RANDOM
    return _vllm_default() or (FIXED_SEED if settings.set_hash_seed else RANDOM)


def ensure(vllm_config: Any, settings: Settings) -> str:
    """Sets a fixed seed where the user set none and vLLM has none; returns the one in force.

    Called by the scheduler side's constructor, before vLLM makes ``NONE_HASH``.
    """
    seed = resolve(vllm_config, settings)
    if seed == RANDOM:
        logger.warning(
            "Block hashes (%s) have a random seed: FlexKV serves this engine only what it saved "
            "itself. Remedy: %s",
            algorithm(vllm_config),
            f"set {SEED_ENV}=0, or use --prefix-caching-hash-algo sha256",
        )
    elif SEED_ENV not in os.environ and seed == FIXED_SEED:
        os.environ[SEED_ENV] = seed
        logger.info(
            "%s was not set: block hashes get the fixed seed %s, so that what is saved is found "
            "again after a restart (FLEXKV_SET_HASH_SEED=0 switches this off)",
            SEED_ENV,
            seed,
        )
    return seed
