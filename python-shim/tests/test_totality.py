"""Every hook is total: whatever breaks inside, vLLM lives and each open load ends exactly once."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from rig import Rig, prompt

from flexkv.errors import ConfigError
from flexkv.hooks import SchedulerHooks, WorkerHooks
from flexkv.metadata import StepJob, StepMetadata
from flexkv.protocol import KIND_LOAD
from flexkv.wiring import scheduler_hooks, worker_hooks
from flexkv.worker import WorkerLimits

LIMITS = WorkerLimits(load_deadline_ms=1000, drain_timeout_ms=5000)


class BrokenError(RuntimeError):
    pass


def broken(*args: Any, **kwargs: Any) -> Any:
    raise BrokenError("injected")


def warm() -> Rig:
    rig = Rig(limits=LIMITS)
    rig.serve("warm", prompt(21))
    rig.drop_engine_cache()
    return rig


SCHEDULER_PARTS = [
    ("side", "on_new_request"),
    ("side", "get_num_new_matched_tokens"),
    ("side", "update_state_after_alloc"),
    ("loads", "open"),
    ("side", "build_connector_meta"),
    ("holdings", "_count_new_blocks"),
    ("side", "update_connector_output"),
    ("side", "request_finished"),
    ("side", "_live_session"),
    ("saves", "plan"),
    ("saves", "mark_filled"),
    ("lookups", "answer"),
    ("lookups", "arrived"),
]


@pytest.mark.parametrize("owner", SCHEDULER_PARTS, ids=lambda o: o[1])
@pytest.mark.parametrize("when", ["before", "loading"])
def test_scheduler_side_that_breaks(
    owner: tuple[str, str], when: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    rig = warm()
    target = rig.side if owner[0] == "side" else getattr(rig.side, owner[0])
    if when == "before":
        monkeypatch.setattr(target, owner[1], broken)
    requests = [rig.add(f"r{i}", [*prompt(21), i], max_new=3) for i in range(3)]
    rig.steps(1, copies=False)
    if when == "loading":
        monkeypatch.setattr(target, owner[1], broken)
    rig.run()
    assert [r.generated for r in requests] == [3, 3, 3]
    assert rig.engine.leaked() == 0
    assert rig.worker_sides[0].open_loads == 0
    late = rig.add("late", prompt(30), max_new=2)
    rig.run()
    assert late.generated == 2
    if rig.hooks.guard.errors:
        logged = [r for r in caplog.records if "FlexKV is off" in r.message]
        assert len(logged) == 1, "once, with its traceback, and not once a step"
        assert logged[0].exc_info
        assert rig.hooks.get_num_new_matched_tokens(late, 0) == (0, False)
    else:
        assert when == "loading" or owner[1] in ("update_connector_output", "open")


def test_scheduler_side_that_breaks_disowns_its_open_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken side counts no assignment: a save on its way must not commit another's bytes."""
    rig = warm()
    rig.add("a", prompt(21), max_new=2)
    rig.steps(1, copies=False)
    blocks = range(1, rig.side._facts.num_blocks)
    before = [rig.generations[block] for block in blocks]
    monkeypatch.setattr(rig.side.holdings, "_count_new_blocks", broken)
    rig.run()
    assert rig.hooks.guard.tripped
    after = [rig.generations[block] for block in blocks]
    assert all(new > old for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("there", [True, False], ids=["attached", "detached"])
@pytest.mark.parametrize("part", ["build_connector_meta", "reset_cache", "_live_session"])
def test_reset_of_a_scheduler_side_that_broke_reaches_the_sidecar(
    part: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine with the same model, or this one's next life, must not be served old bytes."""
    rig = warm()
    monkeypatch.setattr(rig.side, part, broken)
    rig.serve("a", prompt(9, 5))
    session = rig.link.present
    if not there:
        rig.link.present = None
    assert rig.engine.reset(weights=True) is True
    assert rig.hooks.guard.tripped
    if not there:
        assert rig.sidecar.generation == 1
        rig.link.present = session
        rig.serve("b", prompt(9, 6))
    assert rig.sidecar.generation == 2
    rig.serve("c", prompt(9, 7))
    assert rig.sidecar.generation == 2, "one reset, sent once"
    assert not rig.side._reset.owed


def test_reset_of_a_broken_side_is_owed_to_the_session_after_the_one_that_took_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = warm()
    monkeypatch.setattr(rig.side, "build_connector_meta", broken)
    rig.serve("a", prompt(9, 5))
    rig.sidecar.prompt = False
    rig.engine.reset(weights=True)
    session = rig.link.present
    assert session is not None
    session.cut = True  # with the reset unread
    rig.sidecar.prompt = True
    rig.attach_scheduler(rig.sidecar)
    rig.serve("b", prompt(9, 6))
    assert rig.sidecar.generation == 2


WORKER_PARTS = [
    ("side", "begin_step"),
    ("side", "_start_loads"),
    ("side", "_start_saves"),
    ("side", "_go_load"),
    ("side", "wait_for_save"),
    ("side", "_poll"),
    ("fences", "record"),
    ("loads", "done"),
    ("loads", "started"),
    ("session", "send"),
    ("session", "poll"),
]


@pytest.mark.parametrize("owner", WORKER_PARTS, ids=lambda o: o[1])
@pytest.mark.parametrize("when", ["before", "loading"])
def test_worker_side_that_breaks(
    owner: tuple[str, str], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = warm()
    side = rig.worker_sides[0]
    target: Any = {
        "side": side,
        "fences": side.fences,
        "loads": side.loads,
        "session": rig.worker_links[0].present,
    }[owner[0]]
    if when == "before":
        monkeypatch.setattr(target, owner[1], broken)
    requests = [rig.add(f"r{i}", [*prompt(21), i], max_new=3) for i in range(3)]
    rig.steps(1, copies=False)
    if when == "loading":
        monkeypatch.setattr(target, owner[1], broken)
    for _ in range(200):
        if not rig.engine.has_requests():
            break
        rig.steps(1)
        rig.clock.now += 0.1
    assert [r.generated for r in requests] == [3, 3, 3]
    assert rig.engine.leaked() == 0
    assert side.open_loads == 0


def test_worker_without_a_side_fails_loads_at_once() -> None:
    hooks = WorkerHooks(broken)
    hooks.register_kv_caches({})
    assert hooks.guard.errors == 1
    meta = StepMetadata([StepJob(9, 5, "r", KIND_LOAD)])
    meta.jobs[0].blocks.extend([3, 4])
    hooks.begin_step("handle_preemptions", meta)
    hooks.begin_step("start_load_kv", meta)  # the same step once more
    assert hooks.get_finished() == {"r"}
    assert hooks.get_block_ids_with_load_errors() == {3, 4}
    assert hooks.get_finished() == set()


def test_old_form_of_handle_preemptions_is_ignored() -> None:
    hooks = WorkerHooks(broken)
    hooks.begin_step("handle_preemptions", {"r1", "r2"})
    assert hooks.get_finished() == set()


def test_scheduler_that_cannot_be_built_answers_neutrally(caplog: Any) -> None:
    with caplog.at_level(logging.ERROR):
        hooks = SchedulerHooks(broken)
    assert "__init__ failed" in caplog.text
    assert hooks.get_num_new_matched_tokens(object(), 0) == (0, False)
    assert hooks.build_connector_meta(object()) == StepMetadata()
    assert hooks.reset_cache() is True
    hooks.on_new_request(object())
    hooks.update_state_after_alloc(object(), object(), 0)
    hooks.request_finished(object())
    hooks.shutdown()


def test_setting_that_is_refused_is_one_line_without_traceback(
    caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXKV_CPU_CACHE_GB", "abc")
    vllm_config = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_connector_extra_config={}))
    monkeypatch.setattr("flexkv.guard._refusals", set())
    with caplog.at_level(logging.INFO):
        worker = worker_hooks(vllm_config, None)
        scheduler = scheduler_hooks(vllm_config, None)
        worker.register_kv_caches({})
    (record,) = [r for r in caplog.records if r.name.startswith("flexkv")]
    assert record.levelname == "ERROR"
    assert record.exc_info is None
    assert record.message.startswith(
        "FlexKV is off: FLEXKV_CPU_CACHE_GB is 'abc', must be a number of GB"
    )
    assert record.message.endswith(". vLLM serves on without it")
    assert "report" not in record.message
    assert scheduler.get_num_new_matched_tokens(object(), 0) == (0, False)
    assert worker.get_finished() == set()


def test_bug_behind_a_refused_setting_still_asks_to_be_reported(caplog: Any) -> None:
    def refused() -> Any:
        raise ConfigError("a setting of this test is refused")

    hooks = WorkerHooks(broken)
    hooks.guard.run("__init__", None, refused)
    hooks.register_kv_caches({})
    assert "register_kv_caches failed (error 2)" in caplog.text
    assert "please report this" in caplog.text
