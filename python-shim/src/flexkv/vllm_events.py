"""vLLM's own KV event classes, as each version has them.

Only with fields that the version has, and by place only where it has them in the places that we
know: their order has changed more than once.  vLLM encodes them itself (maps from 0.24 on, arrays
before).
"""

from __future__ import annotations

from typing import Any

import msgspec

from flexkv.events import Wire
from flexkv.protocol import TIER_HOST, TIER_SSD

DISK_MEDIUM = "DISK"


_USUAL = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
    "lora_name",
)  # fmt: skip
"""How a ``BlockStored`` of 0.26 and 0.32 begins: by place it is made three times as fast."""


class VllmEvents:
    """See ``events.EventMaker``."""

    def __init__(self, block_tokens: int, cpu_medium: str) -> None:
        from vllm.distributed.kv_events import BlockRemoved, BlockStored

        self.whole_hashes = not _int_hashes()
        self._block_tokens = block_tokens
        self._media = {TIER_HOST: cpu_medium, TIER_SSD: DISK_MEDIUM}
        self._stored, self._removed = BlockStored, BlockRemoved
        self._fields = frozenset(BlockStored.__struct_fields__)
        self._usual = tuple(BlockStored.__struct_fields__[: len(_USUAL)]) == _USUAL

    def stored(
        self, tier: int, block: Wire, parent: Wire | None, tokens: list[int], extra: bytes
    ) -> Any:
        medium = self._media[tier]
        if self._usual and not extra:
            return self._stored([block], parent, tokens, self._block_tokens, None, medium, None)
        lora_id, lora_name, keys = msgspec.msgpack.decode(extra) if extra else (None, None, None)
        more = {"lora_id": lora_id, "lora_name": lora_name}
        if keys is not None:
            more["extra_keys"] = [tuple(tuple(k) if isinstance(k, list) else k for k in keys)]
        return self._stored(
            block_hashes=[block],
            parent_block_hash=parent,
            token_ids=tokens,
            block_size=self._block_tokens,
            medium=medium,
            **{name: value for name, value in more.items() if name in self._fields},
        )

    def removed(self, tier: int, block: Wire) -> Any:
        return self._removed(block_hashes=[block], medium=self._media[tier])

    def extra_keys(self, request: Any, first: int, end: int) -> list[bytes] | None:
        lora = getattr(request, "lora_request", None)
        if (
            lora is None
            and not getattr(request, "cache_salt", None)
            and not getattr(request, "mm_features", None)
            and getattr(request, "prompt_embeds", None) is None
        ):
            return []
        keys = _engine_keys(request, first, end, self._block_tokens)
        if keys is None:
            return None
        lora_id = None if lora is None else int(lora.adapter_id)
        lora_name = None if lora is None else str(lora.name)
        return [msgspec.msgpack.encode((lora_id, lora_name, block)) for block in keys]


def _int_hashes() -> bool:
    """Whether this engine's events carry the last 8 bytes of a hash, as a number."""
    from vllm import envs

    return bool(getattr(envs, "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", True))


def _engine_keys(request: Any, first: int, end: int, block_tokens: int) -> list[Any] | None:
    """What vLLM itself puts in the ``extra_keys`` of its events for these blocks."""
    from vllm.v1.core import kv_cache_utils

    generate = getattr(kv_cache_utils, "generate_block_hash_extra_keys", None)
    if generate is None:
        return None
    keys = [
        generate(request, block * block_tokens, (block + 1) * block_tokens, 0)[0]
        for block in range(first, end)
    ]
    untag = getattr(kv_cache_utils, "to_event_extra_keys", None)
    return list(untag(keys) or keys) if untag is not None else keys
