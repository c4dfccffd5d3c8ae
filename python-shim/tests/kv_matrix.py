"""Put, get, verify over shapes, dtypes, layouts, tiers and clients; on any device.

``tests/test_kv_matrix.py`` and ``tests/test_kv_ssd.py`` run it on CPU memory,
``tests/gpu/kvmanager.py`` on GPU tensors.
"""

from __future__ import annotations

import random
import time

import torch
from kv_rig import Fleet, Shape, status

from flexkv.common.request import KVResponseStatus

FORMS = ("kv-first", "block-kv", "packed", "split", "all-layers", "blockfirst")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.uint8)

SHAPES: tuple[Shape, ...] = (
    *(Shape(form) for form in FORMS),  # MHA and GQA: heads of one rank
    *(Shape("kv-first", dtype=dtype) for dtype in DTYPES[1:]),
    Shape("kv-first", kv_heads=8, tp=2),  # GQA over two ranks
    Shape("blockfirst", kv_heads=2, tp=2),  # one head a rank
    Shape("split", kv_heads=4, tp=4),
    Shape("kv-first", pp=2, tp=2),
    Shape("kv-first", kv_heads=1, head_size=72, kv_dim=1),  # MLA
    Shape("flat", kv_heads=1, head_size=72, kv_dim=1, dtype=torch.bfloat16),
    Shape("blockfirst", kv_heads=1, head_size=72, kv_dim=1, tp=2),
    Shape("kv-first", kv_heads=1, head_size=72, kv_dim=1, tp=2, pp=2),
    Shape("kv-first", block_tokens=64, layers=2),
    Shape("packed", block_tokens=1, layers=1),
)
"""Each form with every dtype would tell no more: bytes are moved, whatever they mean."""


def put_get_verify(shape: Shape, *, device: str = "cpu", seed: int = 1, model: str = "") -> int:
    """Two clients of one model: what either put, both get; returns the blocks compared."""
    rng = random.Random(seed)
    size = shape.block_tokens
    compared = 0
    fleets = [
        Fleet.start(shape, model=model, blocks=48, client=client, device=device)
        for client in range(2)
    ]
    try:
        for turn, (writer, reader) in enumerate(((0, 1), (1, 0), (0, 0))):
            blocks = rng.randint(1, 9)
            tokens = [rng.randrange(1 << 31) for _ in range(blocks * size + rng.randrange(size))]
            source = rng.sample(range(48), blocks)
            fleets[writer].fill(tokens, source)
            task = fleets[writer].manager.put_async(tokens, fleets[writer].slots(source))
            answer = fleets[writer].manager.wait(task)[task]
            assert answer.status is KVResponseStatus.SUCCESS, answer.status
            assert int(answer.return_mask.sum()) == blocks * size, f"turn {turn}"
            compared += _get(fleets[reader], tokens, blocks, rng)
    finally:
        for fleet in fleets:
            fleet.close()
    return compared


def _get(fleet: Fleet, tokens: list[int], blocks: int, rng: random.Random) -> int:
    """Loads all of it, then all but what the engine has itself; other blocks stay as they are."""
    size = fleet.shape.block_tokens
    target = rng.sample(range(fleet.blocks), blocks)
    other = next(b for b in range(fleet.blocks) if b not in target)
    fleet.wipe([*target, other])
    task, mask = fleet.manager.get_match(torch.tensor(tokens))
    assert int(mask.sum()) == blocks * size
    assert len(mask) == len(tokens)
    fleet.manager.launch(task, fleet.slots(target))
    answer = fleet.manager.wait(task)[task]
    assert answer.status is KVResponseStatus.SUCCESS, answer.status
    assert (answer.return_mask == mask).all()
    fleet.check(tokens, target)
    first = rng.randrange(blocks)
    fleet.wipe(target)
    wanted = torch.ones(len(tokens), dtype=torch.bool)
    wanted[: first * size] = False
    task = fleet.manager.get_async(tokens, fleet.slots(target[first:]), wanted)
    answer = fleet.manager.wait(task)[task]
    assert int(answer.return_mask.sum()) == (blocks - first) * size
    fleet.check(tokens, target[first:], first)
    for rank in fleet.ranks:
        for block in (*target[:first], other):
            assert not any(rank.read(block)), f"block {block} was not asked for"
    return 2 * blocks - first


HOST_BLOCKS, PROMPTS, DEPTH = 64, 8, 16
"""Twice what a host tier of ``num_cpu_blocks=HOST_BLOCKS`` has room for."""


def put_get_verify_from_disk(
    shape: Shape, address: str, *, device: str = "cpu", model: str = ""
) -> int:
    """Two clients: what one put, and only the disk has still, the other gets.

    Every other prompt is fetched ahead.  Returns the blocks compared.
    """
    fleets = [
        Fleet.start(shape, model=model, blocks=48, client=client, device=device)
        for client in range(2)
    ]
    size = shape.block_tokens
    prompts = [[p * 10_000 + i for i in range(DEPTH * size)] for p in range(PROMPTS)]
    try:
        before = status(address)["ssd"]["written_blocks"]
        for number, tokens in enumerate(prompts):
            _put_to_disk(fleets[0], address, tokens, before + (number + 1) * DEPTH)
        assert status(address)["cache"]["host_blocks"] <= HOST_BLOCKS
        for number, tokens in enumerate(prompts):
            reader = fleets[number % 3 > 0]
            manager, target = reader.manager, range(20, 20 + DEPTH)
            if number % 2:
                task = manager.prefetch_async(tokens)
                answer = manager.wait(task)[task]
                assert answer.status is KVResponseStatus.SUCCESS
                assert answer.return_mask.all(), "it is in the host tier now"
            task, mask = manager.get_match(tokens, cpu_only=bool(number % 2))
            assert mask.all()
            reader.wipe(target)
            manager.launch(task, reader.slots(target))
            assert manager.wait(task)[task].status is KVResponseStatus.SUCCESS
            reader.check(tokens, target)
    finally:
        for fleet in fleets:
            fleet.close()
    return PROMPTS * DEPTH


def _put_to_disk(fleet: Fleet, address: str, tokens: list[int], written: int) -> None:
    """Puts a prompt and waits until the disk has it: the next may push it out of the host tier."""
    fleet.fill(tokens, range(DEPTH))
    task = fleet.manager.put_async(tokens, fleet.slots(range(DEPTH)))
    answer = fleet.manager.wait(task)[task]
    assert answer.status is KVResponseStatus.SUCCESS
    assert answer.return_mask.all()
    deadline = time.monotonic() + 20
    while status(address)["ssd"]["written_blocks"] < written:
        assert time.monotonic() < deadline, status(address)["ssd"]
        time.sleep(0.01)
