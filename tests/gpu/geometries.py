"""Random KV geometries through the sidecar, byte for byte, on one GPU or on several.

Each case draws a layout that vLLM has had (or may have), its sizes, a value type and how many ranks
there are (tensor parallel, pipeline stages with different layers, latent attention that all ranks
hold alike), fills the memory with random bytes, saves random blocks and loads them into others.
After that every byte of every rank must be what the tensors' own indexing says: the loaded blocks
equal to the saved ones, and nothing else touched.

    python tests/gpu/geometries.py --out records.json --cases 40 --budget-s 60
    python tests/gpu/geometries.py --out records.json --device cpu --cases 6      (without a GPU)

Exit status 1 if a byte is wrong; the case's number and seed repeat it (--first).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import os
import pathlib
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from harness.records import Records

from flexkv import protocol as p
from flexkv.client import Link, Session
from flexkv.config import Settings
from flexkv.fences import NoFences, cuda_fences
from flexkv.layout import derive_layout
from flexkv.registration import Registration
from gpu.engine import has_gpu
from gpu.session import NO_GPU, skip

BLOCK_TOKENS = 16
_WAIT_S = 60
_SHOWN = 20
#: Bytes of one rank's memory: enough for many slices, little enough for many cases.
_RANK_BYTES = 192 << 20
LAYOUTS = ("split", "blocks", "packed", "latent", "one buffer", "cross-layer", "many allocations")
DTYPES = (torch.bfloat16, torch.float16, torch.uint8, torch.float8_e4m3fn)


@dataclass(frozen=True, slots=True)
class Case:
    """What was drawn. `layers` counts each rank's."""

    layout: str
    layers: tuple[int, ...]
    heads: int
    width: int
    blocks: int
    dtype: torch.dtype
    moved: int
    same: bool

    def __str__(self) -> str:
        ranks = f"{len(self.layers)} rank(s) of {'/'.join(map(str, self.layers))} layers"
        row = f"{self.heads} x {self.width} {str(self.dtype).removeprefix('torch.')}"
        held = ", alike on all" if self.same else ""
        return f"{self.layout}, {ranks}{held}, {row}, {self.moved} of {self.blocks} blocks"


def draw(rng: random.Random, most_ranks: int, rank_bytes: int) -> Case:
    """One case within `rank_bytes` a rank."""
    layout = rng.choice(LAYOUTS)
    ranks = rng.randint(1, most_ranks)
    same = layout == "latent" and rng.random() < 0.8
    layers = [rng.choice((1, 2, 3, 8, 13, 32, 61))] * ranks
    if not same and rng.random() < 0.4:
        layers = [max(1, count - rng.randint(0, 2)) for count in layers]
    dtype = rng.choice(DTYPES)
    heads = 1 if layout == "latent" else rng.choice((1, 2, 3, 8))
    width = 576 if layout == "latent" else rng.choice((32, 64, 80, 128))
    row = BLOCK_TOKENS * heads * width * dtype.itemsize * (1 if layout == "latent" else 2)
    blocks = min(4096, rank_bytes // (row * max(layers)))
    moved = rng.randint(1, max(1, blocks // 2 - 1))
    return Case(layout, tuple(layers), heads, width, blocks, dtype, moved, same)


class Memory:
    """One rank's tensors, and their bytes as their own indexing has them."""

    def __init__(self, case: Case, layers: int, device: torch.device) -> None:
        self.case = case
        tokens, heads, width, count = BLOCK_TOKENS, case.heads, case.width, case.blocks
        shape: tuple[int, ...] = {
            "split": (2, count, tokens, heads, width),
            "blocks": (count, 2, tokens, heads, width),
            "latent": (count, tokens, width),
        }.get(case.layout, (count, heads, tokens, 2 * width))
        self._block_dim = 1 if case.layout == "split" else 0
        item = case.dtype.itemsize
        page = int(torch.Size(shape).numel()) * item
        if case.layout == "one buffer":
            self.buffers = [torch.empty(layers * page, dtype=torch.uint8, device=device)]
            parts = self.buffers[0].split(page)
            tensors = [part.view(case.dtype).view(shape) for part in parts]
        elif case.layout == "cross-layer":
            self.buffers = [torch.empty(layers * page, dtype=torch.uint8, device=device)]
            together = self.buffers[0].view(case.dtype).view(count, layers, *shape[1:])
            tensors = [together[:, layer] for layer in range(layers)]
        else:
            self.buffers = [torch.empty(page, dtype=torch.uint8, device=device)
                            for _ in range(layers)]  # fmt: skip
            tensors = [one.view(case.dtype).view(shape) for one in self.buffers]
        self.tensors = {f"layer.{i}": tensor for i, tensor in enumerate(tensors)}

    def fill(self, generator: torch.Generator) -> None:
        """Random bytes everywhere."""
        for buffer in self.buffers:
            buffer.random_(0, 256, generator=generator)

    def images(self) -> list[torch.Tensor]:
        """A copy of each tensor's bytes, blocks first."""
        return [
            tensor.contiguous().view(torch.uint8).movedim(self._block_dim, 0).clone()
            for tensor in self.tensors.values()
        ]


class Ranks:
    """An engine over the real protocol: a scheduler, and a worker for each rank."""

    def __init__(self, case: Case, name: str, devices: list[torch.device]) -> None:
        self.devices = devices
        self.memories = [
            Memory(case, layers, device)
            for layers, device in zip(case.layers, devices, strict=True)
        ]
        world = len(devices)
        hello: dict[str, Any] = dict(
            pid=os.getpid(), instance=name, namespace="geometries", block_tokens=BLOCK_TOKENS,
            world_size=world,
        )  # fmt: skip
        settings = Settings.load({})
        self.scheduler = Link(
            settings,
            functools.partial(p.Hello, p.ROLE_SCHEDULER, **hello),
            generation_entries=case.blocks,
        )
        self.workers: list[Link] = []
        self.fences: list[Any] = []
        for rank, memory in enumerate(self.memories):
            registration = Registration()
            link = Link(settings, functools.partial(p.Hello, p.ROLE_WORKER, rank=rank, **hello),
                        on_attach=registration.again)  # fmt: skip
            link.start()
            self.workers.append(link)
            with self.on(rank):
                fences = cuda_fences() if devices[rank].type == "cuda" else NoFences()
                layout = derive_layout(memory.tensors, num_blocks=case.blocks,
                                       block_tokens=BLOCK_TOKENS)  # fmt: skip
                if not registration.first(layout, fences, link, _WAIT_S,
                                          same_on_all_ranks=case.same):  # fmt: skip
                    raise SystemExit(f"rank {rank} could not be registered: {case}")
            self.fences.append(fences)
        self.scheduler.start()
        self._counter = 0
        self._name = name
        self._ended: dict[int, dict[int, p.JobDone]] = collections.defaultdict(dict)

    @contextlib.contextmanager
    def on(self, rank: int) -> Any:
        """With the rank's GPU as the current one."""
        device = self.devices[rank]
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield

    def close(self) -> None:
        """Ends all sessions."""
        self.scheduler.close()
        for link in self.workers:
            link.close()

    def sessions(self) -> tuple[Session, list[Session]]:
        """Those of one sidecar's life once it serves the instance; bounded."""
        limit = time.monotonic() + _WAIT_S
        while time.monotonic() < limit:
            found = [link.session() for link in (self.scheduler, *self.workers)]
            open_ones = [one for one in found if one is not None and one.alive()]
            if len(open_ones) == len(found):
                scheduler, *workers = open_ones
                answer = self._lookup(scheduler, 1 << 40, 1)
                if answer.status != p.LOOKUP_NOT_READY:
                    return scheduler, workers
            time.sleep(0.005)
        raise SystemExit(f"the sidecar serves nobody within {_WAIT_S} s")

    def _lookup(self, session: Session, request: int, blocks: int) -> p.LookupAnswer:
        self._counter += 1
        query = self._counter
        session.send(p.Lookup(query, request, 0, 0, blocks))
        limit = time.monotonic() + 5
        while time.monotonic() < limit:
            answer = session.wait_for(query, 1000)
            if isinstance(answer, p.LookupAnswer):
                return answer
        raise SystemExit("no answer to a lookup within 5 s")

    def save(self, request: int, blocks: list[int]) -> None:
        """Saves these as the request's blocks 0, 1, …"""
        scheduler, workers = self.sessions()
        # Of this case alone: another one's blocks may have an image of the same shape.
        keys = b"".join(
            hashlib.sha256(f"{self._name}/{request}/{i}".encode()).digest()
            for i in range(len(blocks))
        )
        scheduler.send(p.Extend(request, 0, 32, keys))
        job = self._job(scheduler)
        scheduler.send(p.PlanSave(job, request, 0, tuple(blocks), (0,) * len(blocks)))
        self._go(workers, job, p.KIND_SAVE, p.NO_INDEX)

    def load(self, request: int, blocks: list[int]) -> int:
        """Loads the request's first blocks into these; how many.

        A save drops what finds no room in a pool that other cases have filled.
        """
        scheduler, workers = self.sessions()
        limit = time.monotonic() + 2
        while True:
            answer = self._lookup(scheduler, request, len(blocks))
            if answer.servable == len(blocks) or (answer.servable and time.monotonic() > limit):
                break
            if time.monotonic() > limit + 8:
                raise SystemExit(f"none of {len(blocks)} saved blocks is servable")
            time.sleep(0.005)
        blocks = blocks[: answer.servable]
        job = self._job(scheduler)
        scheduler.send(
            p.PlanLoad(job, request, answer.lease_id, answer.generation, 0, tuple(blocks))
        )
        self._go(workers, job, p.KIND_LOAD, 0)
        return len(blocks)

    def _job(self, scheduler: Session) -> int:
        self._counter += 1
        return p.job_id(scheduler.session_id, self._counter)

    def _go(self, workers: list[Session], job: int, kind: int, word: int) -> None:
        for rank, worker in enumerate(workers):
            with self.on(rank):
                fence = self.fences[rank].record(worker)
            if fence is None:
                raise SystemExit("no fence event is free")
            worker.send(p.Go(job, fence.sequence, fence.index, word, 60_000, kind, fence.kind))
        limit = time.monotonic() + _WAIT_S
        while len(self._ended[job]) < len(workers):
            if time.monotonic() > limit:
                raise SystemExit(f"a job did not end within {_WAIT_S} s")
            for rank, worker in enumerate(workers):
                for record in worker.poll():
                    if isinstance(record, p.JobDone):
                        self._ended[record.job_id][rank] = record
            time.sleep(0.0002)
        for rank, done in self._ended.pop(job).items():
            if done.status != p.STATUS_OK:
                raise SystemExit(f"rank {rank}: ended as {p.STATUS_NAMES.get(done.status)}")


def wrong_bytes(ranks: Ranks, case: Case, rng: random.Random, generators: list[Any]) -> int:
    """Saves and loads twice, into other blocks each time; bytes that are not as they should be."""
    wrong = 0
    for request in (1, 2):
        ids = rng.sample(range(case.blocks), 2 * case.moved)
        if rng.random() < 0.3:  # neighbours, as a fresh engine hands them out
            first = rng.randint(0, case.blocks - 2 * case.moved)
            ids = list(range(first, first + 2 * case.moved))
        source, target = ids[: case.moved], ids[case.moved :]
        for memory, generator in zip(ranks.memories, generators, strict=True):
            memory.fill(generator)
            if case.same:  # latent attention: all ranks have computed the same
                for mine, first_one in zip(memory.buffers, ranks.memories[0].buffers, strict=True):
                    mine.copy_(first_one)
        ranks.save(request, source)
        saved = [memory.images() for memory in ranks.memories]
        for memory, generator in zip(ranks.memories, generators, strict=True):
            memory.fill(generator)
        filled = [memory.images() for memory in ranks.memories]
        loaded = ranks.load(request, target)
        wanted = [[image.clone() for image in images] for images in filled]
        for before, images in zip(saved, wanted, strict=True):
            for one, image in zip(before, images, strict=True):
                image[target[:loaded]] = one[source[:loaded]]
        found = compare(ranks, wanted)
        if found:
            blocks = dict(zip(target, source[:loaded], strict=False))
            describe(ranks, request, blocks, saved, filled, wanted)
            ranks.load(request, target)
            print(f"  loaded once more: {compare(ranks, wanted)} bytes are wrong", flush=True)
        wrong += found
    return wrong


def compare(ranks: Ranks, wanted: list[list[torch.Tensor]]) -> int:
    """How many bytes of all ranks are not as they should be."""
    return sum(
        int((seen != image).sum())
        for memory, images in zip(ranks.memories, wanted, strict=True)
        for seen, image in zip(memory.images(), images, strict=True)
    )


def describe(
    ranks: Ranks, request: int, blocks: dict[int, int], saved: list[list[torch.Tensor]],
    filled: list[list[torch.Tensor]], wanted: list[list[torch.Tensor]],
) -> None:  # fmt: skip
    """Prints the first rows that are wrong, and what is there instead.

    ``blocks`` are the blocks that were loaded into, and those that they were saved from.
    """
    places = list(blocks)
    shown = 0
    for rank, memory in enumerate(ranks.memories):
        for layer, seen in enumerate(memory.images()):
            rows = (seen != wanted[rank][layer]).flatten(1)
            for block in rows.any(1).nonzero().flatten().tolist():
                at = rows[block].nonzero().flatten()
                bytes_seen = seen[block].flatten()
                was = filled[rank][layer][block].flatten()
                same = [b for b, of in blocks.items()
                        if torch.equal(bytes_seen, saved[rank][layer][of].flatten())]  # fmt: skip
                there = (
                    "what was there before" if torch.equal(bytes_seen[at], was[at])
                    else "zeros" if not bool(bytes_seen[at].any())
                    else f"the bytes of block {same[0]}" if same else "other bytes"
                )  # fmt: skip
                place = places.index(block) if block in blocks else -1
                print(f"  request {request}, rank {rank}, layer {layer}, block {block} (number "
                      f"{place} of {len(places)}): {len(at)} bytes from {int(at[0])} to "
                      f"{int(at[-1])} are {there}", flush=True)  # fmt: skip
                shown += 1
                if shown >= _SHOWN:
                    return


def main() -> int:
    """Runs what the time allows; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--ranks", type=int, default=0, help="at most; 0 = twice the GPUs")
    parser.add_argument("--budget-s", type=float, default=600)
    parser.add_argument("--rank-mib", type=int, default=_RANK_BYTES >> 20)
    args = parser.parse_args()
    if args.device == "cuda" and not has_gpu():
        return skip(pathlib.Path(args.out), f"{NO_GPU}; --device cpu needs none")
    gpus = torch.cuda.device_count() if args.device == "cuda" else 1
    most = args.ranks or 2 * gpus
    # Room for all that is saved: a full pool has none for blocks of another size at once.
    saved_mib = args.cases * most * args.rank_mib
    half_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 21
    os.environ.setdefault("FLEXKV_CPU_CACHE_GB", str(1 + min(saved_mib, half_mib) // 1000))
    begun, wrong, ran = time.monotonic(), 0, 0
    kinds: collections.Counter[str] = collections.Counter()

    for number in range(args.first, args.first + args.cases):
        if time.monotonic() - begun > args.budget_s:
            break
        rng = random.Random(args.seed * 100_003 + number)
        case = draw(rng, most, args.rank_mib << 20)
        devices = [torch.device(args.device, r % gpus) if args.device == "cuda"
                   else torch.device("cpu") for r in range(len(case.layers))]  # fmt: skip
        generators = [torch.Generator(device=device).manual_seed(number + 1) for device in devices]
        ranks = Ranks(case, f"geometry-{os.getpid()}-{number}", devices)
        bytes_wrong = wrong_bytes(ranks, case, rng, generators)
        ranks.close()
        verdict = "right" if not bytes_wrong else f"{bytes_wrong} BYTES ARE WRONG"
        print(f"[{time.monotonic() - begun:6.1f} s] {number}: {case}: {verdict}", flush=True)
        wrong += bytes_wrong
        ran += 1
        kinds[case.layout] += 1
        kinds[f"{len(case.layers)} ranks" + (", stored once" if case.same else "")] += 1
    records = Records()
    drawn = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    records.add(f"random geometries, {gpus} {args.device}: cases ({drawn})", ran, "cases",
                bar=1, met=ran > 0)  # fmt: skip
    records.add("random geometries: bytes that are wrong", wrong, "bytes", bar=0, met=wrong == 0)
    records.write(pathlib.Path(args.out))
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
