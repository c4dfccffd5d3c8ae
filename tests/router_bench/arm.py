"""One arm of the benchmark: the slice through Dynamo's real frontend, to simulated engines.

The frontend, its router and the workers that Dynamo registers are processes of Dynamo's
environment, each engine has a sidecar of its own, and the engines themselves run in this process:
so what is true of all of them can be looked up between two requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import zmq
import zmq.asyncio
from harness import processes
from harness.dynamo import Frontend
from harness.model import ModelShape, write_model
from harness.sidecar import Sidecar
from router_bench.clock import Clock
from router_bench.decision import SAME, Choice, Decision, Weights, judge
from router_bench.engine import Served, SimulatedEngine
from router_bench.trace import BLOCK_TOKENS, Row

_WORKER = Path(__file__).with_name("worker.py")
_ARRIVES_S = 30.0
_ENDS_S = 300.0
_COMPARED = 250
_SELECTED = re.compile(r"^(\S+)Z .*Selected worker .*?logit=([0-9.]+)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Setting:
    """What an arm is; pools in blocks of 512 tokens, a worker."""

    name: str
    kv: bool
    tells_tiers: bool
    weights: Weights
    workers: int = 4
    gpu_blocks: int = 500
    host_blocks: int = 1000
    ssd_blocks: int = 5000
    speed: float = 8.0
    """The trace's clock over the wall's: arrivals and the engines' arithmetic alike."""
    load: float = 1.0
    """Arrivals are so many times as dense as in the trace."""

    @property
    def router(self) -> list[str]:
        """Arguments of Dynamo's frontend."""
        if not self.kv:
            return ["--router-mode", "round-robin"]
        return [
            "--router-mode", "kv",
            "--router-host-cache-hit-weight", f"{self.weights.host:g}",
            "--router-disk-cache-hit-weight", f"{self.weights.disk:g}",
        ]  # fmt: skip


@dataclass(slots=True)
class Timing:
    """One request, on the trace's clock."""

    number: int
    worker: int
    input_tokens: int
    gpu: int
    host: int
    ssd: int
    sent_s: float
    ttft_s: float
    ended_s: float

    @property
    def reused_tokens(self) -> int:
        return BLOCK_TOKENS * (self.gpu + self.host + self.ssd)


@dataclass(slots=True)
class ArmResult:
    """All that an arm left behind."""

    setting: Setting
    timings: list[Timing] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    logged_costs: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0

    def write(self, folder: Path) -> None:
        """The raw rows, a line a request."""
        with (folder / "requests.jsonl").open("w") as out:
            for timing, decision in zip(self.timings, self.decisions, strict=True):
                judged = {"differs": decision.differs, "best": decision.is_best}
                row = {**asdict(timing), **asdict(decision), **judged}
                out.write(json.dumps(row) + "\n")

    @property
    def token_hits(self) -> float:
        """Share of all input tokens that came from a cache."""
        asked = sum(timing.input_tokens for timing in self.timings)
        return sum(timing.reused_tokens for timing in self.timings) / asked

    def share_of(self, tier: str) -> float:
        """Share of all input tokens that came from the `gpu`, `host` or `ssd` tier."""
        asked = sum(timing.input_tokens for timing in self.timings)
        blocks: int = sum(getattr(timing, tier) for timing in self.timings)
        return BLOCK_TOKENS * blocks / asked

    @property
    def differing(self) -> list[Decision]:
        """Requests for which the workers differ in what they can use."""
        return [decision for decision in self.decisions if decision.differs]

    @property
    def to_the_best(self) -> float:
        """Share of those that went to a worker than which none costs less."""
        return sum(decision.is_best for decision in self.differing) / len(self.differing)

    @property
    def costs_reproduced(self) -> float:
        """Share of the router's logged costs that ours equal."""
        pairs = zip(self.logged_costs, self.decisions, strict=True)
        same = sum(abs(cost - one.costs[one.chosen]) < SAME for cost, one in pairs)
        return same / len(self.logged_costs)

    @property
    def tokens_s(self) -> float:
        """Input tokens answered in a second of the trace's clock, from start to last end."""
        last = max(timing.ended_s for timing in self.timings)
        return sum(timing.input_tokens for timing in self.timings) / last


async def run_arm(setting: Setting, rows: Sequence[Row], folder: Path) -> ArmResult:
    """Starts everything, replays, compares the oracle with the indexes, ends everything."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    result = ArmResult(setting)
    async with _cluster(setting, folder) as cluster:
        await cluster.replay(rows, result)
        await cluster.compare(rows, result)
    logged = _logged(folder / "dynamo-frontend.log")
    if setting.kv and len(logged) != len(rows):
        raise RuntimeError(f"the router's log names {len(logged)} choices of {len(rows)}")
    for choice, (at_s, cost) in zip(result.choices, logged, strict=False):
        choice.at_s = at_s
        result.logged_costs.append(cost)
    result.decisions = judge(result.choices, setting.workers, setting.weights)
    result.wall_s = time.monotonic() - began
    result.write(folder)
    return result


class _Cluster:
    def __init__(self, setting: Setting, engines: list[SimulatedEngine], control: Any) -> None:
        self.setting, self.engines, self._control = setting, engines, control
        self._rows: dict[int, tuple[Row, Any]] = {}
        self._arrivals: dict[int, asyncio.Future[tuple[int, Served]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.url = ""
        self.clock = Clock(setting.speed)

    # ------------------------------------------------------------------ the workers' side
    async def listen(self) -> None:
        """Hears of requests that have reached a worker."""
        while True:
            tag, number = await self._control.recv_multipart()
            row, request = self._rows.pop(int(number))
            worker = int(tag)
            served = self.engines[worker].submit(row, request)
            self._arrivals[row.number].set_result((worker, served))
            self._spawn(self._tell(tag, number, served))

    async def _tell(self, tag: bytes, number: bytes, served: Served) -> None:
        await served.first_token.wait()
        await self._control.send_multipart([tag, number, b"first"])
        await served.done.wait()
        await self._control.send_multipart([tag, number, b"done"])

    # ------------------------------------------------------------------ the clients' side
    async def replay(self, rows: Sequence[Row], result: ArmResult) -> None:
        """Each request at its moment; the next one only when the router has chosen for this one."""
        self.clock = Clock(self.setting.speed)
        for engine in self.engines:
            engine.start(self.clock)
        open_requests: list[asyncio.Task[Timing]] = []
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_ENDS_S)
        ) as client:
            for row in rows:
                tokens = row.prompt()
                request = self.engines[0].request(row, tokens)
                body = _body(row, tokens)
                await self.clock.until(row.arrival_s / self.setting.load)
                self.clock.hold()  # until the router has chosen
                arrival = asyncio.get_running_loop().create_future()
                self._arrivals[row.number] = arrival
                self._rows[row.number] = (row, request)
                hashes, most = request.block_hashes, row.reusable_blocks
                reaches = tuple(engine.reach(hashes, most) for engine in self.engines)
                choice = Choice(row, reaches)
                result.choices.append(choice)
                task = asyncio.create_task(self._complete(client, choice, body, arrival))
                open_requests.append(task)
                done, _ = await asyncio.wait(
                    (arrival, task), timeout=_ARRIVES_S, return_when=asyncio.FIRST_COMPLETED
                )
                if arrival not in done:
                    raise RuntimeError(f"request {row.number} reached no worker: {task}")
                choice.at_s, choice.worker = time.time(), arrival.result()[0]
                self.clock.release()
            result.timings = list(await asyncio.gather(*open_requests))

    async def _complete(
        self, client: aiohttp.ClientSession, choice: Choice, body: bytes,
        arrival: asyncio.Future[tuple[int, Served]],
    ) -> Timing:  # fmt: skip
        row, sent, first = choice.row, self.clock.now(), 0.0
        headers = {"content-type": "application/json"}
        async with client.post(self.url, data=body, headers=headers) as answer:
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}: {(await answer.text())[:500]}")
            async for line in answer.content:
                if not first and line.startswith(b"data: {"):
                    first = self.clock.now()
                    choice.prefilled_s = time.time()
                    self.clock.release()
        choice.ended_s = time.time()
        worker, served = arrival.result()
        # The router saw each token between the engine's word and the client's.
        choice.prefilled_s = (choice.prefilled_s + served.first_token_s) / 2
        choice.ended_s = (choice.ended_s + served.done_s) / 2
        return Timing(
            row.number, worker, row.input_tokens, served.gpu, served.host, served.ssd, sent,
            first - sent, self.clock.now(),
        )  # fmt: skip

    async def compare(self, rows: Sequence[Row], result: ArmResult) -> None:
        """The oracle's residency with the sidecars' answers, at rest; and what the engines saw."""
        await asyncio.sleep(0.5)
        equal = asked = 0
        for row in rows[:: max(1, len(rows) // _COMPARED)]:
            request = self.engines[0].request(row, row.prompt())
            for engine in self.engines:
                told = engine.reach(request.block_hashes, row.reusable_blocks)
                asked += 1
                equal += told == await engine.probe(request.block_hashes, row.reusable_blocks)
        result.counts = {"prompts asked of an index at rest": asked, "as the oracle said": equal}
        for engine in self.engines:
            for name, number in engine.counts().items():
                result.counts[name] = result.counts.get(name, 0) + number

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def _cluster(setting: Setting, folder: Path) -> AsyncIterator[_Cluster]:
    shape = ModelShape(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, head_dim=16,
        max_position_embeddings=1 << 18,
    )  # fmt: skip
    model = write_model(folder.parent / "model", shape)
    async with AsyncExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fkr-")))
        engines = []
        for number in range(setting.workers):
            sidecar = _sidecar(run / f"s{number}", setting)
            process = sidecar.start(folder / f"sidecar-{number}.log")
            stack.callback(processes.stop, process)
            engine = SimulatedEngine(str(sidecar.socket), setting.gpu_blocks, setting.tells_tiers)
            stack.callback(engine.close)
            engines.append(engine)
        context = zmq.asyncio.Context()
        stack.callback(context.destroy, 0)
        control = context.socket(zmq.ROUTER)
        port = control.bind_to_random_port("tcp://127.0.0.1", 20_000, 32_000)
        (run / "discovery").mkdir()
        frontend = Frontend(run / "discovery", folder, model, setting.router)
        stack.enter_context(frontend)
        for number, engine in enumerate(engines):
            frontend.run_worker(
                _WORKER, engine.endpoint, BLOCK_TOKENS, number, f"tcp://127.0.0.1:{port}"
            )
        await asyncio.to_thread(frontend.wait_workers)
        cluster = _Cluster(setting, engines, control)
        cluster.url = f"http://127.0.0.1:{frontend.port}/v1/completions"
        listening = asyncio.create_task(cluster.listen())
        stack.callback(listening.cancel)
        yield cluster


def _sidecar(folder: Path, setting: Setting) -> Sidecar:
    return Sidecar(
        folder,
        FLEXKV_NUM_CPU_BLOCKS=str(setting.host_blocks),
        FLEXKV_CPU_CACHE_GB="0.2",
        FLEXKV_NUM_SSD_BLOCKS=str(setting.ssd_blocks),
        FLEXKV_SSD_CACHE_GB="0.2",
        FLEXKV_SSD_CACHE_DIR=str(folder / "ssd"),
    )


def _body(row: Row, tokens: list[int]) -> bytes:
    return json.dumps(
        {
            "model": "tiny", "prompt": tokens, "max_tokens": row.output_tokens, "stream": True,
            "seed": row.number,
        }
    ).encode()  # fmt: skip


def _logged(log: Path) -> list[tuple[float, float]]:
    """When the router chose, and the cost of the worker that it chose, from its log."""
    text = _COLOUR.sub("", log.read_text(errors="replace"))
    return [
        (datetime.fromisoformat(f"{at}+00:00").timestamp(), float(cost))
        for at, cost in _SELECTED.findall(text)
    ]
