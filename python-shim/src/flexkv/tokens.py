"""From token ids to block keys: SHA-256 of everything up to the end of each block.

A key must tell two prefixes apart for certain, also where somebody chooses the tokens, so it is a
cryptographic hash; the sidecar's index keeps 128 bits of it.  Key i is the digest of (namespace,
tokens of blocks 0 … i) with tokens as 64-bit little-endian integers: one running hash, asked for
its digest at each block.

That costs about 0.3 µs a block, and most of what is asked for was asked before: a conversation's
earlier turns, a common system prompt.  So the keys of whole chunks of 1,024 tokens are remembered
with the very tokens they came from (compared byte by byte, never trusted by a shorter hash), least
recently used first out, within ``MEMORY_BYTES``.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

KEY_BYTES = 32
TOKEN_BYTES = 8
CHUNK_TOKENS = 1024
MEMORY_BYTES = 64 << 20

_CHAIN = b"flexkv-token-chain-1\0"
_TAIL_BYTES = 32


def int64_array(values: Any, name: str) -> npt.NDArray[np.int64]:
    """``values`` (list, numpy array or torch tensor of whole numbers, 1-D) as an int64 array.

    A tensor on a GPU is copied to the host, which waits for the device.  Raises ``TypeError`` or
    ``ValueError`` that names ``name``.
    """
    import numpy as np

    if type(values) is np.ndarray and values.dtype == np.int64 and values.ndim == 1:
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, must have one dimension")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {array.dtype}, must hold integers")
    if array.dtype == np.uint64 and int(array.max()) >> 63:
        raise ValueError(f"{name} holds {int(array.max())}, must be below 2^63")
    return array.astype(np.int64)


def namespace_header(namespace: Sequence[str] | None) -> bytes:
    """What the chain of a namespace (LoRA name, cache salt, …) begins with; unambiguous."""
    names = namespace or ()
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"namespace is {namespace!r}, must be a list of strings")
    parts = [_CHAIN, len(names).to_bytes(8, "little")]
    for name in names:
        raw = name.encode()
        parts.append(len(raw).to_bytes(8, "little") + raw)
    return b"".join(parts)


@dataclass(slots=True)
class _Chunk:
    """Keys of a run of blocks, with the tokens they came from and the hash at their end."""

    number: int
    data: bytes
    keys: bytes
    state: Any


@dataclass(slots=True)
class ChainHasher:
    """Keys of chains of ``block_tokens`` tokens.  One thread at a time.

    ``hashed_blocks`` and ``remembered_blocks`` count where keys came from.
    """

    block_tokens: int
    memory_bytes: int = MEMORY_BYTES
    hashed_blocks: int = 0
    remembered_blocks: int = 0
    _chunks: OrderedDict[tuple[int, bytes], _Chunk] = field(default_factory=OrderedDict)
    _roots: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    _used: int = 0
    _next: int = 1

    def keys(self, tokens: npt.NDArray[np.int64], namespace: Sequence[str] | None = None) -> bytes:
        """``KEY_BYTES`` a full block of ``tokens``, joined; what is left over counts nowhere."""
        return b"".join(self._chunks_of(tokens, namespace))

    def stream(
        self, tokens: npt.NDArray[np.int64], namespace: Sequence[str] | None = None
    ) -> KeyStream:
        """The same keys, made as they are asked for; ``tokens`` must not change until then."""
        return KeyStream(self._chunks_of(tokens, namespace))

    def _chunks_of(
        self, tokens: npt.NDArray[np.int64], namespace: Sequence[str] | None
    ) -> Iterator[bytes]:
        block = self.block_tokens * TOKEN_BYTES
        blocks = len(tokens) // self.block_tokens
        data = tokens[: blocks * self.block_tokens].astype("<i8", copy=False).tobytes()
        header = namespace_header(namespace)
        chunk_bytes = max(1, CHUNK_TOKENS // self.block_tokens) * block
        above = self._root(header)
        state: Any = None
        for at in range(0, len(data), chunk_bytes):
            piece = data[at : at + chunk_bytes]
            name = (above, piece[-_TAIL_BYTES:])
            chunk = self._chunks.get(name)
            if chunk is not None and chunk.data == piece:
                self._chunks.move_to_end(name)
                self.remembered_blocks += len(piece) // block
            else:
                begin = hashlib.sha256(header) if state is None else state.copy()
                chunk = self._hash(begin, piece, block)
                self._remember(name, chunk)
            above, state = chunk.number, chunk.state
            yield chunk.keys

    def _hash(self, state: Any, piece: bytes, block: int) -> _Chunk:
        out: list[bytes] = []
        # ``digest`` finishes a copy of its own: the running hash goes on as if nobody had asked.
        update, digest, add = state.update, state.digest, out.append
        for at in range(0, len(piece), block):
            update(piece[at : at + block])
            add(digest())
        self.hashed_blocks += len(out)
        self._next += 1
        return _Chunk(self._next, piece, b"".join(out), state)

    def _root(self, header: bytes) -> int:
        number = self._roots.get(header)
        if number is None:
            self._next += 1
            number = self._roots[header] = self._next
            if len(self._roots) > 4096:
                self._roots.popitem(last=False)
        return number

    def _remember(self, name: tuple[int, bytes], chunk: _Chunk) -> None:
        before = self._chunks.pop(name, None)
        if before is not None:
            self._used -= len(before.data) + len(before.keys)
        self._chunks[name] = chunk
        self._used += len(chunk.data) + len(chunk.keys)
        while self._used > self.memory_bytes and len(self._chunks) > 1:
            _, oldest = self._chunks.popitem(last=False)
            self._used -= len(oldest.data) + len(oldest.keys)


class KeyStream:
    """The keys of one chain, hashed chunk by chunk while others are on their way already.

    ``given`` counts the blocks whose keys were handed over.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._waiting = b""
        self.given = 0

    def make(self, blocks: int) -> None:
        """Hashes as far as block ``blocks``; what is there already costs nothing."""
        missing = (blocks - self.given) * KEY_BYTES - len(self._waiting)
        if missing > 0:
            parts = [self._waiting]
            while missing > 0:
                parts.append(next(self._chunks))
                missing -= len(parts[-1])
            self._waiting = b"".join(parts)

    def next_keys(self, blocks: int) -> bytes:
        """Keys of the blocks from ``given`` to ``blocks``; ``take`` says that they went."""
        self.make(blocks)
        return self._waiting[: max(0, blocks - self.given) * KEY_BYTES]

    def take(self, blocks: int) -> None:
        """The keys before block ``blocks`` were handed over."""
        if blocks > self.given:
            self._waiting = self._waiting[(blocks - self.given) * KEY_BYTES :]
            self.given = blocks
