"""From the tensors and the ``KVCacheLayout`` that a rank registers to plain regions of memory.

The layouts that FlexKV users have, with L layers, B blocks, T tokens a block, H heads of D elements
and k = 2 (K and V) or 1 (MLA):

    LAYERFIRST  L tensors [k, B, T, H, D] · L tensors [B, k, T, H, D] · L tensors [B, T, H, 2·D]
                2·L tensors [B, T, H, D] (all K, then all V) · L tensors [B, T, D] (MLA)
                one tensor [L, k, B, T, H, D]
    BLOCKFIRST  one tensor [B, L, k, T, H, D]

Anything else is taken too if one dimension alone can count the blocks and the bytes of a block are
those that the layout states.  With two blocks only, a first dimension of 2 is taken for K and V.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.layout import KvLayout, LayoutError, layout_along


def rank_layout(kv_caches: Sequence[Any], kv_layout: KVCacheLayout) -> KvLayout:
    """Regions of ``kv_caches``; raises ``LayoutError`` where they do not fit ``kv_layout``."""
    if not kv_caches:
        raise LayoutError("no KV tensors were registered")
    found = layout_along(
        [(tensor, _block_dimension(tensor, kv_layout)) for tensor in kv_caches],
        num_blocks=kv_layout.num_block,
        block_tokens=kv_layout.tokens_per_block,
        layout_name=kv_layout.type.value,
    )
    wanted = kv_layout.get_elements_per_block() * kv_caches[0].element_size()
    if found.part_bytes != wanted:
        raise LayoutError(
            f"{len(kv_caches)} tensors of shape {tuple(kv_caches[0].shape)} have "
            f"{found.part_bytes} bytes a block, the layout {kv_layout.kv_shape} has {wanted}: "
            "num_head counts the heads of this rank, num_layer its layers"
        )
    return found


def _block_dimension(tensor: Any, layout: KVCacheLayout) -> int:
    """Which dimension counts blocks: the one before which only layers or K and V are counted."""
    shape = tuple(tensor.shape)
    if layout.type is KVCacheLayoutType.LAYERFIRST:
        outer = [(layout.kv_dim,), (layout.num_layer, layout.kv_dim), ()]
    else:
        outer = [()]
    for before in outer:
        dim = len(before)
        inner = prod(shape[dim + 1 :])
        chunk = layout.get_chunk_size()
        counts = len(shape) > dim + 1 and shape[:dim] == before and shape[dim] == layout.num_block
        # What is left must be K or V or both, of one layer or of all.
        if counts and inner % chunk == 0 and inner // chunk <= layout.num_layer * layout.kv_dim:
            return dim
    raise LayoutError(
        f"a tensor of shape {shape} does not fit the layout {layout.type.value} "
        f"{layout.kv_shape}: no dimension counts {layout.num_block} blocks"
    )
