"""A sidecar, managers and ranks for tests of the Python API: everything in this process.

``Fleet`` has one ``KVManager`` and its ``KVTPClient`` ranks over torch tensors on any device.  The
bytes of a block are a function of the prefix that it ends (``content``), so that any two puts of
one prefix write the same, and whatever a get brings can be checked without remembering it.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_sidecar import MAX_IDLE_EXIT_S, find_built_jar

from flexkv import rendezvous
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.memory_handle import TensorSharedHandle
from flexkv.common.storage import KVCacheLayout, KVCacheLayoutType
from flexkv.errors import AttachError
from flexkv.kvmanager import KVManager
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.server.client import KVTPClient
from flexkv.session import open_session

READY_S = 30.0
LEAKS = ("leases", "chains", "chain_blocks", "load_jobs", "save_jobs", "parked_gos",
         "pending_blocks", "quarantined_slots")  # fmt: skip


@contextmanager
def sidecar_environment(folder: Path, **options: object) -> Iterator[str]:
    """Environment that starts the built sidecar, and its address; kills it in the end.

    Where the test run is killed first, the sidecar ends by itself, once its clients have gone.
    """
    assert 0 < float(str(options.get("idle_exit_s", 1))) <= MAX_IDLE_EXIT_S
    path = str(folder / "s")
    ours = {
        "FLEXKV_JAR": str(find_built_jar()),
        "FLEXKV_RUNTIME_DIR": str(folder / "run"),
        "FLEXKV_IDLE_EXIT_S": "5",
        "FLEXKV_CPU_CACHE_GB": "0.5",
        "FLEXKV_SERVER_RECV_PORT": f"ipc://{path}",
        **{f"FLEXKV_{name.upper()}": str(value) for name, value in options.items()},
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield f"ipc://{path}"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        kill_sidecar(path)


@contextmanager
def own_sidecar(**options: object) -> Iterator[str]:
    """``sidecar_environment`` in a folder of its own, short enough for ``AF_UNIX``."""
    with (
        tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder,
        sidecar_environment(Path(folder), **options) as address,
    ):
        yield address


def kill_sidecar(path: str) -> None:
    """Kills the sidecar at a socket path, if one is there, and waits until it has gone.

    Asks the kernel who listens: a sidecar that a test has frozen answers nothing.
    """
    try:
        with rendezvous.connect(path) as sock:
            pid = rendezvous.peer_credentials(sock)[0]
        pidfd = os.pidfd_open(pid)
    except (AttachError, OSError):
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 10)
    finally:
        os.close(pidfd)


def status(address: str) -> dict[str, Any]:
    """What the sidecar says of itself."""
    session = open_session(address.removeprefix("ipc://"), Hello(role=ROLE_TOOL, pid=0), None)
    try:
        return session.control("status", {}, 5.0)
    finally:
        session.close()


def wait_for_no_leaks(address: str, timeout_s: float = 10.0) -> None:
    """Nothing that a task held may be left once all tasks have ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = status(address)
        left = {name: found["cache"][name] for name in LEAKS if found["cache"][name]}
        if found["open_parts"]:
            left["open_parts"] = found["open_parts"]
        if not left:
            return
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)


def share_a_tensor(pipe: Connection) -> None:
    """Another process: shares a tensor, and says later what has been written into it."""
    tensor = torch.arange(12).reshape(3, 4)
    pipe.send(TensorSharedHandle(tensor))
    pipe.recv()
    pipe.send(int(tensor[1, 2]))


def slots_of(blocks: Sequence[int], block_tokens: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The slot mapping of whole blocks."""
    starts = np.asarray(blocks, dtype=np.int64)[:, None] * block_tokens
    return (starts + np.arange(block_tokens)).reshape(-1)


@dataclass(frozen=True)
class Shape:
    """One model: its KV, its ranks, and the form of the tensors that each rank registers."""

    form: str
    kv_heads: int = 4
    head_size: int = 16
    layers: int = 3
    kv_dim: int = 2
    tp: int = 1
    pp: int = 1
    dtype: torch.dtype = torch.float16
    block_tokens: int = 16

    @property
    def name(self) -> str:
        kind = "mla" if self.kv_dim == 1 else "mha"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.form}-{kind}{self.kv_heads}x{self.head_size}-tp{self.tp}pp{self.pp}-{dtype}"

    def model(self, name: str) -> ModelConfig:
        return ModelConfig(
            num_layers=self.layers * self.pp, num_kv_heads=self.kv_heads, head_size=self.head_size,
            kv_dim=self.kv_dim, dtype=self.dtype, tp_size=self.tp, pp_size=self.pp,
            model_name=name,
        )  # fmt: skip

    def layout(self, blocks: int) -> KVCacheLayout:
        """Of one rank."""
        kind = "BLOCKFIRST" if self.form == "blockfirst" else "LAYERFIRST"
        heads = self.kv_heads if self.kv_dim == 1 else self.kv_heads // self.tp
        return KVCacheLayout(
            KVCacheLayoutType[kind], self.layers, blocks, self.block_tokens, heads, self.head_size,
            kv_dim=self.kv_dim, tp_size=self.tp,
        )  # fmt: skip

    def tensors(self, layout: KVCacheLayout, device: str) -> list[Any]:
        """What one rank registers, in this form."""
        k, b, t = layout.kv_dim, layout.num_block, layout.tokens_per_block
        h, d, n = layout.num_head, layout.head_size, layout.num_layer
        shapes: dict[str, tuple[int, tuple[int, ...]]] = {
            "kv-first": (n, (k, b, t, h, d)),
            "block-kv": (n, (b, k, t, h, d)),
            "packed": (n, (b, t, h, k * d)),
            "split": (n * k, (b, t, h, d)),
            "flat": (n, (b, t, h * d)),
            "all-layers": (1, (n, k, b, t, h, d)),
            "blockfirst": (1, (b, n, k, t, h, d)),
        }
        count, shape = shapes[self.form]
        return [torch.zeros(shape, device=device).to(self.dtype) for _ in range(count)]

    def block_axis(self) -> int:
        return {"kv-first": 1, "all-layers": 2}.get(self.form, 0)


@dataclass
class Rank:
    """One rank's tensors, and its blocks as bytes."""

    client: KVTPClient
    tensors: list[Any]
    axis: int

    def read(self, block: int) -> bytes:
        parts = [t.select(self.axis, block).contiguous().view(torch.uint8) for t in self.tensors]
        return b"".join(p.cpu().numpy().tobytes() for p in parts)

    def write(self, block: int, data: bytes) -> None:
        at = 0
        for tensor in self.tensors:
            target = tensor.select(self.axis, block)
            size = target.numel() * target.element_size()
            raw = torch.frombuffer(bytearray(data[at : at + size]), dtype=torch.uint8)
            target.copy_(raw.view(tensor.dtype).reshape(target.shape).to(tensor.device))
            at += size
        assert at == len(data)

    @property
    def block_bytes(self) -> int:
        return sum(t.select(self.axis, 0).numel() * t.element_size() for t in self.tensors)


@dataclass
class Fleet:
    """One manager with its ranks."""

    shape: Shape
    manager: KVManager
    ranks: list[Rank]
    blocks: int
    shared: bool = field(default=False)

    @classmethod
    def start(
        cls,
        shape: Shape,
        *,
        model: str = "",
        blocks: int = 64,
        client: int = 0,
        device: str = "cpu",
        cache: CacheConfig | None = None,
    ) -> Fleet:
        """Started, registered and ready."""
        cache = cache or CacheConfig(tokens_per_block=shape.block_tokens)
        manager = KVManager(shape.model(model or shape.name), cache, dp_client_id=client)
        manager.start()
        ranks: list[Rank] = []
        layout = shape.layout(blocks)
        for stage in range(shape.pp):
            for rank in range(shape.tp):
                name = "cpu" if device == "cpu" else f"{device}:0"
                tensors = shape.tensors(layout, name)
                tp = KVTPClient(manager.gpu_register_port, client, 0, stage, rank)
                tp.register_to_server(tensors, layout)
                ranks.append(Rank(tp, tensors, shape.block_axis()))
        fleet = cls(shape, manager, ranks, blocks)
        fleet.wait_ready()
        return fleet

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.manager.is_ready():
            assert time.monotonic() < deadline, "the manager did not become ready"
            time.sleep(0.01)

    def close(self) -> None:
        for rank in self.ranks:
            rank.client.shutdown()
        self.manager.shutdown()

    # ------------------------------------------------------------------ bytes
    def content(self, rank: int, prefix: Sequence[int]) -> bytes:
        """What the last block of a prefix holds on a rank; MLA's ranks hold the same."""
        part = rank // self.shape.tp if self.shape.kv_dim == 1 else rank
        name = repr((self.shape.name, part, list(map(int, prefix)))).encode()
        seed = int.from_bytes(hashlib.sha256(name).digest()[:8], "little")
        return random.Random(seed).randbytes(self.ranks[rank].block_bytes)

    def fill(self, tokens: Sequence[int], blocks: Sequence[int], first: int = 0) -> None:
        """Writes the KV of a prefix's blocks from ``first`` on into GPU blocks."""
        size = self.shape.block_tokens
        for index, block in enumerate(blocks):
            prefix = tokens[: (first + index + 1) * size]
            for rank in range(len(self.ranks)):
                self.ranks[rank].write(block, self.content(rank, prefix))
        self.synchronize()

    def check(self, tokens: Sequence[int], blocks: Sequence[int], first: int = 0) -> None:
        """The GPU blocks hold what ``fill`` would write."""
        self.synchronize()
        size = self.shape.block_tokens
        for index, block in enumerate(blocks):
            prefix = tokens[: (first + index + 1) * size]
            for rank in range(len(self.ranks)):
                seen = self.ranks[rank].read(block)
                assert seen == self.content(rank, prefix), (
                    f"rank {rank}, block {block}: not the bytes of {len(prefix)} tokens"
                )

    def wipe(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            for rank in self.ranks:
                rank.write(block, bytes(rank.block_bytes))
        self.synchronize()

    def synchronize(self) -> None:
        if self.ranks[0].tensors[0].device.type == "cuda":
            torch.cuda.synchronize()

    def slots(self, blocks: Sequence[int]) -> Any:
        return slots_of(blocks, self.shape.block_tokens)
