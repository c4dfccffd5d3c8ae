"""Loads whose end the scheduler hears of ahead of its workers: sooner, once, and never wrongly."""

from __future__ import annotations

from array import array

import pytest
from memory_sidecar import FakeSidecar
from mini_vllm import FINISHED, LOADING, RUNNING, WAITING, Worker
from rig import Rig, prompt

from flexkv.arrivals import Arrivals
from flexkv.loads import OpenLoads
from flexkv.metadata import StepJob
from flexkv.protocol import KIND_LOAD, STATUS_FAILED, STATUS_OK, STATUS_VOID, JobDone, Record
from flexkv.requests import OpenLoad, RequestState
from flexkv.worker import WorkerLimits


def warm(*, wait_ms: float = 5, ranks: int = 1, lockstep: bool = False) -> Rig:
    """An engine with a step in flight, whose sidecar holds 21 tokens that it forgot itself."""
    rig = Rig(limits=WorkerLimits(1000, 5000), load_wait_ms=wait_ms, ranks=ranks, lockstep=lockstep)
    rig.serve("warm", prompt(21))
    rig.drop_engine_cache()
    rig.engine.reports_at_launch = True
    return rig


def launch(rig: Rig) -> None:
    """A step is scheduled and launched; its output is taken later, as vLLM's batch queue does."""
    rig.engine.execute(rig.engine.schedule())
    for worker in rig.workers:
        worker.run_stream()


def load_in_flight(rig: Rig) -> int:
    """A load is open, its step and another one are launched, none is taken."""
    rig.add("a", prompt(21))
    launch(rig)
    assert rig.engine.requests["a"].status == LOADING
    launch(rig)
    (job,) = rig.jobs(KIND_LOAD)
    return job


@pytest.mark.parametrize("ranks", [1, 2])
def test_load_whole_everywhere_is_taken_up_by_the_next_step(ranks: int) -> None:
    rig = warm(ranks=ranks)
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.update()
    launch(rig)
    assert rig.engine.requests["a"].status == RUNNING
    assert rig.side.arrivals.told_ahead == 1
    rig.run()
    rig.check_clean()


def test_load_without_waiting_is_taken_up_when_the_workers_say_so() -> None:
    rig = warm(wait_ms=0)
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.update()
    assert rig.slept == 0
    launch(rig)
    assert rig.engine.requests["a"].status == LOADING
    rig.run()
    assert rig.side.arrivals.told_ahead == 0
    rig.check_clean()


def test_load_of_two_ranks_waits_for_both() -> None:
    rig = warm(ranks=2)
    job = load_in_flight(rig)
    rig.sidecar.copy_some(job, 0, 99)
    rig.engine.update()
    launch(rig)
    assert rig.engine.requests["a"].status == LOADING
    rig.run()
    rig.check_clean()


def test_wait_is_bounded() -> None:
    rig = warm(wait_ms=5)
    load_in_flight(rig)
    before = rig.clock.now
    rig.engine.update()
    assert 0.005 <= rig.clock.now - before < 0.006
    rig.run()
    rig.check_clean()


def test_wait_that_would_end_just_before_the_load_is_a_little_longer() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    arrivals = Arrivals(1, 0.010, lambda: now[0], sleep)

    def waited_for(blocks: int) -> float:
        load = OpenLoad(1, 0, array("I", range(blocks)))
        arrivals.opened(load)
        began = now[0]
        arrivals.wait([load], lambda: True)
        arrivals.leave(load)
        return now[0] - began

    assert waited_for(130) == pytest.approx(0.010, abs=1e-4), "nothing is known of its speed"
    first = OpenLoad(9, 0, array("I", range(100)))
    arrivals.opened(first)
    arrivals.heard(JobDone(9, 1, 0, 100, 10_000, KIND_LOAD, STATUS_OK))  # 0.1 ms a block
    assert waited_for(130) == pytest.approx(0.014, abs=1e-4)
    assert waited_for(99) == pytest.approx(0.0109, abs=1e-4)
    assert waited_for(50) == pytest.approx(0.010, abs=1e-4), "it is late already"
    assert waited_for(150) == pytest.approx(0.010, abs=1e-4), "too long to wait for at once"


def test_other_requests_do_not_wait() -> None:
    rig = warm()
    rig.add("other", prompt(9, 5), max_new=40)
    rig.steps(1)
    load_in_flight(rig)
    rig.engine.update()
    assert rig.slept == 0
    rig.sidecar.run_copies()
    rig.engine.update()
    assert rig.side.arrivals.told_ahead == 1, "but what has ended is told ahead all the same"
    rig.run()
    rig.check_clean()


def test_answer_that_ends_with_a_step_is_not_held_back_by_that_steps_wait() -> None:
    rig = warm()
    ending = rig.add("ending", prompt(9, 5), max_new=2)
    rig.steps(1)
    load_in_flight(rig)
    rig.engine.update()
    assert ending.status == FINISHED
    assert rig.slept == 0
    rig.engine.update()
    assert rig.slept > 0, "nothing lies there now"
    rig.run()
    rig.check_clean()


def test_abort_between_two_steps_holds_up_no_answer() -> None:
    rig = warm()
    rig.add("other", prompt(9, 5), max_new=40)
    rig.steps(1)
    load_in_flight(rig)
    rig.engine.abort("other")
    launch(rig)
    rig.engine.update()
    assert rig.slept > 0, "its end went out long ago"
    rig.run()
    rig.check_clean()


def test_engines_that_step_together_do_not_wait_for_one() -> None:
    rig = warm(lockstep=True)
    load_in_flight(rig)
    rig.engine.update()
    assert rig.slept == 0
    rig.sidecar.run_copies()
    rig.engine.update()
    assert rig.side.arrivals.told_ahead == 1
    rig.run()
    rig.check_clean()


def test_sidecar_that_tells_only_workers_is_waited_for_once() -> None:
    rig = warm()
    rig.sidecar.tells_scheduler = False
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.run_copies
    rig.run()
    slept = rig.slept
    assert slept > 0
    rig.drop_engine_cache()
    rig.serve("b", prompt(21))
    assert rig.slept == slept, "it was waited for again"
    rig.restart()
    rig.serve("c", prompt(21))
    rig.drop_engine_cache()
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.reports_at_launch = False
    assert rig.serve("d", prompt(21)) == 20
    assert rig.slept > slept, "the next sidecar is another"
    rig.check_clean()


def test_word_that_came_behind_the_workers_once_is_waited_for_again() -> None:
    arrivals = Arrivals(1, 0.005, lambda: 0.0, lambda _: None)
    first, second = (OpenLoad(job, 0, array("I", [1])) for job in (1, 2))
    heard: list[int] = []

    def listen() -> bool:
        heard.append(1)
        return False

    arrivals.opened(first)
    arrivals.reported(first)
    arrivals.opened(second)
    arrivals.wait([second], listen)
    assert not heard, "so far it seems to tell the workers alone"
    arrivals.heard(JobDone(1, 1, 0, 1, 0, KIND_LOAD, STATUS_OK))
    arrivals.wait([second], listen)
    assert heard


@pytest.mark.parametrize("broken", ["a", "b"])
def test_failure_at_one_load_leaves_no_other_told_but_not_handed_over(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = warm()
    rig.serve("other", prompt(21, 1))
    rig.drop_engine_cache()
    rig.add("a", prompt(21))
    rig.add("b", prompt(21, 1))
    launch(rig)
    launch(rig)
    assert len(rig.side.loads) == 2
    end = rig.side.loads._end

    def fails(state: RequestState, *, whole_failed: bool) -> None:
        if state.request_id == broken:
            monkeypatch.undo()
            raise RuntimeError("an error of ours")
        end(state, whole_failed=whole_failed)

    monkeypatch.setattr(rig.side.loads, "_end", fails)
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.update()
    assert rig.hooks.guard.errors
    rig.run()
    rig.steps(2)
    assert not rig.side.arrivals.remembers
    assert len(rig.side.loads) == 0
    assert rig.engine.leaked() == 0


def test_failed_part_goes_the_workers_way_and_ends_the_wait() -> None:
    rig = warm()
    job = load_in_flight(rig)
    rig.while_asleep = lambda: rig.sidecar.end_part(job, 0, STATUS_FAILED)
    rig.engine.update()
    assert rig.slept == 1
    rig.while_asleep = lambda: None
    rig.run()
    assert rig.side.loads.failed == 1
    assert rig.side.arrivals.told_ahead == 0
    rig.check_clean()


def test_dead_sidecar_ends_the_wait() -> None:
    rig = warm()
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.kill
    rig.engine.update()
    assert rig.slept == 1
    rig.while_asleep = lambda: None
    rig.restart()
    rig.run()
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_sidecar_that_dies_behind_its_word_has_kept_it() -> None:
    """The scheduler has told vLLM; the worker finds the same word in its ring, and reports ok."""
    rig = warm()
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.update()
    rig.sidecar.kill()
    rig.run()
    assert rig.side.loads.failed == 0
    rig.check_clean()


def test_sidecar_that_says_its_last_word_behind_the_workers_look_has_kept_it() -> None:
    """The worker sees it dead having read its ring before that word; the scheduler read it after,
    and the request may run: its blocks must not be reported as failed.
    """
    rig = warm()
    load_in_flight(rig)
    session = rig.worker_links[0].present
    assert session is not None
    poll = session.poll

    def poll_then_last_word() -> list[Record]:
        records = poll()
        session.poll = poll  # type: ignore[method-assign]
        rig.sidecar.run_copies()
        rig.engine.update()
        rig.sidecar.kill()
        return records

    session.poll = poll_then_last_word  # type: ignore[method-assign]
    launch(rig)
    assert rig.side.arrivals.told_ahead == 1
    assert not rig.sidecar.jobs
    rig.run()
    assert rig.side.loads.failed == 0
    rig.check_clean()


def test_reset_while_the_word_is_on_its_way_is_not_told_ahead() -> None:
    rig = warm()
    load_in_flight(rig)
    rig.sidecar.run_copies()
    rig.engine.reset(connector=True)
    rig.engine.update()
    rig.run()
    assert rig.side.arrivals.told_ahead == 0
    assert rig.side.loads.failed == 1
    rig.check_clean()


def test_abort_of_a_load_that_was_told_ahead_frees_its_blocks_once() -> None:
    rig = warm()
    load_in_flight(rig)
    rig.while_asleep = rig.sidecar.run_copies
    rig.engine.update()
    assert rig.engine.requests["a"].status in (LOADING, WAITING)
    rig.engine.abort("a")
    rig.run()
    rig.steps(3)
    rig.check_clean()


def test_side_that_breaks_names_no_load_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM dies of the workers' word on a request that it was told of, and that is gone by then."""
    rig = warm()
    rig.serve("other", prompt(21, 1))
    rig.drop_engine_cache()
    rig.add("a", prompt(21))
    rig.add("b", prompt(21, 1))
    launch(rig)
    launch(rig)
    first, _ = rig.jobs(KIND_LOAD)
    rig.while_asleep = lambda: rig.sidecar.copy_some(first, 0, blocks=100)
    rig.engine.update()
    assert rig.side.arrivals.told_ahead == 1
    assert "b" in rig.side.loads
    rig.engine.abort("a")

    def fails() -> None:
        raise RuntimeError("an error of ours")

    monkeypatch.setattr(rig.side, "_live_session", fails)
    rig.run()
    assert rig.hooks.guard.errors
    assert rig.engine.requests == {}
    assert rig.engine.leaked() == 0


def test_abort_while_the_load_runs_frees_its_blocks_when_it_has_ended() -> None:
    rig = warm()
    load_in_flight(rig)
    rig.engine.abort("a")
    rig.engine.update()
    assert rig.engine.leaked() > 0
    rig.sidecar.run_copies()
    rig.run()
    rig.check_clean()


def test_worker_that_asks_in_its_next_session_finds_the_word_in_the_last_one() -> None:
    """The load ends while the worker changes sessions: its old ring has the good word, the next
    one says that there is no such load.  vLLM has been told of the good one.
    """
    rig = warm()
    job = load_in_flight(rig)
    old, scheduler = rig.worker_links[0].present, rig.link.present
    assert old is not None
    assert scheduler is not None
    old.broken = True
    rig.attach_worker(0, rig.sidecar)
    rig.sidecar.prompt = False
    rig.engine.update()
    launch(rig)  # asks for the load in the next session; the sidecar has not read that yet
    rig.sidecar.workers[0], new = old, rig.sidecar.workers[0]
    rig.sidecar.run_copies()
    rig.sidecar.workers[0] = new
    new.outbox.append(JobDone(job, rig.sidecar.epoch, 0, 0, 0, KIND_LOAD, STATUS_VOID))
    rig.engine.update()
    assert rig.side.arrivals.told_ahead == 1
    rig.sidecar.prompt = True
    rig.sidecar.drain_control()
    rig.run()
    assert rig.side.loads.failed == 0
    rig.check_clean()


def test_good_word_stands_whatever_is_said_later() -> None:
    loads = OpenLoads(1.0, 1.0, 4, lambda: 0.0)
    session = FakeSidecar().open_worker(0, Worker(0, 8, 4))
    loads.started(
        StepJob(9, session.boot_epoch, "a", KIND_LOAD, blocks=array("I", [3, 4])), session, 0
    )
    loads.done(JobDone(9, session.boot_epoch, 0, 2, 0, KIND_LOAD, STATUS_OK))
    loads.done(JobDone(9, session.boot_epoch, 0, 0, 0, KIND_LOAD, STATUS_VOID))
    loads.advance()
    assert loads.take_received() == {"a"}
    assert not loads.take_failed_blocks()
