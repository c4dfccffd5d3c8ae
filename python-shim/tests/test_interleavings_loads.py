"""Loads against a scripted engine: none hangs, none is reported twice or while copies may write."""

from __future__ import annotations

import pytest
from memory_sidecar import FakeSidecar
from mini_vllm import LOADING
from rig import BLOCK, Rig, prompt

from flexkv.protocol import KIND_LOAD, KIND_SAVE, STATUS_FAILED, JobDone
from flexkv.requests import RequestState
from flexkv.worker import WorkerLimits

LIMITS = WorkerLimits(load_deadline_ms=1000, drain_timeout_ms=5000)


def warm(**more: object) -> Rig:
    """An engine whose sidecar holds a prompt of 21 tokens that the engine itself forgot."""
    rig = Rig(limits=LIMITS, **more)  # type: ignore[arg-type]
    rig.serve("warm", prompt(21))
    rig.drop_engine_cache()
    return rig


def only_load(rig: Rig) -> int:
    (job,) = rig.jobs(KIND_LOAD)
    return job


def test_abort_during_an_open_load_is_reported_once() -> None:
    rig = warm()
    rig.start_load("a", prompt(21))
    rig.sidecar.copy_some(only_load(rig), 0, 2)
    rig.engine.abort("a")
    rig.steps(3, copies=False)
    assert rig.engine.leaked() > 0, "blocks were given back while the copy goes on"
    rig.run()
    rig.steps(5)
    rig.check_clean()


def test_abort_during_an_open_load_whose_blocks_fail_truncates_nobody() -> None:
    rig = warm()
    rig.add("other", prompt(9, 5), max_new=40)
    rig.steps(1)
    rig.start_load("a", prompt(21))
    rig.sidecar.end_part(only_load(rig), 0, 1)
    rig.engine.abort("a")
    rig.steps(3)
    assert "a" not in rig.engine.requests
    rig.engine.abort("other")
    rig.run()
    rig.check_clean()


@pytest.mark.parametrize(
    ("tokens", "local", "granted"),
    [
        (21, 0, 16),  # all five blocks are there; the fifth's next token is not known to be
        (33, 0, 16),  # nor is it where the request goes on
        (17, 0, 12),  # what is not matched counts for nothing, though the sidecar may have it
        (5, 0, 0),
        (21, 3, 4),
        (21, 4, 0),  # the block that vLLM dropped from its own hit
    ],
)
def test_drafter_that_reads_ahead_is_loaded_one_block_less_than_matches(
    tokens: int, local: int, granted: int
) -> None:
    rig = warm(reads_ahead=True)
    request = rig.add("a", [*prompt(21), *prompt(12, 7)][:tokens])
    rig.hooks.on_new_request(request)
    answer, asynchronous = rig.hooks.get_num_new_matched_tokens(request, local * BLOCK)
    assert (answer, asynchronous) == (granted, granted > 0)
    rig.run()
    rig.check_clean()


def test_go_before_plan_is_parked() -> None:
    rig = warm()
    rig.sidecar.prompt = False
    rig.add("a", prompt(21), max_new=2)
    rig.sidecar.drain_control()
    out = rig.engine.schedule()
    scheduler = rig.sidecar.scheduler
    assert scheduler is not None
    late = list(scheduler.inbox)
    scheduler.inbox.clear()
    rig.engine.execute(out)
    rig.sidecar.drain_control()
    assert rig.sidecar.early
    scheduler.inbox.extend(late)
    rig.sidecar.drain_control()
    assert not rig.sidecar.early
    rig.sidecar.prompt = True
    rig.workers[0].run_stream()
    rig.engine.update()
    rig.run()
    assert rig.engine.external_tokens == 20
    rig.check_clean()


def test_failed_load_is_recomputed_and_not_asked_again() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    rig.sidecar.end_part(only_load(rig), 0, 1)
    rig.run()
    assert rig.engine.external_tokens == 20, "the same hit was granted again after it had failed"
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    rig.check_clean()
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(21)) == 20  # other requests may
    rig.check_clean()


def test_partly_failed_load_keeps_the_good_prefix() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    rig.sidecar.copy_some(only_load(rig), 0, 3)
    rig.sidecar.end_part(only_load(rig), 0, 1)
    rig.steps(1)
    assert request.num_computed_tokens in (3 * BLOCK, 21)
    rig.run()
    rig.check_clean()


def test_load_of_two_ranks_fails_if_one_of_them_fails() -> None:
    rig = warm(ranks=2)
    request = rig.start_load("a", prompt(21))
    job = only_load(rig)
    rig.sidecar.copy_some(job, 0, 2)
    rig.sidecar.end_part(job, 0, 1)
    rig.steps(2, copies=False)
    assert request.status == LOADING, "one rank still copies"
    rig.sidecar.copy_some(job, 1, 99)
    rig.run()
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_load_past_its_deadline_is_revoked_and_drains() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    rig.sidecar.copy_some(only_load(rig), 0, 2)
    rig.sidecar.prompt = False  # the sidecar does not read its ring; the revoke word is enough
    rig.clock.now += 1.5
    rig.steps(2, copies=False)
    assert request.status == LOADING, "reported before it had drained"
    rig.sidecar.copy_some(only_load(rig), 0, 99)
    assert not rig.jobs(KIND_LOAD)
    rig.sidecar.prompt = True
    rig.sidecar.drain_control()
    rig.run()
    assert rig.sidecar.kills == 0
    assert rig.worker_sides[0].loads.revoked == 1
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_sidecar_that_does_not_drain_is_killed_and_only_then_reported() -> None:
    rig = warm()
    rig.sidecar.dies_when_killed = False
    rig.sidecar.prompt = True
    request = rig.start_load("a", prompt(21))
    job = only_load(rig)
    rig.sidecar.copy_some(job, 0, 2)
    rig.sidecar.prompt = False
    rig.clock.now += 1.5
    rig.steps(3, copies=False)
    assert rig.sidecar.kills == 0
    rig.clock.now += 5.1
    rig.steps(1, copies=False)
    assert rig.sidecar.kills == 1
    rig.steps(5, copies=False)
    assert request.status == LOADING, "reported while the process may still write"
    rig.sidecar.kill()
    rig.steps(3, copies=False)  # seen dead, read once more and reported, taken up
    assert request.status != LOADING
    rig.restart()
    rig.run()
    rig.check_clean()


@pytest.mark.parametrize("stage", ["asked", "planned", "gone", "half", "done"])
@pytest.mark.parametrize("how", ["killed", "restarted", "stopped"])
def test_sidecar_lost_at_each_stage_of_a_load(stage: str, how: str) -> None:
    rig = warm()
    engine = rig.engine
    request = None

    def lose() -> None:
        if how == "killed":
            rig.sidecar.kill()
        elif how == "restarted":
            rig.restart()
        else:
            rig.sidecar.prompt = False  # SIGSTOP: alive, and does nothing

    if stage == "asked":
        rig.sidecar.prompt = False
    request = rig.add("a", prompt(21), max_new=2)
    if stage == "asked":
        lose()
    out = engine.schedule()
    if stage == "planned":
        lose()
    engine.execute(out)
    rig.workers[0].run_stream()
    if stage == "gone":
        lose()
    if stage in ("half", "done"):
        rig.sidecar.copy_some(only_load(rig), 0, 2 if stage == "half" else 99)
        lose()
    engine.update()
    for _ in range(300):
        if not engine.has_requests():
            break
        rig.steps(1, copies=False)
        rig.clock.now += 0.1
    assert request.generated == 2, f"{how} when {stage}: the request is stuck"
    if how == "stopped" and stage in ("gone", "planned", "half"):
        assert rig.sidecar.kills == 1
    if rig.sidecar.dead or how == "stopped":
        rig.restart()
    rig.check_clean()
    rig.drop_engine_cache()
    rig.serve("b", prompt(21))
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(21)) == 20, "later hits do not return"
    rig.check_clean()


@pytest.mark.parametrize("stage", ["planned", "gone", "half", "done"])
@pytest.mark.parametrize("how", ["killed", "restarted", "stopped"])
def test_sidecar_lost_at_each_stage_of_a_save(stage: str, how: str) -> None:
    rig = Rig(limits=LIMITS)
    engine = rig.engine

    def lose() -> None:
        if how == "killed":
            rig.sidecar.kill()
        elif how == "restarted":
            rig.restart()
        else:
            rig.sidecar.prompt = False

    rig.add("a", prompt(21), max_new=3)
    out = engine.schedule()
    if stage == "planned":
        lose()
    engine.execute(out)
    rig.workers[0].run_stream()
    if stage == "gone":
        lose()
    if stage in ("half", "done"):
        (job,) = rig.jobs(KIND_SAVE)
        rig.sidecar.copy_some(job, 0, 2 if stage == "half" else 99)
        lose()
    engine.update()
    rig.run(copies=False)
    rig.check_clean()
    assert not rig.sidecar.early, "a go for a job of another epoch"
    if rig.sidecar.dead or how == "stopped":
        rig.restart()
    rig.drop_engine_cache()
    rig.serve("b", prompt(21))
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(21)) == 20
    rig.check_clean()


def test_restarted_sidecar_gets_the_running_requests_blocks_again() -> None:
    rig = Rig()
    rig.add("a", prompt(17), max_new=12)
    rig.steps(3)
    assert rig.check_cache() == 4
    rig.restart()
    rig.steps(2)
    assert rig.check_cache() >= 4
    rig.run()
    rig.check_clean()


def test_epoch_change_between_ranks_fails_the_load_on_the_rank_that_is_ahead() -> None:
    rig = warm(ranks=2)
    request = rig.add("a", prompt(21), max_new=2)
    out = rig.engine.schedule()  # planned with the old sidecar
    old = rig.sidecar
    old.kill()
    new = FakeSidecar(world_size=2)
    rig.attach_worker(0, new)  # rank 0 has the new one already, rank 1 still the dead one
    rig.engine.execute(out)
    rig.engine.update()
    rig.attach(new)
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_scheduler_ahead_of_a_rank_fails_the_load_there() -> None:
    rig = warm(ranks=2)
    rig.sidecar.kill()
    new = FakeSidecar(world_size=2)
    rig.attach(new)
    rig.serve("again", prompt(21))
    rig.drop_engine_cache()
    rig.worker_links[1].present = None  # rank 1 has lost its session
    request = rig.start_load("a", prompt(21))
    (job,) = rig.jobs(KIND_LOAD)
    new.copy_some(job, 0, 99)
    rig.attach_worker(1, new)
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    assert rig.engine.leaked() == 0


def test_reset_with_an_open_load_ends_it_as_failed() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    job = only_load(rig)
    rig.sidecar.copy_some(job, 0, 99)  # all bytes have arrived, nobody knows yet
    assert rig.engine.reset(weights=True) is False  # vLLM: blocks are held
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_reset_without_an_answer_blocks_lookups_until_it_comes() -> None:
    rig = warm()
    rig.sidecar.prompt = False
    assert rig.engine.reset() is True
    rig.add("a", prompt(21), max_new=2)
    rig.steps(2)
    assert rig.engine.external_tokens == 0
    scheduler = rig.sidecar.scheduler
    assert scheduler is not None
    assert [type(r).__name__ for r in scheduler.inbox if type(r).__name__ != "EndRequest"] == [
        "Reset"
    ]
    rig.sidecar.drain_control()
    rig.sidecar.prompt = True
    rig.run()
    assert rig.serve("b", prompt(21, 0)) == 0
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(21)) == 20
    rig.check_clean()


def test_reset_not_durable_serves_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    rig = warm()
    rig.sidecar.reset_status = STATUS_FAILED
    assert rig.engine.reset() is True
    rig.serve("a", prompt(21))
    rig.drop_engine_cache()
    assert rig.serve("b", prompt(21)) == 0
    assert rig.sidecar.generation == 2, "it is not asked for over and over"
    assert caplog.text.count("cannot make a reset durable") == 1
    rig.restart()
    rig.serve("c", prompt(21))
    rig.drop_engine_cache()
    assert rig.serve("d", prompt(21)) == 20
    rig.check_clean()


def test_reset_without_a_sidecar_is_owed_to_the_next_session() -> None:
    rig = warm()
    present, rig.link.present = rig.link.present, None
    assert rig.engine.reset(weights=True) is True
    rig.link.present = present  # the same sidecar, which still has the old blocks
    assert rig.serve("a", prompt(21)) == 0
    assert rig.sidecar.generation == 2
    rig.check_clean()


def test_lookup_not_answered_is_asked_again_and_then_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = warm()
    rig.sidecar.prompt = False
    request = rig.add("a", prompt(21), max_new=2)
    rig.run()
    # 0.3 s of silence at 0.01 s a step: a sidecar that says nothing is given up by time.
    assert 0 < rig.engine.none_answers <= 32
    assert request.generated == 2
    before = rig.engine.none_answers
    rig.run()
    rig.add("b", prompt(21, 4), max_new=2)
    rig.run()
    assert rig.engine.none_answers == before, "each request waits for a sidecar that is silent"
    assert caplog.text.count("The FlexKV sidecar (pid 4242) has answered nothing for 0.3") == 1
    assert "are computed without hits" in caplog.text and "kill -CONT 4242" in caplog.text
    assert "answers again" not in caplog.text
    rig.sidecar.drain_control()
    rig.sidecar.prompt = True
    rig.drop_engine_cache()
    assert rig.serve("c", prompt(21)) == 20
    assert caplog.text.count("answers again, after ") == 1
    rig.check_clean()


def test_silence_after_silence_is_said_when_it_has_lasted(caplog: pytest.LogCaptureFixture) -> None:
    rig = warm()
    for name in ("a", "b"):
        rig.sidecar.prompt = False
        rig.add(name, prompt(21, ord(name)), max_new=2)
        rig.run()
        assert caplog.text.count("has answered nothing") == 1
        if name == "a":
            rig.sidecar.drain_control()
            rig.sidecar.prompt = True
            rig.serve("between", prompt(21))
    rig.clock.now += 60.0
    rig.add("c", prompt(21, 3), max_new=2)
    rig.run()
    assert caplog.text.count("has answered nothing") == 2
    rig.sidecar.drain_control()
    rig.check_clean()


def test_reset_amid_a_silence_the_end_of_it_is_still_said(caplog: pytest.LogCaptureFixture) -> None:
    rig = warm()
    rig.sidecar.prompt = False
    rig.add("a", prompt(21), max_new=2)
    rig.run()
    assert "has answered nothing" in caplog.text
    assert rig.engine.reset(weights=True) is True
    rig.sidecar.drain_control()
    rig.sidecar.prompt = True
    rig.serve("b", prompt(21))
    assert caplog.text.count("answers again, after ") == 1
    rig.check_clean()


def test_lost_answer_is_asked_for_again() -> None:
    rig = warm()
    rig.sidecar.drop_answers = 1
    rig.add("a", prompt(21), max_new=2)
    for _ in range(20):
        rig.steps(1)
    rig.run()
    assert rig.engine.external_tokens == 20
    rig.check_clean()


def test_chain_that_the_sidecar_forgot_is_sent_again() -> None:
    rig = warm()
    rig.sidecar.prompt = False
    rig.add("a", prompt(21), max_new=2)
    rig.sidecar.drain_control()
    rig.sidecar.chains.clear()
    rig.sidecar.prompt = True
    assert rig.link.present is not None
    rig.link.present.outbox.clear()  # the first answer never came
    rig.clock.now += 1.0
    rig.run()
    assert rig.engine.external_tokens == 20
    rig.check_clean()


def test_not_ready_sidecar_serves_nothing_and_is_not_waited_for() -> None:
    rig = warm()
    rig.sidecar.ready = False
    assert rig.serve("a", prompt(21)) == 0
    assert rig.engine.none_answers == 0
    rig.check_clean()


def test_prompt_logprobs_request_loads_nothing() -> None:
    rig = warm()
    assert rig.serve("a", prompt(21), skip_reading_prefix_cache=True) == 0
    rig.check_clean()


def test_local_hit_within_a_block_loads_nothing() -> None:
    rig = warm()
    request = rig.add("a", prompt(21), max_new=2)
    assert rig.hooks.get_num_new_matched_tokens(request, 6) == (0, False)
    assert rig.hooks.get_num_new_matched_tokens(request, 4) == (16, True)
    rig.run()
    rig.check_clean()


def test_load_that_cannot_be_planned_fails_on_every_rank() -> None:
    rig = warm(ranks=2)
    request = rig.add("a", prompt(21), max_new=2)
    assert rig.link.present is not None
    rig.link.present.full = True  # after the lookup: no room for the plan
    rig.steps(1)
    rig.link.present.full = False
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_sidecar_replaced_between_offer_and_grant_gets_no_plan_of_the_others_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = warm()
    shown = rig.side.holdings.shown

    def replaced(state: RequestState, blocks: list[int]) -> None:
        if state.offer is not None:
            rig.restart()
        shown(state, blocks)

    monkeypatch.setattr(rig.side.holdings, "shown", replaced)
    request = rig.add("a", prompt(21), max_new=2)
    rig.steps(1, copies=False)
    assert rig.jobs(KIND_LOAD) == []
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_worker_without_room_for_a_go_waits_and_then_fails() -> None:
    rig = warm()
    session = rig.worker_links[0].present
    assert session is not None
    session.full = True
    request = rig.start_load("a", prompt(21))
    rig.steps(3)
    assert request.status == LOADING
    rig.clock.now += 2.0
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1
    session.full = False
    rig.check_clean()


def test_worker_session_cut_while_its_sidecar_lives_waits_for_its_death() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    session = rig.worker_links[0].present
    assert session is not None
    session.cut = True
    rig.steps(3, copies=False)
    assert request.status == LOADING
    rig.clock.now += 5.5
    rig.steps(2, copies=False)
    assert rig.sidecar.kills == 1
    rig.restart()
    rig.run()
    assert request.generated == 2
    rig.check_clean()


def test_worker_session_ended_and_its_go_answered_there_later_needs_no_kill() -> None:
    """The sidecar ended the session in the moment in which the go was written: no copy began."""
    rig = warm()
    request = rig.start_load("a", prompt(21))
    session = rig.worker_links[0].present
    assert session is not None
    session.cut = True
    rig.steps(2, copies=False)
    assert request.status == LOADING
    job = only_load(rig)
    del rig.sidecar.jobs[job]
    session.outbox.append(JobDone(job, session.boot_epoch, 0, 0, 0, KIND_LOAD, STATUS_FAILED))
    rig.clock.now += 4.5
    rig.run()
    assert request.generated == 2
    assert rig.sidecar.kills == 0
    rig.check_clean()


def test_worker_session_cut_and_back_takes_the_load_back_without_a_kill() -> None:
    rig = warm()
    request = rig.start_load("a", prompt(21))
    session = rig.worker_links[0].present
    assert session is not None
    session.cut = True
    rig.steps(2, copies=False)
    rig.attach_worker(0, rig.sidecar)
    rig.steps(2, copies=False)
    assert rig.sidecar.kills == 0
    rig.run()
    assert request.generated == 2
    assert rig.side.loads.failed == 1, "what had not arrived is computed"
    rig.clock.now += 20
    rig.steps(2)
    assert rig.sidecar.kills == 0
    rig.check_clean()


def test_worker_session_cut_again_and_again_is_bounded_by_a_kill() -> None:
    """A sidecar whose sessions break every few seconds does not hold a load for ever."""
    rig = warm()
    request = rig.start_load("a", prompt(21))
    rig.sidecar.prompt = False
    for _ in range(5):
        session = rig.worker_links[0].present
        assert session is not None
        session.cut = True
        rig.steps(1, copies=False)
        rig.attach_worker(0, rig.sidecar)
        rig.clock.now += 3.0
        rig.steps(1, copies=False)
    assert rig.sidecar.kills == 1
    rig.restart()
    rig.run()
    assert request.generated == 2
    rig.check_clean()


def test_eviction_between_offer_and_copy_fails_the_load_only() -> None:
    rig = warm()
    rig.start_load("a", prompt(21))
    rig.sidecar.evict(3)
    rig.run()
    assert rig.side.loads.failed == 1
    rig.check_clean()
