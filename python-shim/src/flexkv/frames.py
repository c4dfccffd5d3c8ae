"""Records as ``RECORDS`` frames on the rendezvous socket: the hot plane without shared memory.

Used where plain stores of Python are not ordered (``protocol.RING_MACHINES``).  The socket is
non-blocking; what the kernel does not take at once waits in a bounded buffer and goes out with the
next call, so ``write`` keeps the all-or-nothing promise of the rings.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from flexkv import protocol as p
from flexkv.ring import Encoded, join_hashes

OUT_LIMIT_BYTES = 1024 * 1024
"""Bytes accepted and not yet taken by the kernel; beyond it a write is refused."""

_RECEIVE_BYTES = 256 * 1024
_FRAME_PAYLOAD = p.MAX_FRAME_BYTES & ~7
_EXTEND_KEYS = 1024
"""Keys a record: of the widest hashes a quarter of the longest record."""


class FrameChannel:
    """See ``ring.Channel``; ``received`` is what came behind the ``WELCOME`` in the same read."""

    def __init__(self, sock: socket.socket, received: bytes = b"") -> None:
        self._socket = sock
        self._in = bytearray(received)
        self._out = bytearray()

    def write(self, records: Sequence[Encoded]) -> bool:
        """See ``ring.Channel``."""
        self._flush()
        whole = (b"".join(parts) for parts in records)
        payload = b"".join(r + b"\0" * (-len(r) & 7) for r in whole)
        if len(payload) > _FRAME_PAYLOAD:
            return False
        frame = p.encode_frame(p.FRAME_RECORDS, payload)
        if len(self._out) + len(frame) > OUT_LIMIT_BYTES + p.FRAME_HEADER_BYTES:
            return False
        self._out += frame
        self._flush()
        return True

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        """See ``ring.Channel``."""
        total = len(hashes)
        while first < total:
            end = min(first + _EXTEND_KEYS, total)
            width = len(hashes[first])
            joined = join_hashes(hashes[first:end], width)
            if not self.write([(p.Extend(lookup.request_id, first, width, joined).encode(),)]):
                return first, False
            first = end
        return first, self.write([(lookup.encode(),)])

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except (BlockingIOError, InterruptedError):
                return
            del self._out[:sent]

    def pending(self) -> bool:
        """See ``ring.Channel``; reads the socket."""
        self._flush()
        self._receive()
        return self._whole_frame() is not None

    def _receive(self) -> None:
        while len(self._in) < p.MAX_FRAME_BYTES + p.FRAME_HEADER_BYTES:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                return  # EOF: the session's liveness check names it
            self._in += data

    def _whole_frame(self) -> int | None:
        """Payload length of the first frame if all of it is here."""
        if len(self._in) < p.FRAME_HEADER_BYTES:
            return None
        version, frame_type, length = p.decode_frame_header(bytes(self._in[: p.FRAME_HEADER_BYTES]))
        if version != p.PROTOCOL_VERSION or frame_type != p.FRAME_RECORDS:
            raise p.ProtocolError(
                f"frame type {frame_type} version {version}, expected {p.FRAME_RECORDS} "
                f"version {p.PROTOCOL_VERSION}"
            )
        return length if len(self._in) >= p.FRAME_HEADER_BYTES + length else None

    def drain(self) -> list[p.Record]:
        """See ``ring.Channel``."""
        records: list[p.Record] = []
        self._flush()
        self._receive()
        while (length := self._whole_frame()) is not None:
            end = p.FRAME_HEADER_BYTES + length
            payload = bytes(self._in[p.FRAME_HEADER_BYTES : end])
            del self._in[:end]
            records.extend(split_records(payload))
        return records


def split_records(payload: bytes) -> list[p.Record]:
    """The records of one ``RECORDS`` payload, each padded to a multiple of eight."""
    records: list[p.Record] = []
    at = 0
    while at < len(payload):
        if len(payload) - at < p.RECORD_HEADER_BYTES:
            raise p.ProtocolError(f"{len(payload) - at} bytes behind the last record of a frame")
        length, record_type = p.record_header(payload, at)
        if length < p.RECORD_HEADER_BYTES or at + length > len(payload):
            raise p.ProtocolError(
                f"record type {record_type} of {length} bytes in a frame with "
                f"{len(payload) - at} bytes left"
            )
        if record_type != p.TYPE_PADDING:
            records.append(p.decode_record(payload[at : at + length]))
        at += p.align8(length)
    return records
