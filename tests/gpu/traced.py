"""FlexKV's connector with a stamp at every hook a load passes, for one engine at TP 1.

Loaded by `kv_connector_module_path` in the product's place, so that the product itself needs no
tracing. With one rank, scheduler and worker share a process: the stamps of both sides meet here.
One JSON object a finished request goes to the file that `FLEXKV_TRACE_FILE` names, with what the
engine's thread spent in each hook since the last one. All times are
nanoseconds of CLOCK_MONOTONIC, as in the sidecar's status.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

from flexkv.connector import FlexKVConnectorV1

_rows: dict[str, dict[str, int]] = {}
_spent_ns: Counter[str] = Counter()

H = TypeVar("H", bound=Callable[..., Any])


def _timed(hook: H) -> H:
    """Adds up what the engine's thread spends in this hook of ours."""

    @functools.wraps(hook)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic_ns()
        try:
            return hook(*args, **kwargs)
        finally:
            _spent_ns[hook.__name__] += time.monotonic_ns() - begun

    return cast("H", timed)


def _stamp(request_id: str, stage: str, *, last: bool = False) -> None:
    row = _rows.setdefault(request_id, {})
    if last or stage not in row:
        row[stage] = time.monotonic_ns()


class TracedFlexKV(FlexKVConnectorV1):
    """Stages: `new`, `asked` (first question), `answered`, `planned`, `go`, `done_seen` (by the
    scheduler), `resumed`, `scheduled` (the step that computes the rest); `reported` by the worker.
    """

    @_timed
    def on_new_request(self, request: Any) -> None:
        _stamp(request.request_id, "new")
        super().on_new_request(request)

    @_timed
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        _stamp(request.request_id, "asked")
        answer = super().get_num_new_matched_tokens(request, num_computed_tokens)
        if answer[0] is not None:
            _stamp(request.request_id, "answered")
        return answer

    @_timed
    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens > 0:
            _stamp(request.request_id, "planned")
            _rows[request.request_id]["external"] = num_external_tokens
        elif "planned" in _rows.get(request.request_id, {}):
            _stamp(request.request_id, "resumed")

    @_timed
    def build_connector_meta(self, scheduler_output: Any) -> Any:
        meta = super().build_connector_meta(scheduler_output)
        for request_id in scheduler_output.num_scheduled_tokens:
            _stamp(request_id, "scheduled")
        return meta

    @_timed
    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        super().handle_preemptions(kv_connector_metadata)
        step = getattr(kv_connector_metadata, "step", None)
        for job in step.jobs if step is not None else ():
            row = _rows.get(job.request_id, {})
            if "planned" in row:
                _stamp(job.request_id, "go")

    @_timed
    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        sent, received = super().get_finished(finished_req_ids)
        for request_id in received or ():
            _stamp(request_id, "reported")
        return sent, received

    @_timed
    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        super().start_load_kv(forward_context, **kwargs)

    @_timed
    def wait_for_save(self) -> None:
        super().wait_for_save()

    @_timed
    def update_connector_output(self, connector_output: Any) -> None:
        """What is named as received now has ended for vLLM, whether a worker said so or not."""
        super().update_connector_output(connector_output)
        for request_id in connector_output.finished_recving or ():
            _stamp(request_id, "done_seen")

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        answer = super().request_finished(request, block_ids)
        row = _rows.pop(request.request_id, None)
        path = os.environ.get("FLEXKV_TRACE_FILE", "")
        if row is not None and path:
            spent = dict(_spent_ns)
            _spent_ns.clear()
            with open(path, "a") as file:
                line = {"request": request.request_id, **row, "hooks_ns": spent}
                file.write(json.dumps(line) + "\n")
        return answer
