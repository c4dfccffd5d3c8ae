"""From vLLM's KV tensors to plain regions of memory, by strides, never by an assumed shape.

vLLM has changed the shape of a layer's tensor four times: K and V as dimension 0 or 1, packed in
the last dimension, MLA's three dimensions, one buffer for all layers with an offset each, blocks
outermost or innermost, and kernel blocks smaller than the manager's.  All of these are read by one
rule: find the dimension that counts blocks, check the bytes of one block against the page size that
vLLM states, and split the rest into runs of bytes that lie side by side.

A *region* is (allocation, offset, block stride, bytes a block, blocks): block b of it begins at
offset + b · stride.  A block's image is its regions one after another.  Nothing here imports torch;
tensors are asked only for shape, strides and addresses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexkv.errors import FlexKVError

MAX_REGIONS = 8192


class LayoutError(FlexKVError):
    """The KV tensors cannot be moved safely; names the layer and what was seen."""


@dataclass(frozen=True, slots=True)
class Region:
    """See the module.  Bytes throughout; ``allocation`` is an index."""

    allocation: int
    offset: int
    block_stride: int
    bytes_per_block: int
    blocks: int

    def as_list(self) -> list[int]:
        return [self.allocation, self.offset, self.block_stride, self.bytes_per_block, self.blocks]


@dataclass(frozen=True, slots=True)
class Storage:
    """One allocation that holds KV tensors.  ``tensor`` keeps it alive and names its device."""

    address: int
    length: int
    tensor: Any


@dataclass(frozen=True, slots=True)
class KvLayout:
    """The KV memory of one rank."""

    block_tokens: int
    num_blocks: int
    storages: tuple[Storage, ...]
    regions: tuple[Region, ...]
    fingerprint: str

    @property
    def part_bytes(self) -> int:
        """Bytes of one block on this rank."""
        return sum(region.bytes_per_block for region in self.regions)


def derive_layout(
    kv_caches: Mapping[str, Any],
    *,
    num_blocks: int,
    block_tokens: int,
    layer_order: Sequence[str] = (),
    page_bytes: Mapping[str, tuple[int, ...]] | None = None,
    layout_name: str = "",
) -> KvLayout:
    """Regions of all layers, in ``layer_order`` first, aliases once.

    ``page_bytes`` has, per layer, the sizes of one block that vLLM's specification allows (padded
    and unpadded); a layer without an entry is taken as it is.  Raises ``LayoutError``.
    """
    if not kv_caches:
        raise LayoutError("vLLM registered no KV tensors")
    names = [name for name in layer_order if name in kv_caches]
    names += [name for name in kv_caches if name not in set(names)]
    memory = _Memory(num_blocks)
    for name in names:
        tensor = kv_caches[name]
        if not hasattr(tensor, "untyped_storage"):
            raise LayoutError(
                f"layer {name} registers a {type(tensor).__name__}, must be one tensor "
                "(state-space layers are not served)"
            )
        pages = (page_bytes or {}).get(name, ())
        memory.add(name, tensor, lambda n, t: _split_layer(n, t, num_blocks, pages))  # noqa: B023
    return memory.layout(block_tokens, layout_name)


def layout_along(
    tensors: Sequence[tuple[Any, int]], *, num_blocks: int, block_tokens: int, layout_name: str
) -> KvLayout:
    """Regions of tensors of which the caller knows the dimension that counts blocks.

    ``tensors`` are (tensor, dimension), in the order of the block's image.  Raises ``LayoutError``.
    """
    memory = _Memory(num_blocks)
    for index, (tensor, dim) in enumerate(tensors):
        if tensor.shape[dim] != num_blocks:
            raise LayoutError(
                f"tensor {index} has shape {tuple(tensor.shape)}, must count {num_blocks} blocks "
                f"in dimension {dim}"
            )
        memory.add(str(index), tensor, lambda _, t: _split_along(t, dim, num_blocks))  # noqa: B023
    return memory.layout(block_tokens, layout_name)


class _Memory:
    """Collects the allocations and regions of tensors, aliases once."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._places: dict[int, int] = {}
        self._found: list[Storage] = []
        self._regions: list[Region] = []
        self._described: list[Any] = []
        self._seen: set[tuple[Any, ...]] = set()

    def add(self, name: str, tensor: Any, split_of: Callable[[str, Any], _Split]) -> None:
        alias = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype))
        if alias in self._seen:
            return
        self._seen.add(alias)
        storage = tensor.untyped_storage()
        address, length = storage.data_ptr(), storage.nbytes()
        if address not in self._places:
            self._places[address] = len(self._found)
            self._found.append(Storage(address, length, tensor))
        split = split_of(name, tensor)
        base = tensor.data_ptr() - address
        for start, stride, size in split.runs:
            place = self._places[address]
            region = Region(place, base + start, stride, size, self._num_blocks)
            end = region.offset + (self._num_blocks - 1) * stride + size
            if end > length:
                raise LayoutError(
                    f"layer {name} reaches {end} bytes into an allocation of {length}"
                )
            self._regions.append(region)
        self._described.append([str(tensor.dtype), split.inner, split.order, split.kernel_blocks])

    def layout(self, block_tokens: int, layout_name: str) -> KvLayout:
        if len(self._regions) > MAX_REGIONS:
            raise LayoutError(f"{len(self._regions)} regions, at most {MAX_REGIONS}")
        sizes = [region.bytes_per_block for region in self._regions]
        text = json.dumps(
            [block_tokens, layout_name, self._described, sizes], separators=(",", ":")
        )
        fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
        return KvLayout(
            block_tokens, self._num_blocks, tuple(self._found), tuple(self._regions), fingerprint
        )


@dataclass(frozen=True, slots=True)
class _Split:
    """Runs (start, block stride, bytes) of one layer, and what its bytes depend on."""

    runs: list[tuple[int, int, int]]
    inner: list[int]
    order: list[int]
    kernel_blocks: int


def _split_layer(name: str, tensor: Any, num_blocks: int, pages: tuple[int, ...]) -> _Split:
    shape, strides, item = list(tensor.shape), list(tensor.stride()), tensor.element_size()
    total: int = item
    for size in shape:
        total *= size
    wrong: list[int] = []
    for dim in (0, 1):
        if dim >= len(shape) or shape[dim] < num_blocks or shape[dim] % num_blocks:
            continue
        per_block = total // num_blocks
        if pages and per_block not in pages:
            wrong.append(per_block)
            continue
        if dim == 1 and shape[0] != 2:
            continue
        return _split_along(tensor, dim, num_blocks)
    expected = f", a block of {' or '.join(map(str, pages))} bytes" if pages else ""
    raise LayoutError(
        f"layer {name} has shape {tuple(shape)}, strides {tuple(strides)}, items of {item} bytes: "
        f"no dimension counts {num_blocks} blocks{expected}"
        + (f" (saw {wrong[0]} bytes a block)" if wrong else "")
    )


def _split_along(tensor: Any, dim: int, num_blocks: int) -> _Split:
    """The runs of a tensor whose dimension ``dim`` counts (kernel) blocks."""
    shape, strides, item = list(tensor.shape), list(tensor.stride()), tensor.element_size()
    kernel_blocks = shape[dim] // num_blocks
    inner = [(n, s * item) for i, (n, s) in enumerate(zip(shape, strides, strict=True)) if i != dim]
    runs = _runs(inner, item, kernel_blocks, strides[dim] * item)
    order = sorted(range(len(inner)), key=lambda i: -inner[i][1])
    return _Split(runs, [n for n, _ in inner], order, kernel_blocks)


def _runs(
    inner: list[tuple[int, int]], item: int, kernel_blocks: int, step: int
) -> list[tuple[int, int, int]]:
    """Side-by-side bytes of one manager block: (start, stride to the next block, length).

    ``inner`` are (size, byte stride) of every dimension but the one that counts kernel blocks,
    which lie ``step`` bytes apart.
    """
    dims = [(n, s) for n, s in inner if n > 1]
    if kernel_blocks > 1:
        dims.append((kernel_blocks, step))
    dims.sort(key=lambda d: d[1])
    length = item
    outer: list[tuple[int, int]] = []
    for size, stride in dims:
        if stride == length and not outer:
            length *= size
        else:
            outer.append((size, stride))
    starts = [0]
    for size, stride in reversed(outer):
        starts = [start + i * stride for start in starts for i in range(size)]
    return [(start, step * kernel_blocks, length) for start in starts]
