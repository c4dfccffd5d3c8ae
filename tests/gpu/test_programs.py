"""What of the GPU programs can be tested without a GPU and without vLLM."""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from harness.model import ATTENTION_LOGIT_STD, redraw_weights
from harness.records import typed_command
from harness.sidecar import Sidecar

from gpu import acceptance, connectors, report, stages, tasks
from gpu.engine import Engine, Served
from gpu.figures import bootstrap_interval, quantile
from gpu.session import Results
from gpu.shapes import SHAPES, kv_bytes_per_token, latent, write_config


class TestFigures:
    def test_quantile_edges_and_middle_are_values_themselves(self) -> None:
        values = [5.0, 1.0, 3.0]
        assert [quantile(values, share) for share in (0.0, 0.5, 0.67, 1.0)] == [1.0, 3.0, 5.0, 5.0]

    def test_interval_of_known_draws_holds_the_median_in_nine_of_ten_sets(self) -> None:
        rng = random.Random(3)
        held = 0
        for _ in range(60):
            values = [rng.gauss(10.0, 2.0) for _ in range(41)]
            low, high = bootstrap_interval(values)
            assert low <= statistics.median(values) <= high
            held += low <= 10.0 <= high
        assert held >= 54

    def test_interval_of_equal_values_is_that_value(self) -> None:
        assert bootstrap_interval([2.5] * 9) == (2.5, 2.5)


class TestShapes:
    def test_8b_kv_is128_kib_a_token(self) -> None:
        assert kv_bytes_per_token("8b") == 128 * 1024

    def test_mla_kv_is_one_vector_a_token_and_layer(self) -> None:
        assert kv_bytes_per_token("mla") == 27 * (512 + 64) * 2

    def test_config_of_latent_attention_has_no_experts(self) -> None:
        config = json.loads((write_config("mla") / "config.json").read_text())
        assert config["model_type"] == "deepseek_v2"
        assert config["first_k_dense_replace"] == config["num_hidden_layers"]


class LatentLayer(torch.nn.Module):
    """The parameters of one layer of vLLM's latent attention, and what it makes of them."""

    config = argparse.Namespace(
        num_attention_heads=4, num_key_value_heads=4, qk_nope_head_dim=8, v_head_dim=6
    )

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("q_proj", (4 * 8, 300)), ("kv_a_proj_with_mqa", (20, 300)),
                            ("kv_b_proj", (4 * 14, 200)), ("kv_a_layernorm", (20,))):  # fmt: skip
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
        self.W_UK_T = torch.zeros(4, 8, 200, dtype=torch.bfloat16)

    def process_weights_after_loading(self, dtype: torch.dtype) -> None:
        parts = self.kv_b_proj.data.view(4, 14, 200)
        self.W_UK_T.copy_(parts[:, :8].to(dtype))


class TestRedrawnWeights:
    def test_latent_attention_keys_values_and_what_is_made_of_them(self) -> None:
        model = LatentLayer()
        redraw_weights(model)
        parts = model.kv_b_proj.data.view(4, 14, 200)
        assert parts[:, :8].std() == pytest.approx(200**-0.5, rel=0.1)
        assert parts[:, 8:].std() == pytest.approx(2 * 200**-0.5, rel=0.1)
        assert model.q_proj.data.std() == pytest.approx(ATTENTION_LOGIT_STD * 300**-0.5, rel=0.1)
        assert bool((model.kv_a_layernorm == 1).all())
        assert torch.equal(model.W_UK_T, parts[:, :8].bfloat16())

    def test_every_rank_draws_the_latents_projection_alike_and_its_own_heads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        ranks = []
        for rank in (0, 1):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            ranks.append(LatentLayer())
            redraw_weights(ranks[-1])
        assert torch.equal(ranks[0].kv_a_proj_with_mqa, ranks[1].kv_a_proj_with_mqa)
        assert not torch.equal(ranks[0].kv_b_proj, ranks[1].kv_b_proj)


class TestConnectors:
    @pytest.mark.parametrize("mode", [mode for mode in connectors.MODES if mode != "none"])
    def test_kv_transfer_every_mode_saves_and_loads(self, mode: str) -> None:
        config = connectors.kv_transfer(mode, 8)
        assert config is not None
        assert config["kv_role"] == "kv_both"

    def test_kv_transfer_none_is_no_connector(self) -> None:
        assert connectors.kv_transfer("none", 8) is None

    def test_kv_transfer_native_gets_the_pool_in_bytes(self) -> None:
        config = connectors.kv_transfer("native", 1.5)
        assert config is not None
        assert config["kv_connector_extra_config"] == {"cpu_bytes_to_use": 1_500_000_000}

    def test_kv_transfer_traced_names_a_module_that_is_there(self) -> None:
        config = connectors.kv_transfer("flexkv", 8, traced=True)
        assert config is not None
        module = Path(__file__).parent / "traced.py"
        assert config["kv_connector_module_path"] == f"gpu.{module.stem}"
        assert f"class {config['kv_connector']}(" in module.read_text()


def arguments(**changed: Any) -> argparse.Namespace:
    values: dict[str, Any] = dict(
        seed=5, shape="8b", shortest=2048, longest=30000, prompts=0, outputs=0, kv_gib=10.0,
        cpu_cache_gb=0.0, kills=2, tensor_parallel=1, pipeline_parallel=1, kv_dtype="auto",
    )  # fmt: skip
    return argparse.Namespace(**{**values, **changed})


class TestAcceptancePlan:
    def test_lengths_cover_the_range_and_are32(self) -> None:
        lengths = acceptance.make_plan(arguments()).lengths
        assert len(lengths) == 32
        assert (min(lengths), max(lengths)) == (2048, 30000)
        # Log-uniform: about half of them below the geometric mean.
        assert 8 <= sum(n < (2048 * 30000) ** 0.5 for n in lengths) <= 24

    @pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
    @pytest.mark.parametrize("ranks", [1, 2, 4])
    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_tight_prompts_fit_but_their_answers_do_not(
        self, shape: str, ranks: int, kv_dtype: str
    ) -> None:
        plan = acceptance.make_plan(
            arguments(shape=shape, tensor_parallel=ranks, kv_dtype=kv_dtype)
        )
        value_bytes = 1 if kv_dtype == "fp8" else 4 if shape == "tiny" else 2
        heads = 1 if latent(shape) else SHAPES[shape]["num_key_value_heads"]
        shares = min(ranks, heads)  # no rank holds less than a head, and each all latents
        room = shares * plan.kv_bytes / kv_bytes_per_token(shape, value_bytes)
        assert plan.tight_count * plan.tight_tokens < room
        assert plan.tight_count * (plan.tight_tokens + plan.tight_outputs) > 1.02 * room

    def test_pool_holds_all_prompts(self) -> None:
        plan = acceptance.make_plan(arguments())
        assert sum(plan.lengths) * kv_bytes_per_token("8b") < plan.cpu_cache_gb * 1e9


class FakeEngine:
    """Answers every request with one token a prompt token of its length's last digit."""

    class llm:  # noqa: N801 (stands for an attribute)
        class model_config:  # noqa: N801
            @staticmethod
            def get_vocab_size() -> int:
                return 1000

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def together(self, prompts: Sequence[Sequence[int]], outputs: int) -> list[Served]:
        served = []
        for prompt in prompts:
            cached = max((len(s) for s in self.seen if tuple(prompt[: len(s)]) == s), default=0)
            served.append(Served(tokens=[1] * outputs, cached=cached))
        # What vLLM has of a talk afterwards: the prompt and all of the answer but its last token.
        self.seen += [(*prompt, *([1] * (outputs - 1))) for prompt in prompts]
        return served


class TestChat:
    def test_chat_of_the_gpu_program_is70_percent_cached_in_an_endless_cache(self) -> None:
        turns = tasks.chat(cast("Engine", FakeEngine()), 1, 4, 2048, 1024, 5, 64)
        assert turns.prompt_tokens == 4 * (2048 + 3072 + 4096 + 5120 + 6144)
        assert turns.cached_tokens / turns.prompt_tokens == pytest.approx(0.70, abs=0.02)
        assert turns.output_tokens == 4 * 5 * 64


class StatusOnly:
    """A sidecar that can only say what its movers did."""

    def __init__(self, last_job: Mapping[str, int]) -> None:
        self.last_job = last_job

    def status(self) -> dict[str, Any]:
        return {"instances": [{"ranks": [{"load": {"last_job": self.last_job}}]}]}


def traced_row(**changed: int) -> str:
    ms = 1_000_000
    row = dict(new=2 * ms, asked=2 * ms, answered=3 * ms, planned=4 * ms, go=5 * ms,
               done_seen=30 * ms, resumed=31 * ms, scheduled=32 * ms)  # fmt: skip
    hooks = {"get_finished": 500_000, "on_new_request": 200_000}
    return json.dumps({"request": "r1", **row, **changed, "hooks_ns": hooks}) + "\n"


class TestStages:
    LAST_JOB: Mapping[str, int] = dict(
        job_id=7, arrived_ns=6_000_000, fence_reached_ns=7_000_000, first_slice_ns=8_000_000,
        last_slice_ns=20_000_000, ended_ns=28_000_000,
    )  # fmt: skip

    def traced(self, folder: Path, line: str) -> Results:
        file = folder / "stages.jsonl"
        tracer = stages.Tracer(file, cast("Sidecar", StatusOnly(self.LAST_JOB)))
        tracer.begin()
        file.write_text(line)
        served = Served(tokens=[1, 2], ttft_s=0.040)
        tracer.collect(tasks.Timed(1_000_000, served))
        results = Results(folder, "t", 100)
        tracer.report(results, "8192 tokens", 19.5)
        return results

    def test_spans_of_one_load_add_up_to_its_time_to_first_token(self, tmp_path: Path) -> None:
        records = self.traced(tmp_path, traced_row()).records.all
        assert len(records) == len(stages.SPANS) + 1
        assert sum(float(record.value) for record in records[:-1]) == pytest.approx(40.0)
        assert records[-1].value == 0.7
        copies = next(r for r in records if r.name.endswith(": copies"))
        assert (copies.value, copies.limit) == (20.0, 19.5)

    def test_sidecar_stages_of_another_load_are_left_out(self, tmp_path: Path) -> None:
        assert self.traced(tmp_path, traced_row(planned=6_500_000)).records.all == []

    def test_row_without_load_is_left_out(self, tmp_path: Path) -> None:
        assert self.traced(tmp_path, '{"request": "r1", "new": 5}\n').records.all == []


class TestResults:
    def test_every_record_is_on_disk_at_once(self, tmp_path: Path) -> None:
        results = Results(tmp_path, "t", 100)
        results.add("a", 1.0, "ms", bar=2.0, met=True)
        results.row(part="x", ms=3)
        assert [row["name"] for row in json.loads((tmp_path / "t.json").read_text())] == ["a"]
        assert json.loads((tmp_path / "t-raw.jsonl").read_text()) == {"part": "x", "ms": 3}

    def test_time_is_up_says_which_step_was_not_run(self, tmp_path: Path) -> None:
        results = Results(tmp_path, "t", 0.0)
        assert not results.time_left("chat")
        assert "chat" in results.records.all[0].name


class TestReport:
    def test_page_of_the_committed_records_is_the_committed_page(self) -> None:
        committed = (report.FOLDER / "README.md").read_text()
        assert report.page() == committed

    def test_every_missed_bar_is_on_the_page_by_its_name(self) -> None:
        records = report.read()
        lines = report.missed_lines(records)
        unnamed = [
            (file, row["name"])
            for file, row in report.missed(records)
            if sum(line.startswith(f"| {file} | {row['name']} |") for line in lines) != 1
        ]
        assert unnamed == []

    def test_missed_bar_of_a_ratio_says_so(self) -> None:
        row = {"name": "n", "value": 4.0, "unit": "GB/s", "ratio": 0.5, "bar": 0.96}
        assert report.missed_line("f", row) == "| f | n | 4 GB/s | 0.5 | ratio 0.96 |"
        row = {"name": "n", "value": 24.6, "unit": "ms", "ratio": 1.263, "bar": 23.42}
        assert report.missed_line("f", row) == "| f | n | 24.6 ms | 1.263 | 23.42 |"

    def test_missed_bar_without_a_reason_does_not_pass(self) -> None:
        without = [
            (file, row["name"])
            for file, row in report.missed(report.read())
            if not report.reason(file, row["name"])
        ]
        assert without == []

    def test_records_name_no_place_of_the_machine(self) -> None:
        """Nor any other absolute path: one follows no letter or digit, as what is divided does."""
        texts = [path.read_text() for path in report.FOLDER.rglob("*.json")]
        absolute = re.compile(r"(?<!\w)/[\w.-]+/")
        assert [path for text in texts for path in absolute.findall(text)] == []

    def test_command_of_a_program_is_relative_to_the_checkout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.executable", "/usr/bin/python3")
        monkeypatch.setattr("sys.argv", [str(Path(__file__).resolve()), "--dir", "a b"])
        assert typed_command() == "python3 tests/gpu/test_programs.py --dir 'a b'"

    def test_every_record_file_is_on_the_page(self) -> None:
        assert {path.stem for path in report.FOLDER.glob("*.json")} == set(report.read())
