"""Seeded random walks: engine, connector and sidecar do whatever may happen, in any order.

Every forward checks the bytes it attends to, every block of the cache is checked against its
tokens, and at the end no block is leaked and no request is stuck.  A failing seed is printed by
pytest; ``FLEXKV_WALK_SEEDS`` and ``FLEXKV_WALK_STEPS`` make the walk longer.
"""

from __future__ import annotations

import os
import random

import pytest
from memory_sidecar import FakeSidecar
from mini_vllm import LOADING, SchedulerOutput
from rig import BLOCK, Rig, prompt

from flexkv.worker import WorkerLimits

SEEDS = int(os.environ.get("FLEXKV_WALK_SEEDS", "24"))
STEPS = int(os.environ.get("FLEXKV_WALK_STEPS", "300"))


class Walk:
    """One seed's walk."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ranks = self.random.choice([1, 1, 2])
        self.asynchronous = seed % 3 == 2
        self.older = seed % 4 == 3
        self.rig = Rig(
            ranks=self.ranks,
            # Few, where it matters that a freed block is soon another's.
            blocks=14 if self.older else self.random.choice([14, 20, 40]),
            limits=WorkerLimits(load_deadline_ms=300, drain_timeout_ms=1000),
            budget=self.random.choice([6, 16, 64]),
            max_running=self.random.choice([2, 5]),
            by_priority=self.random.random() < 0.5,
            older=self.older,
            load_wait_ms=self.random.choice([0, 1, 5]),
        )
        self.rig.while_asleep = lambda: self.sidecar_acts(2)
        self.rig.engine.reports_at_launch = self.random.random() < 0.5
        self.rig.sidecar.capacity = self.random.choice([5, 30, 1000])
        self.families = [prompt(40, seed * 10 + i) for i in range(3)]
        self.aborted: list[str] = []
        self.made = self.kills = self.resets = self.checked = 0
        self.held = self.fresh_hits = 0

    def new_requests(self) -> None:
        """One, or several questions on a document of some steps, all at once."""
        family = self.random.choice(self.families)
        if self.random.random() < 0.8:
            self.new_request(family, self.random.choice([0, 3, 8, 12, 13, 20, 31]))
            return
        for _ in range(self.random.randint(2, 4)):
            self.new_request(family, 36)

    def new_request(self, family: list[int], depth: int) -> None:
        room = (len(self.rig.generations.values) - 1) * BLOCK
        depth = min(depth, room - 12)
        own = prompt(self.random.randint(1, 6), self.random.randrange(4) + 77)
        self.made += 1
        name = f"r{self.made}"
        if self.aborted and self.aborted[0] not in self.rig.engine.requests:
            name = self.aborted.pop(0)  # a user tries again
        self.rig.add(
            name,
            (family[:depth] + own)[: room - 9],
            max_new=self.random.randint(1, 8),
            priority=self.random.randrange(5),
            resumable=self.random.random() < 0.03,
            skip_reading_prefix_cache=self.random.random() < 0.03,
        )

    def sidecar_acts(self, most: int) -> None:
        """Some actions of the sidecar, in any order, each as small as it gets."""
        sidecar = self.rig.sidecar
        for _ in range(self.random.randint(0, most)):
            sidecar.control_one()
            parts = sidecar.copies()
            if parts:
                sidecar.copy_some(*self.random.choice(parts), self.random.randint(1, 3))

    def streams_run(self) -> None:
        for worker in self.rig.workers:
            worker.run_stream(self.random.randint(0, len(worker.stream)))
            self.sidecar_acts(2)

    def engine_step(self) -> None:
        engine = self.rig.engine
        lag = 1 if self.asynchronous and self.random.random() < 0.8 else 0
        if not self.asynchronous:
            for request in engine.running:
                if self.random.random() < 0.2 and request.num_computed_tokens:
                    right = request.next_tokens(self.random.randint(0, 2))
                    request.draft_tokens = [*right, 5, 6][: self.random.randint(1, 3)]
        out = engine.schedule()
        self.fresh_hits += self._fresh_hits(out)
        if not self.resets:
            self.held += self.rig.check_held()
        self.sidecar_acts(2)
        engine.execute(out)
        while len(engine.pending) > lag:
            oldest = engine.pending[0]
            for worker in self.rig.workers:
                while worker.stream and worker.steps_done < oldest.number:
                    worker.run_stream(1)
                    if self.random.random() < 0.3:
                        self.sidecar_acts(2)
            engine.update()
        self.rig.clock.now += self.random.choice([0.001, 0.01, 0.05])

    def _fresh_hits(self, out: SchedulerOutput) -> int:
        """Requests admitted in this step upon blocks that running requests got in it."""
        running = out.scheduled_cached_reqs
        fresh = {block for groups in running.new_block_ids if groups for block in groups[0]}
        others = (r for name, r in self.rig.engine.requests.items() if name not in running.req_ids)
        return sum(not fresh.isdisjoint(request.blocks) for request in others)

    def accident(self) -> None:
        """Something that should not happen, and does."""
        rig, chance = self.rig, self.random
        kind = chance.randrange(11)
        if kind == 0:
            rig.sidecar.kill()
            self.kills += 1
        elif kind == 1 and rig.sidecar.dead:
            rig.attach(FakeSidecar(world_size=self.ranks))
        elif kind == 2 and rig.sidecar.dead:
            rig.attach_worker(chance.randrange(self.ranks), rig.sidecar)
        elif kind == 3:
            rig.sidecar.prompt = chance.random() < 0.7
        elif kind == 4:
            rig.sidecar.evict(chance.randint(1, 4))
        elif kind == 5:
            for job_id, rank in rig.sidecar.copies()[:1]:
                rig.sidecar.end_part(job_id, rank, 1)
        elif kind == 6:
            self.resets += 1
            rig.engine.reset(
                running=chance.random() < 0.5 and not self.asynchronous, weights=self._idle()
            )
        elif kind == 7:
            for session in (rig.link.present, *(link.present for link in rig.worker_links)):
                if session is not None:
                    session.full = chance.random() < 0.3
        elif kind == 8 and rig.engine.requests:
            rig.engine.abort(chance.choice(list(rig.engine.requests)))
        elif kind == 9:
            rig.sidecar.drop_answers = chance.randint(0, 2)
        elif kind == 10:
            rig.workers[0].skip_wait_for_save = chance.random() < 0.3

    def abort_a_load(self) -> None:
        """Where vLLM does not keep the blocks by itself."""
        loading = [r for r in self.rig.engine.waiting if r.status == LOADING]
        if loading and self.random.random() < 0.2:
            doomed = self.random.choice(loading).request_id
            self.rig.engine.abort(doomed)
            self.aborted.append(doomed)

    def _idle(self) -> bool:
        """Weights change only where vLLM's own cache can follow: nothing runs."""
        return not any(self.rig.engine.pool.refs) and not self.rig.engine.pending

    def calm_down(self) -> None:
        """The world becomes well again: everything must come to its end."""
        rig = self.rig
        while rig.engine.pending:
            for worker in rig.workers:
                worker.run_stream()
            rig.engine.update()
        rig.sidecar.prompt = True
        rig.sidecar.drop_answers = 0
        rig.sidecar.drain_control()
        for session in (rig.link.present, *(link.present for link in rig.worker_links)):
            if session is not None:
                session.full = False
        if rig.sidecar.dead or len(rig.sidecar.workers) < self.ranks:
            rig.restart()
        rig.run()
        rig.check_clean()

    def run(self, steps: int) -> None:
        for step in range(steps):
            if self.random.random() < 0.3 and len(self.rig.engine.requests) < 12:
                self.new_requests()
            if self.random.random() < 0.07:
                self.accident()
            if self.older:
                self.abort_a_load()
            self.engine_step()
            self.sidecar_acts(6)
            if step % 10 == 0:
                self.checked += self.rig.check_cache()
        self.calm_down()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_walk(seed: int) -> None:
    walk = Walk(seed)
    walk.run(STEPS)
    engine = walk.rig.engine
    print(
        f"seed {seed}: {STEPS} steps, {walk.made} requests, {engine.preemptions} preemptions, "
        f"{engine.external_tokens} external tokens, {walk.rig.side.loads.failed} failed loads, "
        f"{walk.kills} kills, {walk.resets} resets, {walk.checked} blocks checked, "
        f"{walk.held} blocks held, {walk.fresh_hits} hits on blocks of the same step"
    )
    assert walk.made > STEPS // 20
