"""The rings by themselves, with a second mapping in the place of the sidecar."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys

import pytest

from flexkv import protocol as p
from flexkv.frames import split_records
from flexkv.ring import CHUNK_KEYS, GenerationTable, RingChannel, SessionFile, encode

CAPACITY = 4096
TAIL_IN = p.OFF_TO_CLIENT_TAIL // 8
HEAD_OUT = p.OFF_TO_SERVER_HEAD // 8
TAIL_OUT = p.OFF_TO_SERVER_TAIL // 8


@pytest.fixture
def file() -> SessionFile:
    return SessionFile(p.SessionLayout(p.ROLE_WORKER, 1, CAPACITY, CAPACITY, 4, 4))


def deliver(file: SessionFile, position: int, data: bytes, published: int) -> None:
    """What a sidecar does: bytes at ``position``, tail ``published`` bytes beyond it."""
    at = file.to_client_offset + position % CAPACITY
    file.bytes[at : at + len(data)] = data
    file.words[TAIL_IN] = position + published


def test_header_and_offsets(file: SessionFile) -> None:
    assert bytes(file.bytes[:8]) == b"FXKVRNG1"
    assert file.words[p.OFF_TOTAL_BYTES // 8] == len(file.bytes)
    assert len(file.bytes) % 4096 == 0


@pytest.mark.parametrize("size", [8, 24, 104, 1000])
def test_fills_to_the_last_byte_that_fits_and_not_beyond(file: SessionFile, size: int) -> None:
    """Nothing of what the reader has not taken may be overwritten."""
    channel = RingChannel(file)
    records: list[bytes] = []
    record = p.Echo(len(records), b"x" * (size - 8)).encode()
    while channel.write([(record,)]):
        records.append(record)
        record = p.Echo(len(records), b"x" * (size - 8)).encode()
        assert len(records) <= CAPACITY // len(record)
    assert len(records) == CAPACITY // p.align8(len(record))
    image = bytes(file.bytes[file.to_server_offset : file.to_client_offset])
    assert split_records(image[: file.words[TAIL_OUT]]) == [p.decode_record(r) for r in records]
    file.words[HEAD_OUT] = p.align8(len(record))
    assert channel.write([(record,)]), "room for one again"
    assert not channel.write([(record,)])


def test_refused_batch_publishes_nothing(file: SessionFile) -> None:
    channel = RingChannel(file)
    assert channel.write([(p.Echo(1, b"x" * 1000).encode(),)])
    before = file.words[TAIL_OUT]
    assert not channel.write([(p.Echo(2).encode(),), (p.Echo(3, b"x" * 3500).encode(),)])
    assert file.words[TAIL_OUT] == before
    assert channel.write([(p.Echo(4).encode(),)])


def test_wraps_by_padding_like_the_model(file: SessionFile) -> None:
    """Random records against a list; the reader here follows the drawing, not the code."""
    rng = random.Random(7)
    channel = RingChannel(file)
    sent: list[p.Record] = []
    got: list[p.Record] = []
    head = 0
    for step in range(3000):
        record = p.Echo(step, rng.randbytes(rng.randrange(0, 1500)))
        if channel.write([(record.encode(),)]):
            sent.append(record)
        if rng.random() < 0.6:
            tail = file.words[TAIL_OUT]
            while head != tail:
                at = file.to_server_offset + head % CAPACITY
                length, kind = p.record_header(file.bytes, at)
                assert head % CAPACITY + length <= CAPACITY, "a record never wraps"
                if kind != p.TYPE_PADDING:
                    got.append(p.decode_record(bytes(file.bytes[at : at + length])))
                head += p.align8(length)
            file.words[HEAD_OUT] = head
            assert got == sent
    assert head > 100 * CAPACITY


def test_record_longer_than_what_is_published_is_refused(file: SessionFile) -> None:
    """Its rest is not written yet: whole as it looks, it must not be believed."""
    channel = RingChannel(file)
    record = p.EchoAnswer(5, b"y" * 40).encode()
    deliver(file, 0, record, published=16)
    with pytest.raises(p.ProtocolError, match="16 bytes published"):
        channel.drain()


def test_record_across_the_end_is_refused(file: SessionFile) -> None:
    channel = RingChannel(file)
    for _ in range(4):
        deliver(file, channel._in_head, p.EchoAnswer(1, b"z" * 1000).encode(), 1016)
        channel.drain()
    head = channel._in_head
    assert CAPACITY - head % CAPACITY == 32
    deliver(file, head, struct.pack("<IHH", 64, p.TYPE_ECHO_ANSWER, 0) + b"\0" * 24, 64)
    with pytest.raises(p.ProtocolError, match="64 bytes at offset 4064"):
        channel.drain()


@pytest.mark.parametrize("tail", [CAPACITY + 8, 12, (1 << 64) - 8])
def test_impossible_tail_is_refused_before_anything_is_read(file: SessionFile, tail: int) -> None:
    channel = RingChannel(file)
    file.words[TAIL_IN] = tail
    with pytest.raises(p.ProtocolError, match=f"tail {tail} of the ring to the client"):
        channel.drain()


def test_impossible_head_is_refused(file: SessionFile) -> None:
    channel = RingChannel(file)
    file.words[HEAD_OUT] = 8
    with pytest.raises(p.ProtocolError, match="head 8"):
        channel.write([(p.Echo(1).encode(),)])


@pytest.mark.parametrize(
    "payload",
    [b"\0\0\0\0", struct.pack("<IHH", 7, 7, 0), struct.pack("<IHH", 24, 7, 0) + b"\0" * 8],
    ids=["rest", "short", "long"],
)
def test_frames_with_broken_records(payload: bytes) -> None:
    with pytest.raises(p.ProtocolError):
        split_records(payload)


def test_generation_table_limits() -> None:
    assert len(GenerationTable(0)) == 0
    assert GenerationTable(0).fd == -1
    with pytest.raises(ValueError, match="-1 generation counters"):
        GenerationTable(-1)


@pytest.mark.parametrize("width", [16, 20, 32, 64])
@pytest.mark.parametrize("count", [0, 1, 3, 512, p.MAX_KEYS_A_RECORD])
def test_parts_of_an_extend_are_its_bytes(width: int, count: int) -> None:
    record = p.Extend((1 << 63) + 5, 77, width, random.Random(count).randbytes(width * count))
    if len(record.hashes) > p.MAX_RECORD_BYTES - 40:
        with pytest.raises(p.ProtocolError):
            record.encode()
        return
    assert b"".join(encode(record)) == record.encode()


@pytest.mark.parametrize(
    "record",
    [
        p.Extend(1, 0, 32, b"x" * 33),
        p.Extend(1, 0, 32, b"x" * 32 * (p.MAX_KEYS_A_RECORD + 1)),
        p.Extend(1, 0, 64, b"x" * 64 * p.MAX_KEYS_A_RECORD),
    ],
    ids=["rest", "keys", "bytes"],
)
def test_extend_beyond_the_limits_is_refused(record: p.Extend) -> None:
    with pytest.raises(p.ProtocolError):
        encode(record)


def test_other_records_and_full_extends_go_whole() -> None:
    for record in (p.Extend(1, 0, 32, b"x" * 32, bytes(8), b"abc"), p.Echo(1), p.EndRequest(4)):
        assert encode(record) == (record.encode(),)


# ---------------------------------------------------------------------- ask: hashes and a question


def hashes_of(count: int, width: int = 32) -> list[bytes]:
    rng = random.Random(count)
    return [rng.randbytes(width) for _ in range(count)]


def question(request: int, count: int) -> p.Lookup:
    return p.Lookup(9, request, count, 0, count)


def published(file: SessionFile, begin: int = 0) -> list[p.Record]:
    """What a sidecar reads from ``begin`` on, in a ring that has not wrapped."""
    base = file.to_server_offset
    return split_records(bytes(file.bytes[base + begin : base + file.words[TAIL_OUT]]))


@pytest.fixture
def large() -> SessionFile:
    return SessionFile(p.SessionLayout(p.ROLE_SCHEDULER, 1, 1 << 17, CAPACITY))


@pytest.mark.parametrize("width", [16, 20, 32, 64])
@pytest.mark.parametrize("count", [1, 3, CHUNK_KEYS - 1, CHUNK_KEYS, CHUNK_KEYS + 1, 700])
def test_ask_writes_the_records_of_the_protocol(large: SessionFile, width: int, count: int) -> None:
    hashes = hashes_of(count, width)
    request = (1 << 63) + 5
    assert RingChannel(large).ask(question(request, count), hashes, 0) == (count, True)
    records = published(large)
    base = large.to_server_offset
    image = bytes(large.bytes[base : base + large.words[TAIL_OUT]])
    assert image == b"".join(record.encode() for record in records), "padding included"
    *extends, last = records
    assert last == question(request, count)
    assert extends == [
        p.Extend(request, i, width, b"".join(hashes[i : i + CHUNK_KEYS]))
        for i in range(0, count, CHUNK_KEYS)
    ]


def test_ask_sends_only_hashes_that_are_new(large: SessionFile) -> None:
    hashes = hashes_of(10)
    channel = RingChannel(large)
    assert channel.ask(question(1, 10), hashes, 8) == (10, True)
    assert channel.ask(question(1, 10), hashes, 10) == (10, True)
    assert published(large) == [
        p.Extend(1, 8, 32, b"".join(hashes[8:])), question(1, 10), question(1, 10)
    ]  # fmt: skip


def test_ask_without_room_sends_whole_records_and_no_question(large: SessionFile) -> None:
    """A chain longer than the ring goes in several steps, and is asked about when all is there."""
    count = 3000  # of 64 bytes: 192 KiB for a ring of 128
    hashes = hashes_of(count, 64)
    channel = RingChannel(large)
    sent, asked = channel.ask(question(1, count), hashes, 0)
    assert not asked
    assert 0 < sent < count
    first = published(large)
    assert all(isinstance(record, p.Extend) for record in first)
    assert channel.ask(question(1, count), hashes, sent) == (sent, False), "nobody has read yet"
    large.words[HEAD_OUT] = large.words[TAIL_OUT]
    assert channel.ask(question(1, count), hashes, sent) == (count, True)


def test_ask_through_many_wraps_is_read_back(file: SessionFile) -> None:
    rng = random.Random(3)
    channel = RingChannel(file)
    head = 0
    for request in range(2000):
        hashes = hashes_of(rng.randrange(1, 60), rng.choice([16, 20, 32]))
        got: list[p.Record] = []
        assert channel.ask(question(request, len(hashes)), hashes, 0)[1]
        while head != file.words[TAIL_OUT]:
            at = file.to_server_offset + head % CAPACITY
            length, kind = p.record_header(file.bytes, at)
            assert head % CAPACITY + length <= CAPACITY, "a record never wraps"
            if kind != p.TYPE_PADDING:
                got.append(p.decode_record(bytes(file.bytes[at : at + length])))
            head += p.align8(length)
        file.words[HEAD_OUT] = head
        width = len(hashes[0])
        assert got == [
            p.Extend(request, 0, width, b"".join(hashes)), question(request, len(hashes))
        ]  # fmt: skip
    assert head > 100 * CAPACITY


@pytest.mark.parametrize("count", [3, CHUNK_KEYS], ids=["joined", "packed"])
@pytest.mark.parametrize("width", [8, 65], ids=["short", "long"])
def test_ask_with_a_width_beyond_the_limits_is_refused(
    large: SessionFile, width: int, count: int
) -> None:
    with pytest.raises(ValueError, match=r"16 to 64 \(vLLM: sha256, xxhash\)"):
        RingChannel(large).ask(question(1, count), hashes_of(count, width), 0)
    assert large.words[TAIL_OUT] == 0


@pytest.mark.parametrize("count", [3, CHUNK_KEYS], ids=["joined", "packed"])
def test_ask_with_hashes_of_two_widths_is_refused(large: SessionFile, count: int) -> None:
    hashes = [*hashes_of(count - 1, 32), b"x" * 31]
    with pytest.raises(ValueError, match="must be all alike"):
        RingChannel(large).ask(question(1, count), hashes, 0)


def test_ask_wakes_a_sleeping_sidecar_before_the_last_hash(large: SessionFile) -> None:
    """It wakes up while the rest is written: half of what a long chain waits for."""
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        channel = RingChannel(large, eventfd)
        channel.ask(question(1, 3), hashes_of(3), 0)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd)
        large.halves[p.OFF_SLEEPING // 4] = 1
        channel.ask(question(1, 3), hashes_of(3), 0)
        assert os.eventfd_read(eventfd) == 1
        channel.ask(question(1, 1000), hashes_of(1000), 0)
        assert os.eventfd_read(eventfd) == 2, "with the first record and behind the last"
    finally:
        os.close(eventfd)


def test_answer_is_read_in_place_and_its_header_is_checked(file: SessionFile) -> None:
    answer = p.LookupAnswer(1, 2, (1 << 64) - 1, 4, 5, 6, 7, 8, 9, p.LOOKUP_PENDING, 3)
    channel = RingChannel(file)
    deliver(file, 0, answer.encode(), 64)
    assert channel.drain() == [answer]
    flagged = struct.pack("<IHH", 64, p.TYPE_LOOKUP_ANSWER, 1) + answer.encode()[8:]
    deliver(file, 64, flagged, 64)
    with pytest.raises(p.ProtocolError, match="record flags 1"):
        channel.drain()


def test_answer_of_another_length_is_refused(file: SessionFile) -> None:
    deliver(file, 0, struct.pack("<IHH", 56, p.TYPE_LOOKUP_ANSWER, 0) + bytes(48), 56)
    with pytest.raises(p.ProtocolError):
        RingChannel(file).drain()


def test_interpreter_exit_with_open_descriptors_says_nothing() -> None:
    """What outlives its module, as in a thread that still runs, finds that empty at the end."""
    code = """
import os  # cleared after what was imported later
from flexkv import protocol as p, ring, session
os.modules = ring, session
os.table = ring.GenerationTable(4)
os.file = ring.SessionFile(p.SessionLayout(p.ROLE_TOOL, 1, 1 << 20, 1 << 20, 0, 0))
os.session = session.Session.__new__(session.Session)
os.session._eventfd = os.eventfd(0)
os.session._pidfd = os.pidfd_open(os.getpid())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
