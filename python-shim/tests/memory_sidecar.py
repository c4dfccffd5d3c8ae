"""A deterministic in-memory sidecar: the failure injector of the connector's tests.

It keeps real bytes (chains of block hashes, a part a rank), obeys the protocol document, and does
nothing by itself: a test takes one *action* at a time, or lets a seeded random walk choose.  What
can be done to it: answers held back or dropped, copies stopped half way, death before or after any
action, a new life with another boot epoch, sessions cut while the process lives, full rings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flexkv import protocol as p


class Memory(Protocol):
    """KV memory of one rank."""

    def read(self, block: int) -> bytes: ...

    def write(self, block: int, data: bytes) -> None: ...


class FakeGenerations:
    """The block-generation table."""

    def __init__(self, entries: int) -> None:
        self.values = [0] * entries

    @property
    def counters(self) -> list[int]:
        return self.values

    def raise_(self, block_id: int) -> int:
        self.values[block_id] += 1
        return self.values[block_id]

    def __getitem__(self, block_id: int) -> int:
        return self.values[block_id]


class FakeSession:
    """The client's end of one session; see ``flexkv.session_api.Session``."""

    def __init__(self, sidecar: FakeSidecar, session_id: int, rank: int, memory: Any) -> None:
        self.boot_epoch = sidecar.epoch
        self.session_id = session_id
        self.server_pid = 4242
        self.sidecar = sidecar
        self.rank = rank
        self.memory = memory
        self.inbox: deque[p.Record] = deque()
        self.outbox: deque[p.Record] = deque()
        self.revoke_words: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.cut = False
        self.broken = False
        """Over as the client sees it; the sidecar has not noticed yet."""
        self.full = False
        self.fence_reached: Callable[[int, int], bool] = lambda index, sequence: True
        self.generations: Any = None

    def alive(self) -> bool:
        return not self.cut and not self.broken and not self.sidecar.dead

    def close(self) -> None:
        self.broken = True

    def send(self, *records: p.Record) -> bool:
        if not self.alive() or self.full:
            return False
        for record in records:
            # Over the wire and back: what the sidecar sees is what the bytes say.
            self.inbox.append(p.decode_record(record.encode()))
        if self.sidecar.prompt:
            self.sidecar.drain_control()
        return True

    def ask(self, lookup: p.Lookup, hashes: Sequence[bytes], first: int) -> tuple[int, bool]:
        if first < len(hashes):
            joined = b"".join(hashes[first:])
            if not self.send(p.Extend(lookup.request_id, first, len(hashes[first]), joined)):
                return first, False
        return len(hashes), self.send(lookup)

    def poll(self) -> list[p.Record]:
        """What was said before the session ended is in the client's memory for good."""
        records = list(self.outbox)
        self.outbox.clear()
        return records

    def wait_for(self, query_id: int, spin_us: float) -> p.Record | None:
        for record in self.outbox:
            if getattr(record, "query_id", None) == query_id:
                self.outbox.remove(record)
                return record
        return None

    def set_revoke(self, index: int, job_id: int) -> None:
        self.revoke_words[index] = job_id

    def fence_seen(self, index: int) -> int:
        return self.seen.get(index, 0)

    def kill_server(self) -> bool:
        self.sidecar.kills += 1
        if self.sidecar.dies_when_killed:
            self.sidecar.kill()
        return True

    def server_dead(self) -> bool:
        return self.sidecar.dead

    def control(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        raise NotImplementedError(op)


@dataclass
class Entry:
    """One block of the cache: bytes of each rank."""

    parts: dict[int, bytes]
    ready: bool = False


@dataclass
class Job:
    """A plan, and the go of each rank."""

    record: p.PlanLoad | p.PlanSave
    generation: int
    keys: tuple[bytes, ...]
    go: dict[int, p.Go] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    copied: dict[int, list[bytes]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    good: int | None = None
    parent: bytes | None = None


class FakeSidecar:
    """One life of a sidecar that serves one instance."""

    _next_epoch = 1000

    def __init__(self, world_size: int = 1, capacity: int = 1 << 30) -> None:
        FakeSidecar._next_epoch += 1
        self.epoch = FakeSidecar._next_epoch
        self.world_size = world_size
        self.capacity = capacity
        self.scheduler: FakeSession | None = None
        self.workers: dict[int, FakeSession] = {}
        self.dead = False
        self.prompt = True
        """Control records (extend, lookup, plan, reset) are handled the moment they are sent."""
        self.tells_scheduler = True
        self.dies_when_killed = True
        self.ready = True
        self.drop_answers = 0
        self.kills = 0
        self.generation = 1
        self.reset_status = p.STATUS_OK
        self.chains: dict[int, list[bytes]] = {}
        self.cache: dict[tuple[int, bytes], Entry] = {}
        self.leases: dict[int, tuple[int, tuple[bytes, ...], int]] = {}
        self.jobs: dict[int, Job] = {}
        self.early: dict[tuple[int, int], p.Go] = {}
        self.finished_saves: list[Job] = []
        self.block_tokens = 4
        self.facts: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        """Parent, tokens and extra keys of blocks, as the scheduler told them."""
        self.taken: list[p.NoticesTaken] = []
        self._next_session = 0
        self._next_lease = 0

    # ------------------------------------------------------------------ sessions and death
    def open_scheduler(self, generations: Any) -> FakeSession:
        self._next_session += 1
        self.scheduler = FakeSession(self, self._next_session, 0, None)
        self.scheduler.generations = generations
        return self.scheduler

    def open_worker(self, rank: int, memory: Memory) -> FakeSession:
        self._next_session += 1
        self.workers[rank] = FakeSession(self, self._next_session, rank, memory)
        return self.workers[rank]

    def kill(self) -> None:
        """The process is gone: nothing of it touches memory any more."""
        self.dead = True

    # ------------------------------------------------------------------ actions
    def drain_control(self) -> None:
        """Handles everything that has been sent."""
        while self.control_one():
            pass

    def control_one(self) -> bool:
        """Handles one record that has been sent; false if there is none."""
        if self.dead:
            return False
        for session in (self.scheduler, *self.workers.values()):
            if session is not None and session.inbox and not session.cut:
                self._handle(session, session.inbox.popleft())
                return True
        return False

    def copies(self) -> list[tuple[int, int]]:
        """(job, rank) of every part whose go has come, whose fence is reached and that goes on."""
        if self.dead:
            return []
        found = []
        for job_id, job in self.jobs.items():
            for rank, go in job.go.items():
                if rank in job.ended:
                    continue
                session = self.workers[rank]
                if go.fence_kind == p.FENCE_EVENT:
                    if not session.fence_reached(go.fence_index, go.fence_sequence):
                        continue
                    session.seen[go.fence_index] = max(
                        session.fence_seen(go.fence_index), go.fence_sequence
                    )
                found.append((job_id, rank))
        return found

    def copy_some(self, job_id: int, rank: int, blocks: int = 1) -> None:
        """Moves some blocks of a part; the last ones end it."""
        job = self.jobs[job_id]
        go = job.go[rank]
        session = self.workers[rank]
        if go.kind == p.KIND_LOAD and session.revoke_words.get(go.revoke_index) == job_id:
            self.end_part(job_id, rank, p.STATUS_REVOKED)
            return
        if job.generation != self.generation:
            self.end_part(job_id, rank, p.STATUS_FAILED)
            return
        ids = job.record.block_ids
        done = job.moved.get(rank, 0)
        for index in range(done, min(done + blocks, len(ids))):
            if go.kind == p.KIND_LOAD:
                entry = self.cache.get((job.generation, job.keys[index]))
                if entry is None or not entry.ready:
                    self.end_part(job_id, rank, p.STATUS_FAILED)
                    return
                session.memory.write(ids[index], entry.parts[rank])
            else:
                job.copied.setdefault(rank, []).append(session.memory.read(ids[index]))
            job.moved[rank] = index + 1
        if job.moved.get(rank, 0) == len(ids):
            self.end_part(job_id, rank, p.STATUS_OK)

    def end_part(self, job_id: int, rank: int, status: int) -> None:
        """This rank's part is over; ``JobDone`` goes to it."""
        job = self.jobs[job_id]
        go = job.go[rank]
        job.ended.add(rank)
        moved = job.moved.get(rank, 0)
        if go.kind == p.KIND_SAVE:
            if status != p.STATUS_OK:
                job.lost.add(rank)
            self._check_generations(job)
        done = p.JobDone(job_id, self.epoch, 0, moved if go.kind == p.KIND_LOAD else 0, 0,
                         go.kind, status)  # fmt: skip
        worker = self.workers[rank]
        self._to(worker, done)
        if go.kind == p.KIND_LOAD and not worker.cut and self.tells_scheduler:
            self._to(self.scheduler, done)
        if len(job.ended) == self.world_size:
            del self.jobs[job_id]
            if go.kind == p.KIND_SAVE:
                self.finished_saves.append(job)
                self._commit_in_order()

    def lose_part(self, job_id: int, rank: int) -> None:
        """This rank's part of a save never arrives (its worker or its copy failed)."""
        job = self.jobs[job_id]
        job.go.setdefault(rank, p.Go(job_id, 0, 0, p.NO_INDEX, 0, p.KIND_SAVE))
        self.end_part(job_id, rank, p.STATUS_FAILED)

    def run_copies(self) -> None:
        """All parts that can go on, to their end."""
        while found := self.copies():
            self.copy_some(*found[0], blocks=1 << 20)

    def evict(self, count: int) -> None:
        """Drops the last ``count`` entries and what hangs on them (leases hold none here)."""
        for key in list(self.cache)[-count:]:
            del self.cache[key]
            if key[1] in self.facts:
                last = bytes(8) + key[1][-8:]
                self._to(self.scheduler, p.KvNotice(p.NOTICE_EVICTED, p.TIER_HOST, 0, 16, last))

    # ------------------------------------------------------------------ records
    def _to(self, session: FakeSession | None, record: p.Record) -> None:
        if session is not None and not session.cut:
            session.outbox.append(p.decode_record(record.encode()))

    def _handle(self, session: FakeSession, record: p.Record) -> None:
        match record:
            case p.Extend():
                self._extend(record)
            case p.Lookup():
                self._lookup(session, record)
            case p.PlanLoad():
                self._plan_load(record)
            case p.PlanSave():
                self._plan_save(record)
            case p.EndRequest():
                self.chains.pop(record.request_id, None)
                self.leases = {k: v for k, v in self.leases.items() if v[0] != record.request_id}
            case p.Reset():
                self.generation += 1
                if self.facts:
                    self._to(session, p.KvNotice(p.NOTICE_CLEARED, 0, 0, 16, b""))
                self._to(
                    session, p.ResetAnswer(record.query_id, self.generation, self.reset_status)
                )
            case p.NoticesTaken():
                self.taken.append(record)
                if record.flags & p.NOTICES_ANEW:
                    self.list_all()
            case p.Go():
                self._go(session, record)
            case p.Revoke():
                self._revoke(session, record)
            case _:
                raise AssertionError(f"no client sends {record}")

    def _extend(self, record: p.Extend) -> None:
        width = record.hash_bytes
        keys = [record.hashes[i : i + width] for i in range(0, len(record.hashes), width)]
        chain = self.chains.setdefault(record.request_id, [])
        assert record.first_index <= len(chain), "a gap in the chain"
        overlap = chain[record.first_index : record.first_index + len(keys)]
        assert overlap == keys[: len(overlap)], "another chain under the same request"
        chain.extend(keys[len(chain) - record.first_index :])
        self._learn(record, keys)

    def _learn(self, record: p.Extend, keys: list[bytes]) -> None:
        step = 4 * self.block_tokens
        told = len(record.tokens) // step
        for i in range(told):
            at = len(keys) - told + i
            parent = keys[at - 1] if at else b""
            assert at or record.first_index == 0, "whose child is the first block?"
            self.facts[keys[at]] = (parent, record.tokens[i * step : (i + 1) * step], b"")

    def _stored(self, key: bytes) -> None:
        if key in self.facts:
            parent, tokens, extra = self.facts[key]
            record = p.KvNotice(
                p.NOTICE_STORED, p.TIER_HOST, 0, len(key), key, parent, tokens, extra
            )
            self._to(self.scheduler, record)

    def list_all(self) -> None:
        """A listing, as a scheduler gets it when its instance is ready, or when it asks."""
        self._to(self.scheduler, p.KvNotice(p.NOTICE_LIST_BEGIN, 0, 0, 16, b""))
        for generation, key in self.cache:
            if generation == self.generation:
                self._stored(key)
        self._to(self.scheduler, p.KvNotice(p.NOTICE_LIST_END, 0, 0, 16, b""))

    def _servable(self, chain: list[bytes]) -> int:
        depth = 0
        for key in chain:
            entry = self.cache.get((self.generation, key))
            if entry is None or not entry.ready:
                break
            depth += 1
        return depth

    def all_ready(self) -> bool:
        """Whether every rank has registered."""
        return self.ready and len(self.workers) == self.world_size

    def _lookup(self, session: FakeSession, record: p.Lookup) -> None:
        if self.drop_answers > 0:
            self.drop_answers -= 1
            return
        chain = self.chains.get(record.request_id, [])
        status, servable, lease = p.LOOKUP_OK, 0, 0
        if not self.all_ready():
            status = p.LOOKUP_NOT_READY
        elif len(chain) < record.chain_blocks:
            status = p.LOOKUP_UNKNOWN
        else:
            servable = min(self._servable(chain), record.first_block + record.max_blocks)
            if servable > record.first_block:
                self._next_lease += 1
                lease = self._next_lease
                keys = tuple(chain[:servable])
                self.leases[lease] = (record.request_id, keys, self.generation)
        resident = self._servable(chain)
        self._to(
            session,
            p.LookupAnswer(record.query_id, record.request_id, lease, self.generation, servable,
                           resident, servable, 0, 0, status),
        )  # fmt: skip

    def _plan_load(self, record: p.PlanLoad) -> None:
        lease = self.leases.pop(record.lease_id, None)
        assert 0 not in record.block_ids, "the null block was planned"
        keys: tuple[bytes, ...] = ()
        generation = -1
        if lease is not None:
            keys = lease[1][record.first_block : record.first_block + len(record.block_ids)]
            generation = lease[2]
        self._new_job(Job(record, generation, keys))

    def _plan_save(self, record: p.PlanSave) -> None:
        assert 0 not in record.block_ids, "the null block was planned"
        chain = self.chains.get(record.request_id, [])
        end = record.first_block + len(record.block_ids)
        assert end <= len(chain), "a save beyond the chain"
        keys = tuple(chain[record.first_block : end])
        job = Job(record, self.generation, keys)
        if record.first_block:
            job.parent = chain[record.first_block - 1]
        if self.all_ready():
            self._new_job(job)
        else:
            self._to(self.scheduler, p.SaveDone(record.job_id, 0, 0, len(keys)))

    def _new_job(self, job: Job) -> None:
        job_id = job.record.job_id
        assert job_id not in self.jobs
        self.jobs[job_id] = job
        for rank in range(self.world_size):
            go = self.early.pop((job_id, rank), None)
            if go is not None:
                job.go[rank] = go

    def _go(self, session: FakeSession, record: p.Go) -> None:
        job = self.jobs.get(record.job_id)
        if job is None:
            self.early[record.job_id, session.rank] = record
        else:
            assert session.rank not in job.go, "two goes for one part"
            job.go[session.rank] = record

    def _revoke(self, session: FakeSession, record: p.Revoke) -> None:
        job = self.jobs.get(record.job_id)
        if job is not None and session.rank in job.go and session.rank not in job.ended:
            self.end_part(record.job_id, session.rank, p.STATUS_REVOKED)
        elif (record.job_id, session.rank) in self.early:
            go = self.early.pop((record.job_id, session.rank))
            self._to(
                session,
                p.JobDone(record.job_id, self.epoch, 0, 0, 0, go.kind, p.STATUS_REVOKED),
            )

    # ------------------------------------------------------------------ the cache
    def _is_ready(self, key: bytes) -> bool:
        entry = self.cache.get((self.generation, key))
        return entry is not None and entry.ready

    def _check_generations(self, job: Job) -> None:
        """After a copy: blocks handed out again meanwhile are dropped, with what hangs on them."""
        assert isinstance(job.record, p.PlanSave)
        assert self.scheduler is not None
        good = len(job.keys) if job.good is None else job.good
        now = self.scheduler.generations
        for index, block in enumerate(job.record.block_ids):
            if index < good and now[block] != job.record.generations[index]:
                good = index
        job.good = good

    def _commit_in_order(self) -> None:
        """Commits what has its parent; what waits for a parent on its way stays."""
        again = True
        while again:
            again = False
            for job in list(self.finished_saves):
                on_its_way = any(
                    job.parent in other.keys
                    for other in (*self.jobs.values(), *self.finished_saves)
                    if other is not job and isinstance(other.record, p.PlanSave)
                )
                ready = job.parent is None or self._is_ready(job.parent)
                if ready or not on_its_way:
                    self.finished_saves.remove(job)
                    self._commit(job, parent_ready=ready)
                    again = True

    def _commit(self, job: Job, *, parent_ready: bool) -> None:
        assert isinstance(job.record, p.PlanSave)
        whole = parent_ready and not job.lost and job.generation == self.generation
        good = (job.good or 0) if whole else 0
        for index in range(good):
            slot = (self.generation, job.keys[index])
            if slot not in self.cache and len(self.cache) < self.capacity:
                parts = {rank: job.copied[rank][index] for rank in range(self.world_size)}
                self.cache[slot] = Entry(parts, ready=True)
                self._stored(job.keys[index])
        dropped = len(job.keys) - good
        self._to(self.scheduler, p.SaveDone(job.record.job_id, good, 0, dropped))


class FakeLink:
    """A link whose session the test chooses."""

    def __init__(self, generations: Any = None) -> None:
        self.generations = generations
        self.present: FakeSession | None = None
        self.closed = False

    def session(self) -> FakeSession | None:
        return self.present if self.present is not None and self.present.alive() else None

    def start(self) -> None: ...

    def wait(self, timeout_s: float) -> FakeSession | None:
        return self.session()

    def close(self) -> None:
        self.closed = True
