"""Masks and slot mappings: which blocks they mean, and what they must not be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexkv.slots import MAX_BLOCK_ID, mask_of, masked_blocks, slot_blocks


def test_mask_none_means_all_full_blocks() -> None:
    assert masked_blocks(None, 37, 16) == (0, 2)
    assert masked_blocks(None, 15, 16) == (0, 0)


def test_mask_leading_false_is_what_the_gpu_has() -> None:
    mask = torch.ones(50, dtype=torch.bool)
    mask[:32] = False
    assert masked_blocks(mask, 50, 16) == (2, 3)
    assert masked_blocks(mask.numpy(), 50, 16) == (2, 3)
    mask[48:] = False
    assert masked_blocks(mask.tolist(), 50, 16) == (2, 3)
    mask[47:] = False
    assert masked_blocks(mask, 50, 16) == (2, 2), "15 tokens are no block"
    assert masked_blocks(np.zeros(50, bool), 50, 16) == (0, 0)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([True] * 3, r"shape \(3,\), must be \(4,\)"),
        ([True, False, True, True], "gap between tokens 0 and 4"),
        ([False, True, True, True], "begins at token 1, must begin at a multiple"),
    ],
)
def test_mask_wrong_is_named(mask: list[bool], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        masked_blocks(mask, 4, 2)


def test_mask_of_marks_the_tokens_of_blocks() -> None:
    assert mask_of(7, 1, 3, 2).tolist() == [False, False, True, True, True, True, False]


def test_slots_whole_blocks_either_spelling() -> None:
    assert slot_blocks(np.arange(32, 64), 16) == [2, 3]
    repeated = (torch.tensor([5, 9]) * 16).repeat_interleave(16)
    assert slot_blocks(repeated, 16) == [5, 9]
    assert slot_blocks(repeated[:24], 16) == [5], "half a block is none"
    assert slot_blocks([], 16) == []


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        ([0, 1, 2, 4], r"block 1 over GPU blocks \[1, 2\]"),
        ([-2, -1], "GPU block -1"),
        ([2 * MAX_BLOCK_ID, 2 * MAX_BLOCK_ID + 1], f"GPU block {MAX_BLOCK_ID}"),
    ],
)
def test_slots_wrong_are_named(slots: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        slot_blocks(slots, 2)
