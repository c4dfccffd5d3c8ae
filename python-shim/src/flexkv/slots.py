"""From masks and slot mappings to blocks: the arithmetic of the Python API, checked.

A *slot* is a token's place in GPU memory, block id · tokens_per_block + offset; callers may also
give every token of a block the block's first slot, as the original's tests do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexkv.tokens import int64_array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

MAX_BLOCK_ID = 1 << 22
"""Block ids are below it: entries of the generation table."""


def masked_blocks(mask: Any, tokens: int, block_tokens: int) -> tuple[int, int]:
    """Chain blocks [first, end) that a token mask asks for; only full blocks count.

    ``mask`` is boolean of shape ``(tokens,)``, one run of True (``None``: all True).  Its first
    True must begin a block: what lies before is on the GPU already, in whole blocks.
    """
    if mask is None:
        return 0, tokens // block_tokens
    import numpy as np

    if hasattr(mask, "detach"):
        mask = mask.detach().cpu().numpy()
    flags = np.asarray(mask).astype(bool)
    if flags.shape != (tokens,):
        raise ValueError(f"token_mask has shape {flags.shape}, must be ({tokens},) as token_ids")
    places = np.flatnonzero(flags)
    if places.size == 0:
        return 0, 0
    first, end = int(places[0]), int(places[-1]) + 1
    if places.size != end - first:
        raise ValueError(f"token_mask has a gap between tokens {first} and {end}, must be one run")
    if first % block_tokens:
        raise ValueError(
            f"token_mask begins at token {first}, must begin at a multiple of tokens_per_block "
            f"({block_tokens}): mask whole blocks that the GPU has"
        )
    return first // block_tokens, max(first // block_tokens, end // block_tokens)


def mask_of(tokens: int, first: int, end: int, block_tokens: int) -> Mask:
    """A mask of shape ``(tokens,)``, True for the tokens of chain blocks [first, end)."""
    import numpy as np

    mask = np.zeros(tokens, dtype=np.bool_)
    mask[first * block_tokens : end * block_tokens] = True
    return mask


def slot_blocks(slot_mapping: Any, block_tokens: int) -> list[int]:
    """GPU block ids of the full blocks in a slot mapping (int64, shape ``(n,)``)."""
    import numpy as np

    slots = int64_array(slot_mapping, "slot_mapping")
    count = len(slots) // block_tokens
    if count == 0:
        return []
    rows = slots[: count * block_tokens].reshape(count, block_tokens)
    ids = rows[:, 0] // block_tokens
    # Dividing each slot would take several times as long; a slot before its block's first is huge.
    within = (rows - (ids * block_tokens)[:, None]).view(np.uint64)
    if int(within.max()) >= block_tokens:
        row = int((within >= block_tokens).any(axis=1).argmax())
        raise ValueError(
            f"slot_mapping spreads the tokens of its block {row} over GPU blocks "
            f"{sorted(set((rows[row] // block_tokens).tolist()))[:4]}, must keep each run of "
            f"{block_tokens} together"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= MAX_BLOCK_ID:
        raise ValueError(
            f"slot_mapping names GPU block {low if low < 0 else high}, must be from 0 to "
            f"{MAX_BLOCK_ID - 1}"
        )
    blocks: list[int] = ids.tolist()
    return blocks
