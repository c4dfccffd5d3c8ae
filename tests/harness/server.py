"""vLLM's OpenAI server as a child process, and a client that measures what its user sees."""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import processes

_REQUEST_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What one streamed request brought.

    `ttft_s` runs from before the request is sent to the first event that carries a token;
    `cached_tokens` is vLLM's own count of prompt tokens that it did not compute, from its prefix
    cache and from a connector together.
    """

    token_ids: tuple[int, ...]
    ttft_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int


class OpenAIServer(processes.Closing):
    """`python -m vllm.entrypoints.openai.api_server` on a loopback port; a context manager.

    Args:
        model: folder of the model.
        arguments: further command-line arguments, among them `--kv-transfer-config`.
        environment: added to `processes.vllm_environment()`.
        log: where the server's output goes.
        python: interpreter that has vLLM, by default the present one.
    """

    def __init__(
        self,
        model: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        python: str = sys.executable,
    ) -> None:
        self.port = processes.free_port()
        self.log = log
        command = [python, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(model), "--served-model-name", "demo"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--enable-prompt-tokens-details", *arguments]
        self.command = command
        # The reset endpoint that drops the engine's own prefix cache is a development endpoint.
        development = {"VLLM_SERVER_DEV_MODE": "1"}
        self._process = processes.start(
            command, log, {**processes.vllm_environment(), **development, **environment}
        )

    @property
    def pid(self) -> int:
        """Process id of the front end; the engine is its child."""
        pid: int = self._process.pid
        return pid

    def wait_ready(self, timeout_s: float = 300.0) -> None:
        """Returns when `/health` answers; raises with the log's tail if it ends or takes longer."""

        def healthy() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with {self._process.returncode} before it was ready; "
                    f"{self.log} ends with\n{processes.tail(self.log)}"
                )
            try:
                return self._request("GET", "/health", timeout_s=5)[0] == 200
            except OSError:
                return False

        what = f"server on port {self.port} ready"
        try:
            processes.wait_until(healthy, timeout_s, what, every_s=0.25)
        except TimeoutError as error:
            raise TimeoutError(
                f"{error}: is the machine busy? {self.log} ends with\n{processes.tail(self.log)}"
            ) from None

    def is_running(self) -> bool:
        """Whether the front end still lives."""
        return self._process.poll() is None

    def complete(
        self, prompt: Sequence[int], max_tokens: int, timeout_s: float = _REQUEST_TIMEOUT_S
    ) -> Completion:
        """One greedy streamed completion of token ids."""
        body = {
            "model": "demo",
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        text = json.dumps(body)
        begun = time.perf_counter()
        first: float | None = None
        tokens: list[int] = []
        usage: dict[str, Any] = {}
        try:
            connection.request(
                "POST", "/v1/completions", text, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(
                    f"completion answered {response.status}: {response.read()[:500]!r}"
                )
            for line in response:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(f"completion failed: {event['error']}")
                for choice in event["choices"]:
                    if choice.get("finish_reason") == "error":
                        raise RuntimeError(f"completion ended in an error: {choice}")
                    new = choice.get("token_ids") or []
                    if new and first is None:
                        first = time.perf_counter()
                    tokens += new
                usage = event.get("usage") or usage
        finally:
            connection.close()
        ended = time.perf_counter()
        if first is None or len(tokens) != max_tokens:
            raise RuntimeError(
                f"completion brought {len(tokens)} tokens, {max_tokens} were asked for"
            )
        details = usage.get("prompt_tokens_details") or {}
        return Completion(
            token_ids=tuple(tokens),
            ttft_s=first - begun,
            total_s=ended - begun,
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=details.get("cached_tokens") or 0,
        )

    def reset_prefix_cache(self, *, external: bool = False) -> bool:
        """Drops the engine's own prefix cache, the connector's too if asked; vLLM's answer."""
        path = f"/reset_prefix_cache?reset_external={'true' if external else 'false'}"
        status, body = self._request("POST", path)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {body[:300]!r}")
        # Older versions answer 200 with an empty body.
        return bool(json.loads(body)["success"]) if body else True

    def metric(self, name: str) -> float:
        """Sum over all label sets of one Prometheus sample, 0 where it does not exist."""
        _, body = self._request("GET", "/metrics")
        pattern = re.compile(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", re.MULTILINE)
        return sum(float(value) for value in pattern.findall(body.decode()))

    def close(self) -> int:
        """Ends the server and waits for it, also for an engine that has not heard of it."""
        engines = processes.children(self.pid)
        status: int = processes.stop(self._process)
        for engine in engines:
            processes.end_orphan(engine)
        return status

    def _request(self, method: str, path: str, timeout_s: float = 30.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
