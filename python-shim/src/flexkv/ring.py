"""The hot plane as the client sees it: a session file, its two rings, its revoke and fence words.

The layout is drawn in ``protocol.py``; this file holds the algorithm.  Both rings have one producer
and one consumer.  The argument for their order: a producer writes the record's bytes and then the
tail with one aligned 8-byte store; a consumer reads the tail, then the bytes, then stores the head.
On x86-64 loads are not reordered with loads nor stores with stores, CPython executes one bytecode
after another, and ``memoryview.cast("Q")[i]`` is one 8-byte copy, so this order is the order the
other side sees.  Elsewhere (``protocol.RING_MACHINES``) ``frames.FrameChannel`` takes this place.

A channel is used by one thread at a time: the attach thread until the session is published, the
engine's thread from then on.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from flexkv import protocol as p
from flexkv.errors import AttachError

_TO_SERVER_TAIL = p.OFF_TO_SERVER_TAIL // 8
_TO_SERVER_HEAD = p.OFF_TO_SERVER_HEAD // 8
_TO_CLIENT_TAIL = p.OFF_TO_CLIENT_TAIL // 8
_TO_CLIENT_HEAD = p.OFF_TO_CLIENT_HEAD // 8
_SLEEPING = p.OFF_SLEEPING // 4

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


Encoded = tuple[bytes, ...]
"""A record's bytes in one part or several, which lie one behind the other."""


class Channel(Protocol):
    """Moves whole records both ways; never blocks."""

    def write(self, records: Sequence[Encoded]) -> bool:
        """Hands over all records or none; ``False`` when there is no room for all of them."""

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        """Hands over a chain's hashes from index ``first`` on, and the question behind the last.

        Returns how many of ``hashes`` the sidecar has then, fewer than all where there is no room,
        and whether the question went.  ``ValueError`` if the protocol does not carry their width,
        or they have several.
        """

    def drain(self) -> list[p.Record]:
        """Everything that has arrived; ``ProtocolError`` if the other side broke the format."""

    def pending(self) -> bool:
        """Whether ``drain`` may find something; far cheaper than ``drain``."""


def sealed_memfd(name: str, size: int) -> int:
    """A memfd of ``size`` bytes that nobody can shrink or grow (a mapping of it never faults)."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class SessionFile:
    """One session's shared memory; made by the client, sent with ``HELLO``, then mapped by both.

    The descriptor is closed once it has been sent (``release_fd``); the mapping lives as long as
    the last reference to this object, so that a thread that still holds an ended session can go on
    reading it without a fault.
    """

    def __init__(self, layout: p.SessionLayout) -> None:
        self.layout = layout
        offsets = layout.offsets()
        self.to_server_offset, self.to_client_offset, self._revoke, self._fence, total = offsets
        self.fd = sealed_memfd("flexkv-session", total)
        try:
            self._map = mmap.mmap(self.fd, total, mmap.MAP_SHARED)
        except (OSError, ValueError):
            self.release_fd()
            raise
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")
        self.halves = self.bytes.cast("I")
        header = layout.header()
        self.bytes[: len(header)] = header

    def release_fd(self) -> None:
        """Closes the descriptor; the mapping stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if getattr(self, "fd", -1) >= 0:
            close(self.fd)  # bound early: at the interpreter's exit modules are empty already

    def check_written_by_sidecar(self, boot_epoch: int, session_id: int) -> None:
        """Raises ``AttachError`` unless the sidecar has written what it said in ``WELCOME``."""
        seen = self.words[p.OFF_BOOT_EPOCH // 8], self.words[p.OFF_SESSION_ID // 8]
        if seen != (boot_epoch, session_id):
            raise AttachError(
                f"the session file says epoch {seen[0]:016x} session {seen[1]}, WELCOME said "
                f"epoch {boot_epoch:016x} session {session_id}: the sidecar maps another file"
            )

    def set_revoke(self, index: int, job_id: int) -> None:
        """Stores ``job_id`` in revoke word ``index`` (one 8-byte store)."""
        if not 0 <= index < self.layout.revoke_count:
            raise IndexError(f"revoke word {index} of {self.layout.revoke_count}")
        self.words[self._revoke // 8 + index] = job_id

    def fence_seen(self, index: int) -> int:
        """The highest sequence number of fence ``index`` that the sidecar has seen complete."""
        if not 0 <= index < self.layout.fence_count:
            raise IndexError(f"fence word {index} of {self.layout.fence_count}")
        return self.words[self._fence // 8 + index]


_EXTEND = struct.Struct("<IHHQIIHHII4x")
"""Header and fixed part of an ``Extend`` record in one."""

_MOST_HASH_BYTES = p.MAX_RECORD_BYTES - _EXTEND.size


def encode(record: p.Record) -> Encoded:
    """The bytes of a record; an ``Extend`` as two parts, so that its hashes are copied only once.

    Lookups of long chains are what the ring is fast for: 512 hashes are 16 KiB, and
    ``Extend.encode`` would copy them three times before they reach the ring.
    """
    if type(record) is not p.Extend or record.tokens or record.extra_keys:
        return (record.encode(),)
    size = len(record.hashes)
    count, rest = divmod(size, record.hash_bytes)
    if rest or size & 7 or count > p.MAX_KEYS_A_RECORD or size > _MOST_HASH_BYTES:
        return (record.encode(),)  # which pads, or says what is wrong
    head = _EXTEND.pack(
        _EXTEND.size + size, p.TYPE_EXTEND, 0, record.request_id, record.first_index, count,
        record.hash_bytes, 0, 0, 0,
    )  # fmt: skip
    return (head, record.hashes)


CHUNK_KEYS = 256
"""Keys a record of ``ask``.  The sidecar copies one out of the ring and files its keys while we
write the next; fewer keys a record cost more in records than they win."""

_LOOKUP_BYTES = len(p.Lookup(0, 0, 0, 0, 0).encode())

_HEADER = struct.Struct("<IHH")

_ANSWER = struct.Struct("<QQQIIIIIIHH4x")
_ANSWER_BYTES = _HEADER.size + _ANSWER.size
"""Body and bytes of a ``LookupAnswer``, which is read in place."""


def join_hashes(hashes: Sequence[bytes], width: int) -> bytes:
    """All hashes as one; ``ValueError`` unless they are ``width`` bytes each, 16 to 64."""
    joined = b"".join(hashes)
    if len(joined) != len(hashes) * width or not p.MIN_HASH_BYTES <= width <= p.MAX_HASH_BYTES:
        raise ValueError(
            f"{len(hashes)} block hashes of {len(joined)} bytes, the first of {width}: must be all "
            f"alike and of {p.MIN_HASH_BYTES} to {p.MAX_HASH_BYTES} (vLLM: sha256, xxhash)"
        )
    return joined


@functools.lru_cache(maxsize=4)
def whole_chunk(width: int) -> struct.Struct:
    """An ``Extend`` of ``CHUNK_KEYS`` hashes: its fields written straight into the ring."""
    if not p.MIN_HASH_BYTES <= width <= p.MAX_HASH_BYTES or CHUNK_KEYS * width & 7:
        raise ValueError(f"block hashes of {width} bytes, must be 16 to 64 (vLLM: sha256, xxhash)")
    return struct.Struct(_EXTEND.format + f"{width}s" * CHUNK_KEYS)


class RingChannel:
    """Both rings of a session file.

    ``eventfd`` wakes a sidecar that sleeps; it stays the caller's to close.  -1: nobody to wake.
    """

    def __init__(self, file: SessionFile, eventfd: int = -1) -> None:
        self._file = file  # keeps the mapping alive
        self._eventfd = eventfd
        self._bytes = file.bytes
        self._words = file.words
        self._halves = file.halves
        self._out_base = file.to_server_offset
        self._out_capacity = file.layout.to_server_capacity
        self._out_tail = 0
        self._in_base = file.to_client_offset
        self._in_capacity = file.layout.to_client_capacity
        self._in_head = 0

    def write(self, records: Sequence[Encoded]) -> bool:
        """See ``Channel``.  Bytes beyond the tail that a refused batch left behind mean nothing."""
        capacity = self._out_capacity
        base = self._out_base
        target = self._bytes
        at = self._out_tail
        limit = self._head() + capacity
        for parts in records:
            need = (sum(map(len, parts)) + 7) & ~7
            offset = at & (capacity - 1)
            room = capacity - offset
            if need > room:
                if at + room + need > limit:
                    return False
                target[base + offset : base + offset + p.RECORD_HEADER_BYTES] = p.padding(room)
                at += room
                offset = 0
            elif at + need > limit:
                return False
            to = base + offset
            for part in parts:
                end = to + len(part)
                target[to:end] = part
                to = end
            at += need
        self._out_tail = self._words[_TO_SERVER_TAIL] = at
        self._wake()
        return True

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        """See ``Channel``.  Each record of hashes is published as soon as it is written."""
        total = len(hashes)
        if first >= total:
            return first, self.write([(lookup.encode(),)])
        width = len(hashes[first])
        capacity = self._out_capacity
        limit = self._head() + capacity
        begin = first
        while first < total:
            end = min(first + CHUNK_KEYS, total)
            hashes_end = need = (_EXTEND.size + (end - first) * width + 7) & ~7
            if end == total:
                need += _LOOKUP_BYTES
            at = self._out_tail
            offset = at & (capacity - 1)
            room = capacity - offset
            to = self._out_base + offset
            if need > room:
                if at + room + need > limit:
                    break
                self._bytes[to : to + p.RECORD_HEADER_BYTES] = p.padding(room)
                at += room
                to = self._out_base
            elif at + need > limit:
                break
            self._put_extend(to, lookup.request_id, first, hashes[first:end], width)
            if end == total:
                self._bytes[to + hashes_end : to + need] = lookup.encode()
            self._out_tail = self._words[_TO_SERVER_TAIL] = at + need
            if first == begin:
                self._wake()
            first = end
        if first - begin > CHUNK_KEYS:
            self._wake()
        return first, first == total

    def _put_extend(
        self, to: int, request_id: int, first: int, hashes: Sequence[bytes], width: int
    ) -> None:
        """Writes one ``Extend`` at offset ``to``, where it has room."""
        count = len(hashes)
        size = _EXTEND.size + count * width
        need = (size + 7) & ~7
        fixed = (need, p.TYPE_EXTEND, 0, request_id, first, count, width, 0, 0, 0)
        if count == CHUNK_KEYS and len(hashes[-1]) == width:
            # A field would take a hash of another width too, and cut it or fill it up; vLLM makes
            # all hashes by one function, so one look a record is enough.
            whole_chunk(width).pack_into(self._bytes, to, *fixed, *hashes)
            return
        joined = join_hashes(hashes, width)
        _EXTEND.pack_into(self._bytes, to, *fixed)
        self._bytes[to + _EXTEND.size : to + size] = joined
        self._bytes[to + size : to + need] = bytes(need - size)

    def _head(self) -> int:
        """How far the sidecar has read; ``ProtocolError`` if that cannot be."""
        head = self._words[_TO_SERVER_HEAD]
        if not 0 <= self._out_tail - head <= self._out_capacity:
            raise p.ProtocolError(f"head {head} of the ring to the sidecar, tail {self._out_tail}")
        return head

    def _wake(self) -> None:
        """After a tail was stored: a sidecar that sleeps has to be told."""
        if self._halves[_SLEEPING] and self._eventfd >= 0:
            # The records are out, whatever becomes of the wake-up: the sidecar looks soon anyway.
            with contextlib.suppress(OSError):
                os.eventfd_write(self._eventfd, 1)

    def pending(self) -> bool:
        """See ``Channel``."""
        return self._words[_TO_CLIENT_TAIL] != self._in_head

    def drain(self) -> list[p.Record]:
        """See ``Channel``."""
        tail = self._words[_TO_CLIENT_TAIL]
        head = self._in_head
        if tail == head:
            return []
        capacity = self._in_capacity
        if not 0 < tail - head <= capacity or tail & 7:
            raise p.ProtocolError(f"tail {tail} of the ring to the client, head {head}")
        source = self._bytes
        records: list[p.Record] = []
        while head != tail:
            offset = head & (capacity - 1)
            at = self._in_base + offset
            length, record_type, flags = _HEADER.unpack_from(source, at)
            need = (length + 7) & ~7
            if length < p.RECORD_HEADER_BYTES or need > min(capacity - offset, tail - head):
                raise p.ProtocolError(
                    f"record type {record_type} of {length} bytes at offset {offset} of "
                    f"{capacity}, {tail - head} bytes published"
                )
            if record_type == p.TYPE_LOOKUP_ANSWER and length == _ANSWER_BYTES and not flags:
                body = _ANSWER.unpack_from(source, at + p.RECORD_HEADER_BYTES)
                records.append(p.LookupAnswer(*body))
            elif record_type != p.TYPE_PADDING:
                records.append(p.decode_record(bytes(source[at : at + length])))
            head += need
        self._in_head = head
        self._words[_TO_CLIENT_HEAD] = head
        return records


class GenerationTable:
    """One counter a GPU block in a memfd that outlives every sidecar (scheduler sessions only).

    The engine's thread raises a counter when vLLM newly assigns the block; the sidecar compares it
    with the one a save plan saw.  Counters are never lowered and never reset.
    """

    def __init__(self, entries: int) -> None:
        if entries < 0 or entries > 1 << 31:
            raise ValueError(f"{entries} generation counters, allowed 0 to {1 << 31}")
        self.entries = entries
        self.fd = -1
        self._words: memoryview | list[int] = []
        if entries:
            size = p.GENERATION_HEADER_BYTES + 8 * entries
            self.fd = sealed_memfd("flexkv-generations", size)
            self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
            header = p.generation_header(entries)
            self._map[: len(header)] = header
            self._words = memoryview(self._map)[p.GENERATION_HEADER_BYTES :].cast("Q")

    def __len__(self) -> int:
        return self.entries

    def __getitem__(self, block_id: int) -> int:
        return self._words[block_id]

    @property
    def counters(self) -> memoryview | list[int]:
        """The counters by block id: whoever raises many stores here, each with one 8-byte store."""
        return self._words

    def raise_(self, block_id: int) -> int:
        """Raises the counter of ``block_id`` by one and returns it."""
        value = self._words[block_id] + 1
        self._words[block_id] = value
        return value

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if getattr(self, "fd", -1) >= 0:
            close(self.fd)  # as above
            self.fd = -1
