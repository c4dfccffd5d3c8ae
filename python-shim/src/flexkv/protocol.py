"""The bytes between the shim and the sidecar: every layout, every record, both directions.

This file is the single Python source of the wire format.  It uses the standard library only (no
``ctypes``), because a JUnit test of the sidecar runs this very file in GraalPy and compares every
record with the Java codec, both ways.  ``docs/protocol.md`` tells how the records play together.

Records are plain dataclasses with slots: a frozen one costs twice as much to make, and these are
made in the scheduler's thread.  Nobody changes one.

Conventions
    * Everything is little-endian.  Sizes are bytes unless the name says otherwise.
    * ``u64`` fields lie on multiples of 8 within a record, ``u32`` on multiples of 4.
    * A *block id* is vLLM's GPU block id (``u32``), a *block index* a place in a request's chain.
    * Nothing received is trusted: ``decode_record`` checks every length before it reads.

Session file (one memfd a session, made and sealed by the client, sent with ``HELLO``)::

         0        8       12       16        24        32      36      40
         +--------+--------+--------+---------+---------+-------+-------+
         | magic  | layout | header | boot    | session | pid   | role  |
         | u64    | u32    | u32    | epoch   | id u64  | u32   | u32   |
         +--------+--------+--------+---------+---------+-------+-------+
        40        48        56        64        72        80      84     88      96
         +---------+---------+---------+---------+---------+-------+------+-------+
         | to_srv  | to_srv  | to_cli  | to_cli  | revoke  | revoke| fence| fence |
         | offset  | capacity| offset  | capacity| offset  | count | count| offset|
         +---------+---------+---------+---------+---------+-------+------+-------+
        96  total bytes u64
       128  to_server tail u64   (client writes)      256  to_server head u64 (sidecar writes)
       384  to_client tail u64   (sidecar writes)     512  to_client head u64 (client writes)
       640  sleeping u32         (sidecar writes; 1 = a record needs a wake-up through the eventfd)
      4096  ring to the sidecar, ring to the client, revoke words u64[], fence-seen words u64[]

Tails and heads are monotonic byte positions; position modulo capacity (a power of two) is the
offset in the ring.  A record never wraps: where it would, a PADDING record fills the rest.  A
producer writes the record and then the tail with one aligned 8-byte store; on x86-64 stores become
visible in program order, elsewhere (``RING_MACHINES``) the records travel as messages over the
rendezvous socket.

Generation file (a second memfd, scheduler sessions only; survives the sidecar)::

         0         8        12        16                64
         +---------+--------+---------+---- ... --------+----------------------------+
         | magic   | layout | entries | reserved        | counter u64 of block 0, 1, … |
         +---------+--------+---------+---- ... --------+----------------------------+
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any, ClassVar

PROTOCOL_VERSION = 1
"""Version of everything in this file.  Both sides must have the same one."""

RING_MACHINES = ("x86_64", "AMD64")
"""Values of ``platform.machine()`` on which plain stores of Python keep the order a ring needs."""

# --------------------------------------------------------------------------- session file
SESSION_MAGIC = int.from_bytes(b"FXKVRNG1", "little")
GENERATION_MAGIC = int.from_bytes(b"FXKVGEN1", "little")
HEADER_BYTES = 4096
OFF_MAGIC = 0
OFF_LAYOUT_VERSION = 8
OFF_HEADER_BYTES = 12
OFF_BOOT_EPOCH = 16
OFF_SESSION_ID = 24
OFF_CLIENT_PID = 32
OFF_ROLE = 36
OFF_TO_SERVER_OFFSET = 40
OFF_TO_SERVER_CAPACITY = 48
OFF_TO_CLIENT_OFFSET = 56
OFF_TO_CLIENT_CAPACITY = 64
OFF_REVOKE_OFFSET = 72
OFF_REVOKE_COUNT = 80
OFF_FENCE_COUNT = 84
OFF_FENCE_OFFSET = 88
OFF_TOTAL_BYTES = 96
OFF_TO_SERVER_TAIL = 128
OFF_TO_SERVER_HEAD = 256
OFF_TO_CLIENT_TAIL = 384
OFF_TO_CLIENT_HEAD = 512
OFF_SLEEPING = 640
_SESSION_HEADER = struct.Struct("<QIIQQIIQQQQQIIQQ")

GENERATION_HEADER_BYTES = 64
_GENERATION_HEADER = struct.Struct("<QII")

ROLE_SCHEDULER = 1
ROLE_WORKER = 2
ROLE_TOOL = 3

# --------------------------------------------------------------------------- limits
MAX_RECORD_BYTES = 256 * 1024
MAX_KEYS_A_RECORD = 4096
MAX_BLOCKS_A_PLAN = 8192
MIN_HASH_BYTES = 16
MAX_HASH_BYTES = 64
MAX_FRAME_BYTES = 1024 * 1024
JOB_COUNTER_BITS = 40
NO_INDEX = 0xFFFFFFFF

_RECORD_HEADER = struct.Struct("<IHH")
RECORD_HEADER_BYTES = _RECORD_HEADER.size


class ProtocolError(ValueError):
    """Bytes that no correct peer sends; the message names the field, the value and the limit."""


def align8(length: int) -> int:
    """The next multiple of eight at or above ``length``."""
    return (length + 7) & ~7


def job_id(session_id: int, counter: int) -> int:
    """Id of a job: the scheduler session that planned it (23 bits) and its counter (40 bits)."""
    if not 0 < session_id < 1 << 23 or not 0 < counter < 1 << JOB_COUNTER_BITS:
        raise ProtocolError(f"job id out of range: session={session_id} counter={counter}")
    return session_id << JOB_COUNTER_BITS | counter


@dataclass(frozen=True)
class SessionLayout:
    """Geometry of a session file; built by the client, read back and checked by the sidecar."""

    role: int
    client_pid: int
    to_server_capacity: int
    to_client_capacity: int
    revoke_count: int = 0
    fence_count: int = 0

    def offsets(self) -> tuple[int, int, int, int, int]:
        """Offsets of: ring to the sidecar, ring to the client, revoke words, fence words, end."""
        to_server = HEADER_BYTES
        to_client = to_server + self.to_server_capacity
        revoke = to_client + self.to_client_capacity
        fence = revoke + 8 * self.revoke_count
        total = (fence + 8 * self.fence_count + 4095) & ~4095
        return to_server, to_client, revoke, fence, total

    def header(self) -> bytes:
        """The first 104 bytes of the file; epoch and session id are the sidecar's to fill in."""
        to_server, to_client, revoke, fence, total = self.offsets()
        return _SESSION_HEADER.pack(
            SESSION_MAGIC, PROTOCOL_VERSION, HEADER_BYTES, 0, 0, self.client_pid, self.role,
            to_server, self.to_server_capacity, to_client, self.to_client_capacity,
            revoke, self.revoke_count, self.fence_count, fence, total,
        )  # fmt: skip


def generation_header(entries: int) -> bytes:
    """The first 16 bytes of a generation file with ``entries`` counters."""
    return _GENERATION_HEADER.pack(GENERATION_MAGIC, PROTOCOL_VERSION, entries)


# --------------------------------------------------------------------------- records
TYPE_PADDING = 0
# scheduler to sidecar
TYPE_EXTEND = 1
TYPE_LOOKUP = 2
TYPE_PLAN_LOAD = 3
TYPE_PLAN_SAVE = 4
TYPE_END_REQUEST = 5
TYPE_RESET = 6
TYPE_ECHO = 7
TYPE_NOTICES_TAKEN = 8
# worker to sidecar
TYPE_GO = 32
TYPE_REVOKE = 33
# sidecar to scheduler
TYPE_LOOKUP_ANSWER = 64
TYPE_RESET_ANSWER = 65
TYPE_SAVE_DONE = 66
TYPE_KV_NOTICE = 67
TYPE_ECHO_ANSWER = 68
# sidecar to worker
TYPE_JOB_DONE = 96

KIND_LOAD = 1
KIND_SAVE = 2

FENCE_NONE = 0
"""The bytes are in place already (a CPU engine, or an event the worker saw complete itself)."""
FENCE_EVENT = 1
"""An interprocess event of the ring handed over at registration: index and sequence number."""

STATUS_OK = 0
STATUS_FAILED = 1
STATUS_REVOKED = 2
STATUS_VOID = 3
STATUS_NAMES = {
    STATUS_OK: "ok",
    STATUS_FAILED: "failed",
    STATUS_REVOKED: "revoked",
    STATUS_VOID: "void",
}

LOOKUP_OK = 0
LOOKUP_PENDING = 1
"""A slower tier is being promoted, or the chain is being loaded by another request: ask again."""
LOOKUP_NOT_READY = 2
"""Not every rank of the instance is registered in this boot epoch: nothing can be served."""
LOOKUP_UNKNOWN = 3
"""The sidecar does not hold the request's chain (dropped, or a gap): send it again from index 0."""

TIER_HOST = 1
TIER_SSD = 2
TIER_REMOTE = 3

NOTICE_STORED = 1
NOTICE_EVICTED = 2
NOTICE_CLEARED = 3
NOTICE_LIST_BEGIN = 4
"""A listing of all that is resident begins; what is not named before its end is gone."""
NOTICE_LIST_END = 5
NOTICES_ANEW = 1
"""Flag of ``NoticesTaken``: list anew."""


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise ProtocolError(text)


def _header(record_type: int, body: bytes) -> bytes:
    length = RECORD_HEADER_BYTES + len(body)
    _check(length <= MAX_RECORD_BYTES, f"record of {length} bytes, at most {MAX_RECORD_BYTES}")
    return _RECORD_HEADER.pack(length, record_type, 0) + body


def _u32s(values: tuple[int, ...] | array[int]) -> bytes:
    if isinstance(values, array) and values.typecode == "I" and sys.byteorder == "little":
        return values.tobytes()
    return struct.pack(f"<{len(values)}I", *values)


def _u32_count(packed: bytes) -> int:
    count, rest = divmod(len(packed), 4)
    _check(rest == 0, f"{len(packed)} bytes of token ids, 4 each")
    return count


def _u64s(values: tuple[int, ...] | array[int]) -> bytes:
    if isinstance(values, array) and values.typecode == "Q" and sys.byteorder == "little":
        return values.tobytes()
    return struct.pack(f"<{len(values)}Q", *values)


@dataclass(slots=True)
class Extend:
    """Appends whole block hashes to a request's chain; overlap with what is known must be equal.

    ``tokens`` (u32 each, packed) and ``extra_keys`` are what KV events need; they come before a
    save plan, and with events only.  They are those of the record's last blocks: of all of them, or
    of all but the first, which then only says whose child the second is.  Extra keys are empty, or
    hold for each block with tokens a u32 of their length and so many bytes.
    """

    TYPE: ClassVar[int] = TYPE_EXTEND
    _S: ClassVar[struct.Struct] = struct.Struct("<QIIHHII4x")
    request_id: int
    first_index: int
    hash_bytes: int
    hashes: bytes
    tokens: bytes = b""
    extra_keys: bytes = b""

    def encode(self) -> bytes:
        count, rest = divmod(len(self.hashes), self.hash_bytes)
        _check(rest == 0 and count <= MAX_KEYS_A_RECORD, f"{len(self.hashes)} bytes of hashes")
        fixed = self._S.pack(
            self.request_id, self.first_index, count, self.hash_bytes, 0,
            _u32_count(self.tokens), len(self.extra_keys),
        )  # fmt: skip
        body = fixed + self.hashes
        body += b"\0" * (align8(len(body)) - len(body)) + self.tokens + self.extra_keys
        return _header(self.TYPE, body)

    @classmethod
    def decode(cls, body: bytes) -> Extend:
        request, first, count, hash_bytes, _, n_tokens, n_extra = cls._S.unpack_from(body)
        _check(MIN_HASH_BYTES <= hash_bytes <= MAX_HASH_BYTES, f"hash of {hash_bytes} bytes")
        _check(count <= MAX_KEYS_A_RECORD, f"{count} keys, at most {MAX_KEYS_A_RECORD}")
        end = cls._S.size + count * hash_bytes
        tail = align8(end)
        _check(len(body) == tail + 4 * n_tokens + n_extra, f"extend of {len(body)} bytes")
        extra = tail + 4 * n_tokens
        return cls(
            request, first, hash_bytes, body[cls._S.size : end], body[tail:extra], body[extra:]
        )


@dataclass(slots=True)
class Lookup:
    """How deep can this request's chain be served?  ``first_block`` blocks are there locally.

    ``chain_blocks`` is the number of keys the client has sent: a sidecar that holds fewer answers
    ``LOOKUP_UNKNOWN``.  At most ``max_blocks`` blocks beyond ``first_block`` are asked for.
    """

    TYPE: ClassVar[int] = TYPE_LOOKUP
    _S: ClassVar[struct.Struct] = struct.Struct("<QQIIIHH")
    _WHOLE: ClassVar[struct.Struct] = struct.Struct("<IHHQQIIIHH")
    query_id: int
    request_id: int
    chain_blocks: int
    first_block: int
    max_blocks: int
    group: int = 0

    def encode(self) -> bytes:
        return self._WHOLE.pack(
            self._WHOLE.size, self.TYPE, 0, self.query_id, self.request_id, self.chain_blocks,
            self.first_block, self.max_blocks, self.group, 0,
        )  # fmt: skip

    @classmethod
    def decode(cls, body: bytes) -> Lookup:
        query, request, chain, first, most, group, _ = cls._S.unpack(body)
        return cls(query, request, chain, first, most, group)


@dataclass(slots=True)
class PlanLoad:
    """Load chain blocks [first_block, first_block + n) into ``block_ids`` under ``lease_id``."""

    TYPE: ClassVar[int] = TYPE_PLAN_LOAD
    _S: ClassVar[struct.Struct] = struct.Struct("<QQQIIIHH")
    job_id: int
    request_id: int
    lease_id: int
    generation: int
    first_block: int
    block_ids: tuple[int, ...] | array[int]
    group: int = 0

    def encode(self) -> bytes:
        n = len(self.block_ids)
        _check(0 < n <= MAX_BLOCKS_A_PLAN, f"{n} blocks, at most {MAX_BLOCKS_A_PLAN}")
        fixed = self._S.pack(
            self.job_id, self.request_id, self.lease_id, self.generation, self.first_block,
            n, self.group, 0,
        )  # fmt: skip
        return _header(self.TYPE, fixed + _u32s(self.block_ids))

    @classmethod
    def decode(cls, body: bytes) -> PlanLoad:
        job, request, lease, generation, first, n, group, _ = cls._S.unpack_from(body)
        _check(0 < n <= MAX_BLOCKS_A_PLAN, f"{n} blocks, at most {MAX_BLOCKS_A_PLAN}")
        _check(len(body) == cls._S.size + 4 * n, f"load plan of {len(body)} bytes for {n} blocks")
        ids = struct.unpack_from(f"<{n}I", body, cls._S.size)
        return cls(job, request, lease, generation, first, ids, group)


@dataclass(slots=True)
class PlanSave:
    """Save ``block_ids`` as chain blocks [first_block, …).

    ``generations`` are the counters of the generation file that the plan saw, one a block: a block
    whose counter differs once its copy has completed is dropped.
    """

    TYPE: ClassVar[int] = TYPE_PLAN_SAVE
    _S: ClassVar[struct.Struct] = struct.Struct("<QQIIHHI")
    job_id: int
    request_id: int
    first_block: int
    block_ids: tuple[int, ...] | array[int]
    generations: tuple[int, ...] | array[int]
    group: int = 0

    def encode(self) -> bytes:
        n = len(self.block_ids)
        _check(0 < n <= MAX_BLOCKS_A_PLAN, f"{n} blocks, at most {MAX_BLOCKS_A_PLAN}")
        _check(len(self.generations) == n, f"{len(self.generations)} counters for {n} blocks")
        fixed = self._S.pack(self.job_id, self.request_id, self.first_block, n, self.group, 0, 0)
        return _header(self.TYPE, fixed + _u64s(self.generations) + _u32s(self.block_ids))

    @classmethod
    def decode(cls, body: bytes) -> PlanSave:
        job, request, first, n, group, _, _ = cls._S.unpack_from(body)
        _check(0 < n <= MAX_BLOCKS_A_PLAN, f"{n} blocks, at most {MAX_BLOCKS_A_PLAN}")
        _check(len(body) == cls._S.size + 12 * n, f"save plan of {len(body)} bytes for {n} blocks")
        generations = struct.unpack_from(f"<{n}Q", body, cls._S.size)
        ids = struct.unpack_from(f"<{n}I", body, cls._S.size + 8 * n)
        return cls(job, request, first, ids, generations, group)


@dataclass(slots=True)
class EndRequest:
    """The request is over: its chain and an unpinned lease may go; planned jobs live on."""

    TYPE: ClassVar[int] = TYPE_END_REQUEST
    _S: ClassVar[struct.Struct] = struct.Struct("<Q")
    request_id: int

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.request_id))

    @classmethod
    def decode(cls, body: bytes) -> EndRequest:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class Reset:
    """Raise the generation of the instance's namespace: nothing saved before is served again."""

    TYPE: ClassVar[int] = TYPE_RESET
    _S: ClassVar[struct.Struct] = struct.Struct("<Q")
    query_id: int

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.query_id))

    @classmethod
    def decode(cls, body: bytes) -> Reset:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class NoticesTaken:
    """So many notices were taken since the session began: more come only up to a window.

    With the flag ``NOTICES_ANEW`` a listing of all that is resident is wanted.
    """

    TYPE: ClassVar[int] = TYPE_NOTICES_TAKEN
    _S: ClassVar[struct.Struct] = struct.Struct("<QI4x")
    taken: int
    flags: int = 0

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.taken, self.flags))

    @classmethod
    def decode(cls, body: bytes) -> NoticesTaken:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class Echo:
    """Answered at once with the same payload: measures the ring alone."""

    TYPE: ClassVar[int] = TYPE_ECHO
    _S: ClassVar[struct.Struct] = struct.Struct("<Q")
    query_id: int
    payload: bytes = b""

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.query_id) + self.payload)

    @classmethod
    def decode(cls, body: bytes) -> Echo:
        return cls(cls._S.unpack_from(body)[0], body[cls._S.size :])


@dataclass(slots=True)
class EchoAnswer(Echo):
    """See ``Echo``."""

    TYPE: ClassVar[int] = TYPE_ECHO_ANSWER


@dataclass(slots=True)
class Go:
    """This rank's part (from a scheduler: every rank's) may start once its fence is reached.

    ``revoke_index`` names the word of the session file that the worker sets to the job id to revoke
    a load (``NO_INDEX`` for a save); ``deadline_ms`` counts from the arrival of this record.
    """

    TYPE: ClassVar[int] = TYPE_GO
    _S: ClassVar[struct.Struct] = struct.Struct("<QQIIIHH")
    job_id: int
    fence_sequence: int
    fence_index: int
    revoke_index: int
    deadline_ms: int
    kind: int
    fence_kind: int = FENCE_NONE

    def encode(self) -> bytes:
        return _header(
            self.TYPE,
            self._S.pack(
                self.job_id, self.fence_sequence, self.fence_index, self.revoke_index,
                self.deadline_ms, self.kind, self.fence_kind,
            ),
        )  # fmt: skip

    @classmethod
    def decode(cls, body: bytes) -> Go:
        record = cls(*cls._S.unpack(body))
        _check(record.kind in (KIND_LOAD, KIND_SAVE), f"job kind {record.kind}")
        _check(record.fence_kind in (FENCE_NONE, FENCE_EVENT), f"fence kind {record.fence_kind}")
        return record


@dataclass(slots=True)
class Revoke:
    """Stop this load; answered by ``JobDone`` once no copy of it can touch memory any more."""

    TYPE: ClassVar[int] = TYPE_REVOKE
    _S: ClassVar[struct.Struct] = struct.Struct("<Q")
    job_id: int

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.job_id))

    @classmethod
    def decode(cls, body: bytes) -> Revoke:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class LookupAnswer:
    """Depths in blocks from the start of the chain; ``lease_id`` 0: nothing past ``first_block``.

    ``servable`` can be loaded now under the lease; ``resident`` also counts blocks whose save is on
    its way (a save plan starts there); ``host``/``ssd``/``remote`` are cumulative depths by tier.
    """

    TYPE: ClassVar[int] = TYPE_LOOKUP_ANSWER
    _S: ClassVar[struct.Struct] = struct.Struct("<QQQIIIIIIHH4x")
    query_id: int
    request_id: int
    lease_id: int
    generation: int
    servable: int
    resident: int
    host: int
    ssd: int
    remote: int
    status: int = LOOKUP_OK
    group: int = 0

    def encode(self) -> bytes:
        return _header(
            self.TYPE,
            self._S.pack(
                self.query_id, self.request_id, self.lease_id, self.generation, self.servable,
                self.resident, self.host, self.ssd, self.remote, self.status, self.group,
            ),
        )  # fmt: skip

    @classmethod
    def decode(cls, body: bytes) -> LookupAnswer:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class ResetAnswer:
    """The namespace's generation after a reset."""

    TYPE: ClassVar[int] = TYPE_RESET_ANSWER
    _S: ClassVar[struct.Struct] = struct.Struct("<QIHH")
    query_id: int
    generation: int
    status: int = STATUS_OK

    def encode(self) -> bytes:
        return _header(self.TYPE, self._S.pack(self.query_id, self.generation, self.status, 0))

    @classmethod
    def decode(cls, body: bytes) -> ResetAnswer:
        query, generation, status, _ = cls._S.unpack(body)
        return cls(query, generation, status)


@dataclass(slots=True)
class SaveDone:
    """All parts of a save are in or lost: ``committed`` of its blocks are resident."""

    TYPE: ClassVar[int] = TYPE_SAVE_DONE
    _S: ClassVar[struct.Struct] = struct.Struct("<QIIII")
    job_id: int
    committed: int
    skipped: int
    dropped: int
    status: int = STATUS_OK

    def encode(self) -> bytes:
        fixed = self._S.pack(self.job_id, self.committed, self.skipped, self.dropped, self.status)
        return _header(self.TYPE, fixed)

    @classmethod
    def decode(cls, body: bytes) -> SaveDone:
        return cls(*cls._S.unpack(body))


@dataclass(slots=True)
class KvNotice:
    """Blocks entered or left a tier, in vLLM's own hashes: the raw material of KV events.

    Stored blocks of a record are a chain: ``parent`` is that of the first (empty at the root), each
    is the next one's.  Tokens and extra keys are those the ``Extend`` carried, packed alike.
    Hashes of evicted blocks are of 16 bytes, of which the last 8 count.  The other kinds name no
    blocks.
    """

    TYPE: ClassVar[int] = TYPE_KV_NOTICE
    _S: ClassVar[struct.Struct] = struct.Struct("<HHHHIIII")
    kind: int
    tier: int
    group: int
    hash_bytes: int
    hashes: bytes
    parent: bytes = b""
    tokens: bytes = b""
    extra_keys: bytes = b""

    def encode(self) -> bytes:
        count, rest = divmod(len(self.hashes), self.hash_bytes)
        _check(rest == 0 and count <= MAX_KEYS_A_RECORD, f"{len(self.hashes)} bytes of hashes")
        _check(len(self.parent) in (0, self.hash_bytes), f"parent of {len(self.parent)} bytes")
        fixed = self._S.pack(
            self.kind, self.tier, self.group, self.hash_bytes, count, len(self.parent),
            _u32_count(self.tokens), len(self.extra_keys),
        )  # fmt: skip
        body = fixed + self.hashes + self.parent
        body += b"\0" * (align8(len(body)) - len(body)) + self.tokens + self.extra_keys
        return _header(self.TYPE, body)

    @classmethod
    def decode(cls, body: bytes) -> KvNotice:
        kind, tier, group, width, count, n_parent, n_tokens, n_extra = cls._S.unpack_from(body)
        _check(MIN_HASH_BYTES <= width <= MAX_HASH_BYTES, f"hash of {width} bytes")
        _check(count <= MAX_KEYS_A_RECORD, f"{count} keys, at most {MAX_KEYS_A_RECORD}")
        _check(n_parent in (0, width), f"parent of {n_parent} bytes")
        hashes_end = cls._S.size + count * width
        end = hashes_end + n_parent
        tail = align8(end)
        _check(len(body) == tail + 4 * n_tokens + n_extra, f"notice of {len(body)} bytes")
        extra = tail + 4 * n_tokens
        return cls(
            kind, tier, group, width, body[cls._S.size : hashes_end], body[hashes_end:end],
            body[tail:extra], body[extra:],
        )  # fmt: skip


@dataclass(slots=True)
class JobDone:
    """This rank's part of a job has ended: no copy of it can touch memory any more.

    The first ``blocks_ok`` blocks of a load are in place, whatever ``status`` says of the rest.
    """

    TYPE: ClassVar[int] = TYPE_JOB_DONE
    _S: ClassVar[struct.Struct] = struct.Struct("<QQQIIHH4x")
    job_id: int
    boot_epoch: int
    bytes_moved: int
    blocks_ok: int
    micros: int
    kind: int
    status: int

    def encode(self) -> bytes:
        return _header(
            self.TYPE,
            self._S.pack(
                self.job_id, self.boot_epoch, self.bytes_moved, self.blocks_ok, self.micros,
                self.kind, self.status,
            ),
        )  # fmt: skip

    @classmethod
    def decode(cls, body: bytes) -> JobDone:
        return cls(*cls._S.unpack(body))


Record = (
    Extend | Lookup | PlanLoad | PlanSave | EndRequest | Reset | NoticesTaken | Echo | EchoAnswer
    | Go | Revoke | LookupAnswer | ResetAnswer | SaveDone | KvNotice | JobDone
)  # fmt: skip

RECORD_CLASSES: dict[int, type[Any]] = {
    cls.TYPE: cls
    for cls in (
        Extend, Lookup, PlanLoad, PlanSave, EndRequest, Reset, NoticesTaken, Echo, EchoAnswer,
        Go, Revoke, LookupAnswer, ResetAnswer, SaveDone, KvNotice, JobDone,
    )
}  # fmt: skip


def decode_record(data: bytes) -> Record:
    """One record from exactly its bytes (header included); ``ProtocolError`` on anything else."""
    _check(len(data) >= RECORD_HEADER_BYTES, f"record of {len(data)} bytes")
    length, record_type, flags = _RECORD_HEADER.unpack_from(data)
    _check(length == len(data), f"record says {length} bytes, got {len(data)}")
    _check(flags == 0, f"record flags {flags}, must be 0")
    cls = RECORD_CLASSES.get(record_type)
    _check(cls is not None, f"unknown record type {record_type}")
    try:
        record: Record = cls.decode(data[RECORD_HEADER_BYTES:])  # type: ignore[union-attr]
    except struct.error as error:
        raise ProtocolError(f"record type {record_type} of {length} bytes: {error}") from error
    return record


def record_header(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Length and type of the record at ``offset``."""
    length, record_type, _ = _RECORD_HEADER.unpack_from(data, offset)
    return length, record_type


def padding(length: int) -> bytes:
    """Header of a PADDING record that fills ``length`` bytes up to the end of a ring."""
    return _RECORD_HEADER.pack(length, TYPE_PADDING, 0)


# --------------------------------------------------------------------------- layout proof
_U64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _splitmix64(x: int) -> int:
    z = x + _GOLDEN & _U64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _U64
    return z ^ z >> 31


def proof_bytes(seed: int, region: int, block: int, length: int) -> bytes:
    """The pattern that proves a layout, in one region's share of one block.

    Word *i* (``u64``) is ``splitmix64(base + i)`` where ``base = seed ^ region << 40 ^ block *
    0x9E3779B97F4A7C15``, all modulo 2^64.  This is the definition; a worker computes the same with
    numpy or torch.
    """
    base = seed ^ region << 40 ^ (block * _GOLDEN & _U64)
    words = [_splitmix64(base + i & _U64) for i in range((length + 7) // 8)]
    return struct.pack(f"<{len(words)}Q", *words)[:length]


# --------------------------------------------------------------------------- rendezvous frames
FRAME_MAGIC = int.from_bytes(b"FXKV", "little")
_FRAME_HEADER = struct.Struct("<IHHI")
FRAME_HEADER_BYTES = _FRAME_HEADER.size

FRAME_HELLO = 1
"""Client to sidecar, first frame; carries the session file (and a scheduler's generation file)."""
FRAME_WELCOME = 2
"""Sidecar to client; carries the eventfd that wakes the sidecar."""
FRAME_REFUSED = 3
"""Sidecar to client, then EOF: ``{"code": …, "message": …}``."""
FRAME_RECORDS = 16
"""Either way, in place of the rings (other machines than ``RING_MACHINES``): records, each padded
to a multiple of eight."""

REFUSED_VERSION = "version"
REFUSED_UID = "uid"
REFUSED_MALFORMED = "malformed"
REFUSED_LIMIT = "limit"
REFUSED_DUPLICATE = "duplicate"
REFUSED_STOPPING = "stopping"


@dataclass(frozen=True)
class Hello:
    """Who the client is.

    ``instance`` names the engine: vLLM's ``engine_id`` and data-parallel rank.  ``namespace`` is a
    hex digest over everything the bytes depend on besides tokens and layout (the sidecar mixes the
    layouts of all ranks in); equal for all sessions of an instance.  A worker may leave it empty,
    and ``world_size`` 0: it takes its scheduler's word.
    """

    role: int
    pid: int
    instance: str = ""
    rank: int = 0
    world_size: int = 1
    namespace: str = ""
    version: int = PROTOCOL_VERSION
    build: str = ""
    rings: bool = True
    kv_groups: int = 1
    block_tokens: int = 0
    events: bool = False

    def encode(self) -> bytes:
        return encode_frame(FRAME_HELLO, _json(self.__dict__))

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        return cls(**_known(cls, _object(payload)))


@dataclass(frozen=True)
class Welcome:
    """The sidecar's answer: one boot epoch (16 hex digits), the session's id, the control plane."""

    boot_epoch: str
    session_id: int
    server_pid: int
    control_endpoint: str
    control_token: str
    log_file: str = ""
    build: str = ""
    limits: dict[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        return encode_frame(FRAME_WELCOME, _json(self.__dict__))

    @classmethod
    def decode(cls, payload: bytes) -> Welcome:
        return cls(**_known(cls, _object(payload)))


@dataclass(frozen=True)
class Refused:
    """Why there is no session; ``message`` says what would help."""

    code: str
    message: str

    def encode(self) -> bytes:
        return encode_frame(FRAME_REFUSED, _json(self.__dict__))

    @classmethod
    def decode(cls, payload: bytes) -> Refused:
        return cls(**_known(cls, _object(payload)))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ProtocolError(f"frame is not JSON: {error}") from error
    _check(isinstance(value, dict), f"frame is a {type(value).__name__}, must be an object")
    return dict(value)


def _known(cls: type[Any], value: dict[str, Any]) -> dict[str, Any]:
    """Drops fields that a newer peer may have added; a missing one is an error."""
    known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
    required = [
        name
        for name, f in cls.__dataclass_fields__.items()
        if name not in known and f.default is f.default_factory  # both MISSING: no default
    ]
    _check(not required, f"{cls.__name__} lacks {', '.join(required)}")
    return known


def encode_frame(frame_type: int, payload: bytes) -> bytes:
    """One rendezvous frame: magic, version, type, payload length, payload."""
    _check(len(payload) <= MAX_FRAME_BYTES, f"frame of {len(payload)} bytes")
    return _FRAME_HEADER.pack(FRAME_MAGIC, PROTOCOL_VERSION, frame_type, len(payload)) + payload


def decode_frame_header(data: bytes) -> tuple[int, int, int]:
    """Version, type and payload length of the frame that starts with these 12 bytes."""
    _check(len(data) >= FRAME_HEADER_BYTES, f"frame header of {len(data)} bytes")
    magic, version, frame_type, length = _FRAME_HEADER.unpack_from(data)
    _check(magic == FRAME_MAGIC, f"frame magic {magic:#010x}, must be {FRAME_MAGIC:#010x}")
    _check(length <= MAX_FRAME_BYTES, f"frame of {length} bytes, at most {MAX_FRAME_BYTES}")
    return version, frame_type, length
