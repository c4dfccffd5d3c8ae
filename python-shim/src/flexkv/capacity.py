"""From capacities in blocks to bytes: only an engine knows how large its blocks are.

The sidecar takes its memory when it starts, and it starts before any engine has registered.  So
whoever starts it says the size in GB where the user gave a number of blocks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flexkv.config import Note, Settings
from flexkv.engine import EngineFacts, page_sizes

_TIERS = (("cpu_cache_gb", "num_cpu_blocks"), ("ssd_cache_gb", "num_ssd_blocks"))


def block_bytes(kv_cache_config: Any, facts: EngineFacts) -> int:
    """Bytes of one block of the engine over all ranks; 0 if its configuration does not tell.

    Ranks of a model with latent attention hold the same bytes, which are kept once.
    """
    if kv_cache_config is None:
        return 0
    part = sum(sizes[-1] for sizes in page_sizes(kv_cache_config).values())
    return part * facts.distinct_parts


def in_bytes(settings: Settings, facts: EngineFacts, kv_cache_config: Any) -> Settings:
    """The settings with capacities in blocks turned into GB for a sidecar that we may start.

    A number of blocks beside a size in GB stays what it is: a cap.
    """
    tokens = int(str(settings.values.get("tokens_per_block") or 0)) or facts.block_tokens
    sidecar = dict(settings.sidecar)
    sources = dict(settings.sources)
    notes = list(settings.notes)
    if tokens != facts.block_tokens:
        notes.append(
            Note(
                True,
                f"{settings.sources['tokens_per_block']} is {tokens}, vLLM's blocks have "
                f"{facts.block_tokens} tokens, and those count. Remedy: vllm serve --block-size "
                f"{tokens}, or leave tokens_per_block out",
            )
        )
    size = block_bytes(kv_cache_config, facts)
    for gigabytes, blocks in _TIERS:
        count = int(str(settings.values.get(blocks) or 0))
        if not count or settings.sources[gigabytes] != "default":
            continue
        if not size:
            notes.append(
                Note(
                    True,
                    f"{settings.sources[blocks]} only caps the tier, because this vLLM does not "
                    f"tell how large a block is: say {gigabytes} (now "
                    f"{settings.values[gigabytes]})",
                )
            )
            continue
        total = count * size * tokens // facts.block_tokens
        sidecar[gigabytes] = max(round(total / 1e9, 3), 0.01)
        sidecar[blocks] = 0
        sources[gigabytes] = settings.sources[blocks]  # not a default, which the machine may cut
        notes.append(
            Note(
                False,
                f"{settings.sources[blocks]}: {count} blocks of {tokens} tokens take "
                f"{total / 1e9:.2f} GB, where we start the sidecar",
            )
        )
    return dataclasses.replace(settings, sidecar=sidecar, sources=sources, notes=tuple(notes))


def known_without_engine(settings: Settings) -> Settings:
    """The settings less the capacities that are in blocks alone: an engine says those in GB."""
    sources = dict(settings.sources)
    for gigabytes, blocks in _TIERS:
        if sources.get(gigabytes, "default") == "default":
            sources[blocks] = "default"
    return dataclasses.replace(settings, sources=sources)
