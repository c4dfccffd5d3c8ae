"""KV events: one store and one remove a residency, whatever the sidecar and the engine do."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from mini_vllm import block_hash
from rig import BLOCK, Clock, Rig, prompt
from router import Router, TupleEvents

from flexkv import events as e
from flexkv import protocol as p
from flexkv.requests import RequestState


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def tokens(*numbers: int) -> bytes:
    return struct.pack(
        f"<{BLOCK * len(numbers)}I", *(n * 10 + i for n in numbers for i in range(BLOCK))
    )


def stored(*numbers: int, parent: int | None = None, tier: int = p.TIER_HOST) -> p.KvNotice:
    hashes = b"".join(map(key, numbers))
    above = b"" if parent is None else key(parent)
    return p.KvNotice(p.NOTICE_STORED, tier, 0, 32, hashes, above, tokens(*numbers))


def evicted(*numbers: int, tier: int = p.TIER_HOST) -> p.KvNotice:
    hashes = b"".join(n.to_bytes(16, "big") for n in numbers)
    return p.KvNotice(p.NOTICE_EVICTED, tier, 0, 16, hashes)


def plain(kind: int) -> p.KvNotice:
    return p.KvNotice(kind, 0, 0, 16, b"")


BEGIN, END, CLEARED = plain(p.NOTICE_LIST_BEGIN), plain(p.NOTICE_LIST_END), plain(p.NOTICE_CLEARED)


@pytest.fixture
def feed() -> e.EventFeed:
    return e.EventFeed(BLOCK, TupleEvents(), Clock())


def hear(feed: e.EventFeed, *notices: p.KvNotice) -> list[Any]:
    for notice in notices:
        feed.heard(notice)
    events: list[Any] = []
    while feed.waiting:
        events += feed.take()
    return events


# ---------------------------------------------------------------------- the feed alone
def test_stored_chain_one_event_a_block_each_the_next_ones_parent(feed: e.EventFeed) -> None:
    assert hear(feed, stored(5, 6, parent=4)) == [
        ("stored", p.TIER_HOST, 5, 4, (50, 51, 52, 53), b""),
        ("stored", p.TIER_HOST, 6, 5, (60, 61, 62, 63), b""),
    ]


def test_whole_hashes_where_the_engine_uses_them() -> None:
    feed = e.EventFeed(BLOCK, TupleEvents(whole_hashes=True), Clock())
    assert hear(feed, stored(5, parent=4), evicted(5)) == [
        ("stored", p.TIER_HOST, key(5), key(4), (50, 51, 52, 53), b""),
        ("removed", p.TIER_HOST, key(5)),
    ]


def test_twice_stored_once_announced_and_once_removed(feed: e.EventFeed) -> None:
    events = hear(feed, stored(1), stored(1), evicted(1), evicted(1))
    assert [event[0] for event in events] == ["stored", "removed"]


def test_tiers_of_a_block_come_and_go_by_themselves(feed: e.EventFeed) -> None:
    events = hear(feed, stored(1), stored(1, tier=p.TIER_SSD), evicted(1))
    assert [event[:3] for event in events] == [
        ("stored", p.TIER_HOST, 1), ("stored", p.TIER_SSD, 1), ("removed", p.TIER_HOST, 1),
    ]  # fmt: skip


def test_listing_takes_back_what_it_does_not_name(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2, 3))
    events = hear(feed, BEGIN, stored(1, 2), stored(9), END)
    assert [event[:3] for event in events] == [
        ("stored", p.TIER_HOST, 9), ("removed", p.TIER_HOST, 3),
    ]  # fmt: skip


def test_listing_begun_again_before_its_end_keeps_what_either_knew(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2, 3))
    events = hear(feed, BEGIN, stored(1), BEGIN, stored(1, 2), END)
    assert [event[:3] for event in events] == [("removed", p.TIER_HOST, 3)]


def test_evicted_during_a_listing_is_removed_once(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2, 3))
    events = hear(feed, BEGIN, stored(1, 2), evicted(2), evicted(3), END)
    assert [event[:3] for event in events] == [
        ("removed", p.TIER_HOST, 2), ("removed", p.TIER_HOST, 3),
    ]  # fmt: skip


def test_cleared_takes_all_back_children_first(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2, 3))
    assert [event[2] for event in hear(feed, CLEARED, stored(1))] == [3, 2, 1, 1]


def test_lost_sidecar_takes_all_back_and_drops_what_had_come(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2))
    feed.heard(stored(3))
    feed.lost()
    feed.lost()
    assert [event[:3] for event in hear(feed)] == [
        ("removed", p.TIER_HOST, 2), ("removed", p.TIER_HOST, 1),
    ]  # fmt: skip


def test_forgotten_announces_anew_without_removes(feed: e.EventFeed) -> None:
    hear(feed, stored(1, 2))
    feed.forgotten()
    session = Session()
    feed.tell(session.send)
    assert session.sent == [p.NoticesTaken(1, p.NOTICES_ANEW)]
    assert [event[:3] for event in hear(feed, BEGIN, stored(1, 2), END)] == [
        ("stored", p.TIER_HOST, 1), ("stored", p.TIER_HOST, 2),
    ]  # fmt: skip


class Session:
    def __init__(self) -> None:
        self.sent: list[p.Record] = []

    def send(self, *records: p.Record) -> bool:
        self.sent += records
        return True


def test_step_makes_no_more_events_than_its_share(feed: e.EventFeed) -> None:
    for number in range(2000):
        feed.heard(stored(number))
    assert len(feed.take()) == e.EVENTS_A_STEP
    feed.lost()
    assert len(feed.take()) == e.EVENTS_A_STEP


def test_taken_is_told_in_time_for_the_window(feed: e.EventFeed) -> None:
    session = Session()
    for number in range(20):
        feed.heard(stored(number))
    feed.take()
    feed.tell(session.send)
    feed.tell(session.send)
    assert session.sent == [p.NoticesTaken(20)]


def test_idle_engine_is_kept_awake_a_second_for_what_does_not_come() -> None:
    clock = Clock()
    feed = e.EventFeed(BLOCK, TupleEvents(), clock)
    assert not feed.keeps_engine_awake()
    feed.planned(1)
    assert feed.keeps_engine_awake()
    clock.now += 1.5
    assert not feed.keeps_engine_awake()
    feed.heard(stored(1, 2))
    feed.save_done()
    assert feed.keeps_engine_awake()
    feed.take()
    assert not feed.keeps_engine_awake()


def test_idle_engine_is_kept_awake_for_what_the_window_held_back() -> None:
    clock = Clock()
    feed = e.EventFeed(BLOCK, TupleEvents(), clock)
    for number in range(32):
        feed.heard(stored(number))
    feed.take()
    feed.tell(Session().send)
    assert feed.keeps_engine_awake()
    clock.now += 2 * e.MORE_S
    assert not feed.keeps_engine_awake()


def test_facts_bring_parent_tokens_and_extra_keys(feed: e.EventFeed) -> None:
    request = SimpleNamespace(
        block_hashes=[key(n) for n in range(6)],
        all_token_ids=list(range(100, 130)),
        extra=[b"a", b"b", b"", b"d", b"e", b"f"],
    )
    state = RequestState(7, "r", request)
    (record,) = feed.facts(state, 2, 4)
    assert (record.request_id, record.first_index) == (7, 1)
    assert record.hashes == key(1) + key(2) + key(3)
    assert record.tokens == struct.pack("<8I", *range(108, 116))
    assert record.extra_keys == b"\0\0\0\0\1\0\0\0d"
    assert p.decode_record(record.encode()) == record


def test_facts_that_the_engine_does_not_say_are_counted(feed: e.EventFeed) -> None:
    request = SimpleNamespace(block_hashes=[key(1)], all_token_ids=[-1] * 4)
    assert feed.facts(RequestState(7, "r", request), 0, 1) == []
    assert feed.untold == 1


@pytest.mark.parametrize("seed", range(20))
def test_random_notices_and_lives_leave_what_is_there(seed: int) -> None:
    """A sidecar that stores, evicts, clears, lists and dies at random, against a strict router."""
    rng = random.Random(seed)
    feed = e.EventFeed(BLOCK, TupleEvents(), Clock())
    router = Router()
    depth = {p.TIER_HOST: 0, p.TIER_SSD: 0}
    for _ in range(600):
        tier = rng.choice((p.TIER_HOST, p.TIER_SSD))
        match rng.randrange(8):
            case 0 | 1 | 2:
                more = range(depth[tier], depth[tier] + rng.randrange(1, 9))
                parent = more[0] - 1 if more[0] else None
                feed.heard(stored(*more, parent=parent, tier=tier))
                depth[tier] = more[-1] + 1
            case 3 | 4 if depth[tier]:
                less = range(rng.randrange(depth[tier]), depth[tier])
                feed.heard(evicted(*reversed(less), tier=tier))
                depth[tier] = less[0]
            case 5 if rng.random() < 0.1:
                feed.heard(CLEARED)
                depth = dict.fromkeys(depth, 0)
            case 6 if rng.random() < 0.3:
                feed.heard(BEGIN)
                for place, blocks in depth.items():
                    if blocks:
                        feed.heard(stored(*range(blocks), tier=place))
                if rng.random() < 0.7:
                    feed.heard(END)
            case 7 if rng.random() < 0.2:
                feed.attached()
                depth = dict.fromkeys(depth, 0)
            case _:
                router.apply(feed.take())
    while feed.waiting:
        router.apply(feed.take())
    # An open listing may still hold what was announced before it.
    router.apply(
        hear(feed, BEGIN, *(stored(*range(n), tier=t) for t, n in depth.items() if n), END)
    )
    assert {tier: set(blocks) for tier, blocks in router.tiers.items()} == {
        tier: set(range(blocks)) for tier, blocks in depth.items()
    }


# ---------------------------------------------------------------------- the whole scheduler side
def resident(rig: Rig) -> set[int]:
    return {
        int.from_bytes(hashed[-8:], "big")
        for generation, hashed in rig.sidecar.cache
        if generation == rig.sidecar.generation
    }


def test_served_request_is_announced_with_its_tokens() -> None:
    rig = Rig(events=TupleEvents())
    tokens_ = prompt(18)
    rig.serve("a", tokens_)
    router = Router().apply(rig.engine.events)
    assert len(router.host) == 4
    assert router.host == resident(rig)
    block = int.from_bytes(block_hash(tokens_, 8)[-8:], "big")
    parent = int.from_bytes(block_hash(tokens_, 4)[-8:], "big")
    event = router.tiers[p.TIER_HOST][block]
    assert event == ("stored", p.TIER_HOST, block, parent, tuple(tokens_[4:8]), b"")


def test_nothing_is_announced_before_its_copy_has_ended() -> None:
    rig = Rig(events=TupleEvents())
    rig.add("a", prompt(18), 2)
    rig.steps(6, copies=False)
    assert rig.engine.events == []
    rig.sidecar.run_copies()
    rig.run()
    assert len(Router().apply(rig.engine.events).host) == 4


def test_second_request_of_the_same_prefix_announces_only_what_is_new() -> None:
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    rig.drop_engine_cache()
    rig.serve("b", [*prompt(16), *prompt(12, seed=5)])
    assert Router().apply(rig.engine.events).host == resident(rig)


def test_evicted_block_is_removed_at_the_next_step() -> None:
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    rig.sidecar.evict(2)
    rig.serve("b", prompt(6, seed=3))
    assert Router().apply(rig.engine.events).host == resident(rig)


def test_engine_that_forgets_its_cache_announces_ours_anew() -> None:
    """vLLM's ``AllBlocksCleared`` makes routers forget all tiers; ours still has the blocks."""
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    rig.drop_engine_cache()
    rig.run()  # nothing but the events keeps it awake
    router = Router().apply(rig.engine.events)
    assert len(router.host) == 4
    assert router.host == resident(rig)


def test_reset_of_both_leaves_nothing() -> None:
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    assert rig.engine.reset(connector=True)
    rig.run()
    rig.serve("b", prompt(6, seed=3))
    assert Router().apply(rig.engine.events).host == resident(rig)


def test_dead_sidecar_is_taken_back_and_the_next_one_listed() -> None:
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    rig.sidecar.kill()
    rig.serve("b", prompt(6, seed=3))
    assert Router().apply(rig.engine.events).host == set()
    assert not rig.hooks.has_pending_push_work()
    rig.restart()
    rig.sidecar.list_all()
    rig.serve("c", prompt(10, seed=4))
    assert Router().apply(rig.engine.events).host == resident(rig) != set()


def test_failed_scheduler_side_takes_back_what_it_announced() -> None:
    rig = Rig(events=TupleEvents())
    rig.serve("a", prompt(18))
    rig.side.get_num_new_matched_tokens = None  # type: ignore[assignment,method-assign]
    rig.serve("b", prompt(6, seed=3))
    assert rig.hooks.guard.tripped
    assert Router().apply(rig.engine.events).host == set()


def test_without_events_no_tokens_leave_and_no_hook_does_anything() -> None:
    rig = Rig()
    rig.serve("a", prompt(18))
    assert rig.sidecar.facts == {}
    assert rig.engine.events == []
    assert not rig.hooks.has_pending_push_work()
    rig.check_clean()


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_router_ends_with_what_is_resident(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(events=TupleEvents(), blocks=40)
    router = Router()
    for number in range(60):
        rig.add(f"r{number}", prompt(rng.randrange(4, 30), seed=rng.randrange(6)), 3)
        rig.steps(rng.randrange(4), copies=rng.random() < 0.8)
        match rng.randrange(12):
            case 0:
                rig.sidecar.evict(rng.randrange(3))
            case 1:
                rig.run()
                rig.engine.reset(connector=rng.random() < 0.5)
            case 2:
                rig.restart()
                rig.sidecar.list_all()
            case _:
                pass
        router.apply(rig.engine.events)
        rig.engine.events.clear()
    rig.run()
    rig.serve("last", prompt(6, seed=9))
    router.apply(rig.engine.events)
    assert router.host == resident(rig) != set()
    rig.check_clean()
