"""NVIDIA Dynamo's own router, as processes of the tests' second environment (`.venv-dynamo`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import checkout, processes

PYTHON = checkout.ROOT / ".venv-dynamo" / "bin" / "python"
#: What `dynamo.vllm` needs beside the environment with vLLM.
WORKER_PACKAGES = checkout.ROOT / ".venv-dynamo" / "worker"
MODEL = "m"
_TIERS = {"device": "GPU", "host_pinned": "CPU", "disk": "DISK"}
_REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, order=True)
class Placed:
    """One block in the router's index."""

    worker: int
    medium: str
    block: int
    parent: int | None


def packages() -> Path:
    """Where the packages of Dynamo's environment are."""
    return next((PYTHON.parents[1] / "lib").glob("python3.*")) / "site-packages"


class Indexer(processes.Closing):
    """`python -m dynamo.indexer`: the router's index behind HTTP; a context manager."""

    def __init__(self, log: Path, block_tokens: int) -> None:
        self._port = processes.free_port()
        self._block_tokens = block_tokens
        command = [str(PYTHON), "-m", "dynamo.indexer", "--port", str(self._port)]
        self._process = processes.start([*command, "--threads", "1"], log)

    def __enter__(self) -> Indexer:
        processes.wait_until(self._answers, 30, "the indexer answers", 0.1)
        return self

    def close(self) -> None:
        """Stops it."""
        processes.stop(self._process)

    def listen(self, worker: int, endpoint: str, replay: str) -> None:
        """From now on a worker's events count."""
        body = {
            "instance_id": worker, "endpoint": endpoint, "replay_endpoint": replay,
            "model_name": MODEL, "block_size": self._block_tokens,
        }  # fmt: skip
        self._call("register", body)
        processes.wait_until(lambda: self._active(worker), 10, f"worker {worker} is listened to")

    def query(self, token_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        """By worker, how many tokens of a prompt its tiers have, cumulative: gpu, cpu, disk."""
        answer = self._call("query", {"model_name": MODEL, "token_ids": list(token_ids)})
        return {
            int(worker): {tier: found[tier] for tier in ("gpu", "cpu", "disk")}
            for worker, found in answer["instances"].items()
        }

    def dump(self) -> set[Placed]:
        """The whole index."""
        found = set()
        for model in self._call("dump").values():
            for row in model["events"]:
                stored = row["event"]["data"]["stored"]
                parent = stored["parent_hash"]
                for block in stored["blocks"]:
                    medium = _TIERS[row["storage_tier"]]
                    found.add(Placed(row["worker_id"], medium, block["block_hash"], parent))
                    parent = block["block_hash"]
        return found

    def _active(self, worker: int) -> bool:
        return any(
            row["instance_id"] == worker and row["status"] == "active"
            for row in self._call("workers")
        )

    def _answers(self) -> bool:
        try:
            self._call("workers")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return _post(f"http://127.0.0.1:{self._port}/{path}", body)


class Selection(processes.Closing):
    """Dynamo's `SelectionService`, weights and all, in a process of its own."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("dynamo_selection.py")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(PYTHON), "-P", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                preexec_fn=processes.die_with_parent,  # noqa: PLW1509 (one system call)
            )

    def close(self) -> None:
        """Stops it."""
        processes.stop(self._process)

    def listen(self, worker: int, endpoint: str, replay: str, block_tokens: int) -> None:
        """A worker to choose from."""
        self.call(
            "upsert_worker",
            {
                "worker_id": worker, "model_name": MODEL, "block_size": block_tokens,
                "endpoint": f"http://127.0.0.1:{worker}", "kv_events_endpoint": endpoint,
                "replay_endpoint": replay, "data_parallel_start_rank": 0, "data_parallel_size": 1,
                "max_num_batched_tokens": 8192, "total_kv_blocks": 10_000,
            },
        )  # fmt: skip

    def select(self, token_ids: Sequence[int]) -> dict[str, Any]:
        """Where a prompt goes, and the prefill that is left there, in tokens."""
        chosen: dict[str, Any] = self.call(
            "select", {"model_name": MODEL, "token_ids": list(token_ids)}
        )
        return chosen

    def call(self, method: str, argument: dict[str, Any]) -> Any:
        """One method of the service."""
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        pipes.stdin.write(json.dumps([method, argument]).encode() + b"\n")
        pipes.stdin.flush()
        line = pipes.stdout.readline()
        if not line:
            raise RuntimeError(f"the selection service ended with status {pipes.poll()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]


@dataclass(frozen=True, slots=True)
class Routed:
    """What was answered (a worker without an engine answers its tag), how much of the prompt the
    router took as cached, and Dynamo's number of the worker."""

    tag: str
    hit_rate: float
    worker: int = 0


class Frontend(processes.Closing):
    """Dynamo's real frontend with its KV router, and workers that relay a stream of events each.

    Discovery is a folder, requests go over TCP and events over ZeroMQ: no etcd, no NATS.
    """

    def __init__(
        self, folder: Path, log: Path, model: Path, router: Sequence[str] = ("--router-mode", "kv")
    ) -> None:
        self._log, self._model, self._router = log, model, list(router)
        self.port = processes.free_port()
        self._environment = {
            **os.environ,
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": str(folder),
            "DYN_EVENT_PLANE": "zmq",
            "HF_HUB_OFFLINE": "1",
        }
        self._workers: list[subprocess.Popen[bytes]] = []
        self._frontend = self._start_frontend()

    def close(self) -> None:
        """Stops the workers, then the frontend."""
        for process in (*self._workers, self._frontend):
            processes.stop(process)

    def add_worker(self, events: str, block_tokens: int, tag: int) -> None:
        """A worker that answers with token `tag`; returns at once, see `wait_workers`."""
        self.run_worker(Path(__file__).with_name("dynamo_worker.py"), events, block_tokens, tag)

    def run_worker(
        self, script: Path, events: str, block_tokens: int, tag: int, *more: str
    ) -> None:
        """A worker of another kind, as a script in Dynamo's environment."""
        arguments = [str(self._model), events, str(block_tokens), str(tag), *more]
        self._workers.append(self._start(f"worker-{tag}", ["-P", str(script), *arguments]))

    def run_engine(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """A worker with a real engine: `dynamo.vllm` in the present environment."""
        path = [str(WORKER_PACKAGES), os.environ.get("PYTHONPATH", "")]
        ours = {name: value for name, value in self._environment.items() if name[:4] == "DYN_"}
        script = Path(__file__).with_name("dynamo_vllm.py")
        engine = processes.start(
            [sys.executable, "-P", str(script), *arguments],
            self._log / f"dynamo-{name}.log",
            {
                **processes.vllm_environment(), **ours, **environment,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            },
        )  # fmt: skip
        self._workers.append(engine)
        return engine

    def wait_workers(self, timeout_s: float = 60.0) -> None:
        """Returns when all of them take requests."""

        def there() -> bool:
            for worker in self._workers:
                if worker.poll() is not None:
                    raise RuntimeError(f"a worker ended with {worker.returncode}: see {self._log}")
            return self._all_there()

        processes.wait_until(there, timeout_s, f"{len(self._workers)} workers", 0.2)

    def restart(self) -> None:
        """Another frontend, which knows nothing; the workers stay."""
        processes.stop(self._frontend)
        self._frontend = self._start_frontend()
        self.wait_workers()

    def complete(self, token_ids: Sequence[int], max_tokens: int = 1) -> Routed:
        """Where this prompt goes, and what it is answered, greedily."""
        body = {
            "model": "tiny", "prompt": list(token_ids), "max_tokens": max_tokens,
            "temperature": 0, "nvext": {"extra_fields": ["worker_id", "timing"]},
        }  # fmt: skip
        answer = _post(f"http://127.0.0.1:{self.port}/v1/completions", body)
        nvext = answer["nvext"]
        hit_rate = float(nvext["timing"]["kv_hit_rate"] or 0.0)
        worker = int(nvext["worker_id"]["decode_worker_id"])
        return Routed(answer["choices"][0]["text"], hit_rate, worker)

    def _all_there(self) -> bool:
        try:
            health = _post(f"http://127.0.0.1:{self.port}/health", None)
            models = _post(f"http://127.0.0.1:{self.port}/v1/models", None)
        except (urllib.error.URLError, ConnectionError):
            return False
        serving = {
            row["instance_id"]
            for row in health.get("instances", [])
            if row["endpoint"] == "generate"
        }
        # A frontend knows a worker a moment before it takes requests for its model.
        return len(serving) == len(self._workers) and bool(models.get("data"))

    def _start_frontend(self) -> subprocess.Popen[bytes]:
        arguments = ["-m", "dynamo.frontend", *self._router]
        arguments += ["--http-host", "127.0.0.1", "--http-port", str(self.port)]
        return self._start("frontend", arguments)

    def _start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        log = self._log / f"dynamo-{name}.log"
        return processes.start([str(PYTHON), *arguments], log, self._environment, append=True)


def _post(url: str, body: dict[str, Any] | None) -> Any:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as answer:
        return json.loads(answer.read())
