"""How KV tensors are laid out, under the original's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import prod
from typing import Any


class KVCacheLayoutType(Enum):
    """Which dimension comes first.

    ``LAYERFIRST``: ``[layer, kv, block, token, head, element]``; ``BLOCKFIRST``: ``[block, layer,
    kv, token, head, element]``.  ``LAYERWISE`` and ``BLOCKWISE`` are their older names.
    """

    LAYERFIRST = "LAYERFIRST"
    BLOCKFIRST = "BLOCKFIRST"
    LAYERWISE = "LAYERFIRST"  # noqa: PIE796
    BLOCKWISE = "BLOCKFIRST"  # noqa: PIE796


@dataclass(eq=True)
class KVCacheLayout:
    """The shape of one rank's KV cache.

    ``num_head`` counts the KV heads of this rank, ``head_size`` elements of a head; ``kv_dim`` is 2
    (K and V) or 1 (MLA; ``is_mla=True`` is the older spelling).  Strides count elements.
    """

    type: KVCacheLayoutType
    num_layer: int
    num_block: int
    tokens_per_block: int
    num_head: int
    head_size: int
    kv_dim: int = 2
    num_kv_heads: int = 1
    layer_groups: Sequence[Any] | None = None
    tp_size: int = 1
    is_mla: bool = False

    def __post_init__(self) -> None:
        if self.is_mla:
            self.kv_dim = 1
        self.is_mla = self.kv_dim == 1
        for name in ("num_layer", "num_block", "tokens_per_block", "num_head", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")

    @property
    def kv_shape(self) -> tuple[int, ...]:
        """All dimensions, in the order of ``type``."""
        inner = (self.tokens_per_block, self.num_head, self.head_size)
        if self.type is KVCacheLayoutType.LAYERFIRST:
            return (self.num_layer, self.kv_dim, self.num_block, *inner)
        return (self.num_block, self.num_layer, self.kv_dim, *inner)

    def get_chunk_size(self) -> int:
        """Elements of one block of one layer, of K or of V."""
        return self.tokens_per_block * self.num_head * self.head_size

    def get_layer_stride(self) -> int:
        """Elements from a layer to the next."""
        first = self.type is KVCacheLayoutType.LAYERFIRST
        return self.kv_dim * self.get_chunk_size() * (self.num_block if first else 1)

    def get_kv_stride(self) -> int:
        """Elements from K to V of one layer."""
        first = self.type is KVCacheLayoutType.LAYERFIRST
        return self.get_chunk_size() * (self.num_block if first else 1)

    def get_block_stride(self) -> int:
        """Elements from a block to the next."""
        first = self.type is KVCacheLayoutType.LAYERFIRST
        return self.get_chunk_size() * (1 if first else self.num_layer * self.kv_dim)

    def get_total_elements(self) -> int:
        """Elements of the whole cache."""
        return prod(self.kv_shape)

    def get_elements_per_block(self) -> int:
        """Elements of one block over all layers."""
        return self.get_total_elements() // self.num_block

    def div_block(self, num_chunks: int, padding: bool = False) -> KVCacheLayout:
        """One of ``num_chunks`` parts of the blocks; ``padding`` rounds up."""
        count = -(-self.num_block // num_chunks) if padding else self._part("num_block", num_chunks)
        return replace(self, num_block=count)

    def div_layer(self, num_chunks: int) -> KVCacheLayout:
        """One of ``num_chunks`` parts of the layers."""
        return replace(self, num_layer=self._part("num_layer", num_chunks))

    def div_head(self, num_chunks: int) -> KVCacheLayout:
        """One of ``num_chunks`` parts of the heads."""
        return replace(self, num_head=self._part("num_head", num_chunks))

    def _part(self, name: str, chunks: int) -> int:
        count: int = getattr(self, name)
        if chunks < 1 or count % chunks:
            raise ValueError(f"{name} is {count}, which {chunks} parts cannot share evenly")
        return count // chunks
