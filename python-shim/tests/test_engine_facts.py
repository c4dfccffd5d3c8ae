"""What is read of vLLM's configuration, and which engines are served nothing."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from memory_sidecar import FakeGenerations, FakeLink

from flexkv import wiring
from flexkv.engine import (
    adopt_failure_policy,
    hidden_blocks,
    page_sizes,
    read_facts,
    wrappers_kv_cache_config,
)
from flexkv.protocol import ROLE_SCHEDULER, ROLE_WORKER


class FullAttentionSpec:
    page_size_bytes = 4096
    real_page_size_bytes = 4000


class MambaSpec:
    page_size_bytes = 10


class SlidingWindowSpec:
    page_size_bytes = 4096


class UniformTypeKVCacheSpecs:
    def __init__(self, **specs: Any) -> None:
        self.kv_cache_specs = specs


def config(**more: Any) -> Any:
    parts = {
        "parallel_config": SimpleNamespace(world_size=2, rank=1, data_parallel_rank=3),
        "cache_config": SimpleNamespace(block_size=16, num_gpu_blocks=50),
        "model_config": SimpleNamespace(),
        "kv_transfer_config": SimpleNamespace(
            engine_id="e", is_kv_producer=True, is_kv_consumer=True, kv_load_failure_policy="fail"
        ),
    }
    for name, value in more.items():
        section, _, attribute = name.partition("__")
        setattr(parts[section], attribute, value)
    return SimpleNamespace(**parts)


def caches(*specs: Any, blocks: int = 100, **more: Any) -> Any:
    groups = [SimpleNamespace(kv_cache_spec=s, layer_names=["a", "b"]) for s in specs]
    return SimpleNamespace(kv_cache_groups=groups, num_blocks=blocks, **more)


def refused(kv_cache_config: Any = None, **more: Any) -> str:
    if kv_cache_config is None:
        kv_cache_config = caches(FullAttentionSpec())
    return read_facts(
        config(**more), scheduler=True, kv_cache_config=kv_cache_config, facade=False
    ).refused


def test_parts_that_differ_are_counted() -> None:
    def parts(**more: Any) -> int:
        facts = read_facts(
            config(parallel_config__world_size=8, parallel_config__tensor_parallel_size=4, **more),
            scheduler=True, kv_cache_config=caches(FullAttentionSpec()), facade=False,
        )  # fmt: skip
        return facts.distinct_parts

    assert parts() == 8
    assert parts(model_config__use_mla=True) == 2


class MLAAttentionSpec(FullAttentionSpec):
    pass


@pytest.mark.parametrize(
    ("specs", "tensor", "world", "same"),
    [
        ([MLAAttentionSpec()], 4, 4, True),
        ([MLAAttentionSpec()], 1, 1, False),  # nobody to share with
        ([MLAAttentionSpec()], 2, 4, False),  # pipeline ranks have layers of their own
        ([FullAttentionSpec()], 4, 4, False),  # be its heads fewer than its ranks
        (
            [UniformTypeKVCacheSpecs(a=MLAAttentionSpec(), b=FullAttentionSpec())],
            4,
            4,
            False,
        ),
    ],
)
def test_same_on_all_ranks_latent_attention_with_tensor_parallelism_alone(
    specs: list[Any], tensor: int, world: int, same: bool
) -> None:
    facts = read_facts(
        config(parallel_config__world_size=world, parallel_config__tensor_parallel_size=tensor),
        scheduler=False,
        kv_cache_config=caches(*specs),
        facade=False,
    )
    assert facts.same_on_all_ranks is same


def test_same_on_all_ranks_without_specifications_is_not_known() -> None:
    facts = read_facts(
        config(parallel_config__tensor_parallel_size=2, model_config__use_mla=True),
        scheduler=False,
        kv_cache_config=None,
        facade=True,
    )
    assert not facts.same_on_all_ranks


def test_facts_of_both_roles() -> None:
    worker = read_facts(
        config(), scheduler=False, kv_cache_config=caches(FullAttentionSpec()), facade=False
    )
    assert (worker.role, worker.rank, worker.world_size) == (ROLE_WORKER, 1, 2)
    assert (worker.instance, worker.block_tokens, worker.num_blocks) == ("e/3", 16, 100)
    assert worker.refused == ""
    assert not worker.lockstep
    scheduler = read_facts(config(), scheduler=True, kv_cache_config=None, facade=True)
    assert (scheduler.role, scheduler.rank, scheduler.num_blocks) == (ROLE_SCHEDULER, 0, 50)
    assert "does not reach" in scheduler.notes[0]


def test_data_parallel_engines_step_together() -> None:
    several = config(parallel_config__data_parallel_size=2)
    assert read_facts(several, scheduler=True, kv_cache_config=None, facade=False).lockstep


@pytest.mark.parametrize(
    ("speculative", "expected"),
    [
        (None, False),
        (SimpleNamespace(use_eagle=lambda: True), True),
        (SimpleNamespace(use_eagle=lambda: False), False),  # n-grams, a draft model of its own
        (SimpleNamespace(use_eagle=lambda: True, use_eagle_block_drop=lambda: False), False),
        (SimpleNamespace(use_eagle=lambda: True, use_eagle_block_drop=lambda: True), True),
    ],
)
def test_drafter_that_reads_ahead_is_one_for_which_vllm_drops_a_block(
    speculative: Any, expected: bool
) -> None:
    drafting = config()
    drafting.speculative_config = speculative
    facts = read_facts(
        drafting, scheduler=True, kv_cache_config=caches(FullAttentionSpec()), facade=False
    )
    assert facts.reads_ahead is expected


def facts_of_the_side(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the scheduler's side is told of an engine, over everything that lies between."""
    monkeypatch.setattr(wiring, "Link", lambda *_, **__: FakeLink(FakeGenerations(100)))
    monkeypatch.setattr(wiring, "prepare_scheduler", lambda *_: "a namespace")
    monkeypatch.setattr(wiring, "exact_sleeps", lambda: True)  # it would last for all tests
    side = wiring.scheduler_hooks(engine, caches(FullAttentionSpec())).side
    assert side is not None
    return side._facts


@pytest.mark.parametrize("reads_ahead", [True, False])
def test_scheduler_side_is_told_of_a_drafter_that_reads_ahead(
    reads_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafting = config(kv_transfer_config__kv_connector_extra_config={})
    drafting.speculative_config = SimpleNamespace(use_eagle=lambda: reads_ahead)
    assert facts_of_the_side(drafting, monkeypatch).reads_ahead is reads_ahead


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_scheduler_side_is_told_whether_vllm_preempts_by_priority(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = config(kv_transfer_config__kv_connector_extra_config={})
    engine.scheduler_config = SimpleNamespace(policy=policy)
    assert facts_of_the_side(engine, monkeypatch).by_priority is (policy == "priority")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"cache_config__calculate_kv_scales": True}, "calculate_kv_scales"),
        ({"cache_config__enable_prefix_caching": False}, "prefix caching is off"),
        ({"model_config__is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_config__is_diffusion": True}, "diffusion"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode_context_parallel_size"),
        ({"cache_config__prefix_match_unit": 4}, "prefix_match_unit 4"),
        ({"cache_config__block_size": None}, "nothing to serve"),
    ],
)
def test_engines_that_are_served_nothing(setting: dict[str, Any], says: str) -> None:
    assert says in refused(**setting)


@pytest.mark.parametrize("option", ["enable_sleep_mode", "enable_cumem_allocator"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_engine_on_a_gpu_with_its_own_allocator_is_served_nothing(option: str, device: str) -> None:
    engine = config(**{f"model_config__{option}": True})
    engine.device_config = SimpleNamespace(device_type=device)
    why = read_facts(
        engine, scheduler=True, kv_cache_config=caches(FullAttentionSpec()), facade=False
    ).refused
    assert ("Remedy: start vLLM without --enable-sleep-mode" in why) == (device == "cuda")


def test_several_groups_and_other_kinds_of_cache_are_served_nothing() -> None:
    assert "2 KV cache groups" in refused(caches(FullAttentionSpec(), FullAttentionSpec()))
    assert "MambaSpec" in refused(caches(MambaSpec()))
    mixed = UniformTypeKVCacheSpecs(a=FullAttentionSpec(), b=MambaSpec())
    assert "MambaSpec" in refused(caches(mixed))
    assert refused(caches(UniformTypeKVCacheSpecs(a=FullAttentionSpec()))) == ""
    assert "differs" in refused(caches(FullAttentionSpec(), hash_block_size=8))


class Wrapper:
    """Keeps what vLLM gives it and makes ours without, as vLLM's own class of our name does."""

    def __init__(self, kv_cache_config: Any, *, facade: bool = True) -> None:
        self._kv_cache_config = kv_cache_config
        self.facts = Wrapped(facade).facts


class Wrapped:
    def __init__(self, facade: bool) -> None:
        self.facts = read_facts(
            config(),
            scheduler=True,
            kv_cache_config=wrappers_kv_cache_config(),
            facade=facade,
        )


def test_wrapped_connector_is_held_to_the_kinds_of_cache_that_its_wrapper_was_told() -> None:
    """A sliding window frees blocks of a running request, which no hook shows."""
    assert "SlidingWindowSpec" in Wrapper(caches(SlidingWindowSpec())).facts.refused
    served = Wrapper(caches(FullAttentionSpec(), blocks=77)).facts
    assert (served.refused, served.num_blocks) == ("", 77)


def test_engine_whose_kinds_of_cache_are_not_told_is_served_nothing() -> None:
    for facts in (Wrapper(None).facts, Wrapped(facade=True).facts):
        assert "does not tell what kinds of KV cache" in facts.refused
        assert "Remedy: kv_connector_module_path=flexkv.connector" in facts.refused


def test_page_sizes_padded_and_not() -> None:
    assert page_sizes(caches(FullAttentionSpec())) == {"a": (4096, 4000), "b": (4096, 4000)}
    mixed = UniformTypeKVCacheSpecs(a=FullAttentionSpec())
    assert page_sizes(caches(mixed)) == {"a": (4096, 4000)}
    assert page_sizes(None) == {}


def test_failure_policy_becomes_recompute_unless_the_user_wants_fail() -> None:
    vllm_config = config()
    assert adopt_failure_policy(vllm_config, "recompute") == ""
    assert vllm_config.kv_transfer_config.kv_load_failure_policy == "recompute"
    assert adopt_failure_policy(vllm_config, "fail") == ""
    assert vllm_config.kv_transfer_config.kv_load_failure_policy == "fail"


class MultiConnector:
    """Hands its children a copy of the configuration, as vLLM's does."""

    def __init__(self, vllm_config: Any, wanted: str) -> None:
        child = copy.copy(vllm_config)
        child.kv_transfer_config = copy.copy(vllm_config.kv_transfer_config)
        self.answer = self._child(child, wanted)

    @staticmethod
    def _child(child: Any, wanted: str) -> str:
        return adopt_failure_policy(child, wanted)

    def update_state_after_alloc(self, request: Any, blocks: Any, external: int) -> None:
        """From 0.26 on every child is shown the blocks."""


def test_multi_connector_that_hides_blocks_is_served_nothing() -> None:
    made: list[str] = []

    class Recent(MultiConnector):
        @staticmethod
        def _child(child: Any, wanted: str) -> str:
            made.append(hidden_blocks())
            return ""

    class Older(Recent):
        def update_state_after_alloc(self, request: Any, blocks: Any, external: int) -> None:
            blocks.new_empty()  # what the children are shown that do not load

    Recent.__name__ = Older.__name__ = "MultiConnector"
    Recent(config(), "recompute")
    Older(config(), "recompute")
    assert made[0] == ""
    assert "shows a request's blocks only to the connector that loads it" in made[1]
    assert "Remedy: vLLM 0.26" in made[1]
    assert hidden_blocks() == "", "nobody is making us"


def test_under_multi_connector_the_outer_policy_decides() -> None:
    outer = config()
    assert "outer" in MultiConnector(outer, "recompute").answer
    assert MultiConnector(outer, "fail").answer == ""
    outer.kv_transfer_config.kv_load_failure_policy = "recompute"
    assert MultiConnector(outer, "recompute").answer == ""
