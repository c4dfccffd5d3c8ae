"""Regions of every shape that vLLM has given its KV tensors."""

from __future__ import annotations

from typing import Any

import pytest

from flexkv.layout import KvLayout, LayoutError, derive_layout

BLOCKS, TOKENS = 6, 4


class Storage:
    def __init__(self, address: int, length: int) -> None:
        self._address, self._length = address, length

    def data_ptr(self) -> int:
        return self._address

    def nbytes(self) -> int:
        return self._length


class Tensor:
    """What the layout asks of a tensor: shape, strides in items, address, storage."""

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        *,
        item: int = 2,
        address: int = 4096,
        offset: int = 0,
        length: int | None = None,
    ) -> None:
        if strides is None:
            strides, step = (), 1
            for size in reversed(shape):
                strides = (step, *strides)
                step *= size
        self.shape, self._strides, self._item = shape, strides, item
        self._start, self.dtype = address + offset, f"float{8 * item}"
        last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        self._storage = Storage(address, length or offset + last * item)

    def stride(self) -> tuple[int, ...]:
        return self._strides

    def element_size(self) -> int:
        return self._item

    def data_ptr(self) -> int:
        return self._start

    def untyped_storage(self) -> Storage:
        return self._storage


def regions(tensors: dict[str, Any], **more: Any) -> list[list[int]]:
    return [r.as_list() for r in layout(tensors, **more).regions]


def layout(tensors: dict[str, Any], **more: Any) -> KvLayout:
    return derive_layout(tensors, num_blocks=BLOCKS, block_tokens=TOKENS, **more)


def test_packed_heads_first() -> None:  # 0.26: (blocks, heads, tokens, 2·D)
    assert regions({"a": Tensor((BLOCKS, 2, TOKENS, 8))}) == [[0, 0, 128, 128, BLOCKS]]


def test_packed_tokens_first_in_memory() -> None:  # the same shape, NHD strides
    assert regions({"a": Tensor((BLOCKS, 2, TOKENS, 8), (64, 8, 16, 1))}) == [
        [0, 0, 128, 128, BLOCKS]
    ]


def test_split_keys_and_values_outermost() -> None:  # before 0.23: (2, blocks, …)
    assert regions({"a": Tensor((2, BLOCKS, TOKENS, 2, 4))}) == [
        [0, 0, 64, 64, BLOCKS],
        [0, 64 * BLOCKS, 64, 64, BLOCKS],
    ]


def test_split_keys_and_values_within_a_block() -> None:  # 0.23: (blocks, 2, …)
    assert regions({"a": Tensor((BLOCKS, 2, TOKENS, 2, 4))}) == [[0, 0, 128, 128, BLOCKS]]


def test_latent_attention() -> None:  # (blocks, tokens, latent)
    assert regions({"a": Tensor((BLOCKS, TOKENS, 9))}) == [[0, 0, 72, 72, BLOCKS]]


def test_kernel_blocks_smaller_than_the_managers() -> None:
    packed = {"a": Tensor((BLOCKS * 2, 2, TOKENS // 2, 8))}
    assert regions(packed, page_bytes={"a": (128,)}) == [[0, 0, 128, 128, BLOCKS]]


def test_kernel_blocks_with_gaps_become_a_region_each() -> None:
    gaps = {"a": Tensor((BLOCKS * 2, 16), (32, 1))}
    assert regions(gaps, page_bytes={"a": (64,)}) == [
        [0, 0, 128, 32, BLOCKS],
        [0, 64, 128, 32, BLOCKS],
    ]


def test_one_buffer_for_all_layers_with_an_offset_each() -> None:  # 0.32: LBHNC
    length = 2 * BLOCKS * 128
    two = {
        f"l{i}": Tensor((BLOCKS, 2, TOKENS, 8), offset=i * BLOCKS * 128, length=length)
        for i in range(2)
    }
    found = layout(two)
    assert len(found.storages) == 1
    assert [r.as_list() for r in found.regions] == [
        [0, 0, 128, 128, BLOCKS],
        [0, 768, 128, 128, BLOCKS],
    ]
    assert found.part_bytes == 256


def test_blocks_outermost_over_layers() -> None:  # 0.29+: BLHNC
    two = {
        f"l{i}": Tensor(
            (BLOCKS, 2, TOKENS, 8), (128, 32, 8, 1), offset=i * 128, length=256 * BLOCKS
        )
        for i in range(2)
    }
    assert regions(two) == [[0, 0, 256, 128, BLOCKS], [0, 128, 256, 128, BLOCKS]]


def test_heads_outermost_over_blocks() -> None:  # LHBNC: a region a head
    heads = {"a": Tensor((BLOCKS, 2, TOKENS, 8), (32, 32 * BLOCKS, 8, 1))}
    assert regions(heads) == [[0, 0, 64, 64, BLOCKS], [0, 384, 64, 64, BLOCKS]]


def test_layers_that_share_a_tensor_count_once() -> None:
    tensor = Tensor((BLOCKS, 2, TOKENS, 8))
    assert len(regions({"a": tensor, "b": tensor})) == 1


def test_order_is_that_of_the_group_not_of_the_dictionary() -> None:
    tensors = {n: Tensor((BLOCKS, 16), address=a) for n, a in (("b", 1 << 20), ("a", 1 << 16))}
    found = layout(tensors, layer_order=["a", "b"])
    assert [s.address for s in found.storages] == [1 << 16, 1 << 20]


def test_fingerprint_tells_layouts_apart_and_not_addresses() -> None:
    one = layout({"a": Tensor((BLOCKS, 2, TOKENS, 8))}).fingerprint
    assert one == layout({"x": Tensor((BLOCKS, 2, TOKENS, 8), address=1 << 30)}).fingerprint
    others = [
        layout({"a": Tensor((BLOCKS, 2, TOKENS, 8), (64, 8, 16, 1))}),  # NHD
        layout({"a": Tensor((BLOCKS, 2, TOKENS, 8), item=4)}),
        layout({"a": Tensor((BLOCKS, 4, TOKENS, 4))}),
        layout({"a": Tensor((BLOCKS, 2, TOKENS, 8))}, layout_name="HND"),
    ]
    assert len({one, *(o.fingerprint for o in others)}) == 5


def test_page_size_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(LayoutError, match=r"layer a has shape .*saw 128 bytes a block"):
        layout({"a": Tensor((BLOCKS, 2, TOKENS, 8))}, page_bytes={"a": (256,)})


def test_tensor_without_a_dimension_of_blocks_is_refused() -> None:
    with pytest.raises(LayoutError, match="no dimension counts 6 blocks"):
        layout({"a": Tensor((5, 2, TOKENS, 8))})


def test_region_beyond_its_allocation_is_refused() -> None:
    with pytest.raises(LayoutError, match="into an allocation of 100"):
        layout({"a": Tensor((BLOCKS, 2, TOKENS, 8), length=100)})


def test_list_of_tensors_is_refused() -> None:
    with pytest.raises(LayoutError, match="registers a list"):
        layout({"a": [Tensor((BLOCKS, 8))]})


def test_no_tensors_are_refused() -> None:
    with pytest.raises(LayoutError, match="no KV tensors"):
        layout({})
