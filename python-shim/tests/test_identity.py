"""Model identity and namespace: what must change the digest, and what must not."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flexkv import hashseed
from flexkv.config import Settings
from flexkv.errors import ConfigError
from flexkv.identity import identity, plain

SETTINGS = Settings()


def config(folder: str | Path = "/none", **changes: Any) -> Any:
    model = SimpleNamespace(
        model=str(folder), model_weights="", revision=None, seed=0, hf_config=SimpleNamespace(),
        dtype="torch.bfloat16", quantization=None, hf_overrides={}, hf_config_path=None,
        max_model_len=4096, original_max_model_len=4096,
        code_revision=None, disable_sliding_window=False, model_impl="auto",
    )  # fmt: skip
    return SimpleNamespace(
        model_config=model,
        load_config=SimpleNamespace(load_format="auto", model_loader_extra_config={}),
        cache_config=SimpleNamespace(
            block_size=16, cache_dtype="auto", prefix_caching_hash_algo="sha256",
            sliding_window=None, num_gpu_blocks=100,
        ),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=2, pipeline_parallel_size=1, decode_context_parallel_size=1,
            rank=0, data_parallel_rank=0,
        ),
        speculative_config=None,
        lora_config=None,
        device_config=SimpleNamespace(device_type="cpu"),
        kv_transfer_config=SimpleNamespace(engine_id="e", kv_port=1),
        instance_id="1764198252123456789",
    )  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(hashseed.SEED_ENV, raising=False)
    monkeypatch.setattr(hashseed, "_vllm_default", lambda: None)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"12345")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text('{"hidden_size": 256}')
    return config(folder)


def digest(model: Any, settings: Settings = SETTINGS) -> str:
    return identity(model, settings).digest


def set_in(path: str, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        *parents, name = path.split(".")
        target = model
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return change


def rewrite_weights(model: Any) -> None:
    path = Path(model.model_config.model, "a.safetensors")
    info = path.stat()
    path.write_bytes(b"54321")  # the same size; a second later, as file systems may count
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 1_000_000_000))


def rewrite_config(model: Any) -> None:
    path = Path(model.model_config.model, "config.json")
    info = path.stat()
    path.write_text('{"hidden_size": 512}')
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def add_weights(model: Any) -> None:
    Path(model.model_config.model, "sub").mkdir()
    Path(model.model_config.model, "sub", "b.safetensors").write_bytes(b"")


DRAFT = SimpleNamespace(
    method="eagle", num_speculative_tokens=2, draft_model_config=config("/draft").model_config
)


@pytest.mark.parametrize(
    "change",
    [
        rewrite_weights,
        add_weights,
        rewrite_config,
        set_in("model_config.hf_overrides", {"rope_scaling": {"factor": 8.0}}),
        set_in("model_config.hf_overrides", digest),
        set_in("model_config.dtype", "torch.float16"),
        set_in("model_config.quantization", "fp8"),
        set_in("model_config.original_max_model_len", 8192),
        set_in("load_config.load_format", "dummy"),
        set_in("cache_config.cache_dtype", "fp8"),
        set_in("cache_config.prefix_caching_hash_algo", "sha256_cbor"),
        set_in("cache_config.prefix_caching_hash_algo", "xxhash"),
        set_in("parallel_config.tensor_parallel_size", 4),
        set_in("parallel_config.pipeline_parallel_size", 2),
        set_in("parallel_config.decode_context_parallel_size", 2),
        set_in("speculative_config", DRAFT),
        set_in("lora_config", SimpleNamespace(max_lora_rank=8, default_mm_loras=None)),
        set_in("device_config.device_type", "cuda"),
    ],
)
def test_what_the_bytes_depend_on_changes_the_digest(
    model: Any, change: Callable[[Any], None]
) -> None:
    before = digest(model)
    change(model)
    assert digest(model) != before


@pytest.mark.parametrize(
    "change",
    [
        set_in("model_config.hf_config", SimpleNamespace(changed_by="a worker that loaded it")),
        set_in("model_config.max_model_len", 100),  # fitted to memory, in the scheduler only
        set_in("model_config.seed", 7),
        set_in("kv_transfer_config.engine_id", "another"),
        set_in("instance_id", "1764198252123456790"),
        set_in("kv_transfer_config.kv_port", 2),
        set_in("parallel_config.rank", 1),
        set_in("parallel_config.data_parallel_rank", 1),
        set_in("cache_config.num_gpu_blocks", 5),
        set_in("cache_config.block_size", 64),
    ],
)
def test_what_they_do_not_depend_on_does_not(model: Any, change: Callable[[Any], None]) -> None:
    before = digest(model)
    change(model)
    assert digest(model) == before


def test_tokenizer_files_do_not_count(model: Any) -> None:
    before = digest(model)
    Path(model.model_config.model, "tokenizer.json").write_text("{ }")
    assert digest(model) == before


def test_moved_folder_is_the_same_model(model: Any, tmp_path: Path) -> None:
    before = digest(model)
    Path(model.model_config.model).rename(tmp_path / "moved")
    model.model_config.model = str(tmp_path / "moved")
    assert digest(model) == before


def test_dummy_weights_are_named_by_their_seed(model: Any) -> None:
    model.load_config.load_format = "dummy"
    before = digest(model)
    rewrite_weights(model)
    assert digest(model) == before
    model.model_config.seed = 1
    other_seed = digest(model)
    assert other_seed != before
    rewrite_config(model)
    assert digest(model) != other_seed


def test_weights_version_of_the_user(model: Any) -> None:
    assert digest(model) != digest(model, Settings(weights_version="2"))


def test_draft_model_counts(model: Any, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "d.safetensors").write_bytes(b"1")
    speculative = copy.copy(DRAFT)
    speculative.draft_model_config = config(draft).model_config
    model.speculative_config = speculative
    before = digest(model)
    (draft / "d.safetensors").write_bytes(b"22")
    assert digest(model) != before


COMMIT_A, COMMIT_B = "a" * 40, "b" * 40


def test_hub_model_by_commit(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model.model_config.model = "org/name"
    found = identity(model, SETTINGS)
    assert found.description["model"]["source"]["kind"] == "unknown"
    assert "flexkv_weights_version" in found.notes[0]

    model.model_config.hf_config._commit_hash = COMMIT_A
    by_config = identity(model, SETTINGS)
    assert by_config.notes == ()
    del model.model_config.hf_config._commit_hash

    ref = tmp_path / "models--org--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(COMMIT_A)
    assert digest(model) == by_config.digest
    ref.write_text(COMMIT_B)
    assert digest(model) != by_config.digest

    snapshot = tmp_path / "models--org--name" / "snapshots" / COMMIT_A
    snapshot.mkdir(parents=True)
    model.model_config.model = str(snapshot)
    assert digest(model) == by_config.digest, "offline vLLM puts the snapshot's path there"

    model.model_config.model = "org/name"
    model.model_config.revision = COMMIT_A
    ref.unlink()
    assert digest(model) == by_config.digest


def test_lora_without_a_version_is_not_shared_and_says_so(model: Any) -> None:
    model.lora_config = SimpleNamespace(max_lora_rank=8, default_mm_loras=None)
    found = identity(model, SETTINGS)
    assert "adapters" in found.notes[0]
    vouched = Settings(weights_version="v1")
    before = digest(model), digest(model, vouched)
    model.kv_transfer_config.engine_id = "another"
    assert digest(model) != before[0]
    assert digest(model, vouched) == before[1]
    assert identity(model, vouched).notes == ()


def test_lora_without_a_version_is_not_shared_with_an_earlier_life_of_the_same_engine(
    model: Any,
) -> None:
    """Users set the engine's id, and retrain an adapter where it lies before they restart it."""
    model.lora_config = SimpleNamespace(max_lora_rank=8, default_mm_loras=None)
    vouched = Settings(weights_version="v1")
    before = digest(model), digest(model, vouched)
    model.instance_id = "1764198252123456790"
    assert digest(model) != before[0]
    assert digest(model, vouched) == before[1]
    model.instance_id += "_dp1"
    assert digest(model) != before[0]


@pytest.mark.parametrize("life", ["", "a1b2c", None])
def test_lora_without_a_version_is_refused_where_lives_cannot_be_told_apart(
    model: Any, life: Any
) -> None:
    model.instance_id = life
    assert digest(model)
    model.lora_config = SimpleNamespace(max_lora_rank=8, default_mm_loras=None)
    with pytest.raises(ConfigError, match="may come again"):
        digest(model)
    assert digest(model, Settings(weights_version="v1"))


def test_folder_without_weights_is_noted(model: Any) -> None:
    Path(model.model_config.model, "a.safetensors").unlink()
    assert "no weight files" in identity(model, SETTINGS).notes[0]


def test_function_as_override_is_noted(model: Any) -> None:
    model.model_config.hf_overrides = digest
    assert "hf_overrides is a function" in identity(model, SETTINGS).notes[0]


def test_separate_configuration_folder_counts(model: Any, tmp_path: Path) -> None:
    before = digest(model)
    model.model_config.hf_config_path = str(tmp_path)
    (tmp_path / "config.json").write_text("1")
    first = digest(model)
    (tmp_path / "config.json").write_text("2")
    assert len({before, first, digest(model)}) == 3


def test_model_that_cannot_be_described(model: Any) -> None:
    model.model_config.model = None
    with pytest.raises(ConfigError, match="its name is None"):
        digest(model)


def test_plain_is_the_same_in_every_process() -> None:
    class Anonymous:
        pass

    value = {"s": {"b", "a", "c"}, "o": Anonymous(), "f": float("nan"), "t": Anonymous, 1: (1,)}
    assert "0x" not in repr(plain(value))
    program = (
        "import sys; sys.path[:0] = ['src', 'python-shim/src']\n"
        "from flexkv.identity import plain\n"
        "print(plain({'s': {'b', 'a', 'c', 'd', 'e'}, 'o': object()}))"
    )
    source = str(Path(hashseed.__file__).parents[1])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": source},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


class TestHashSeed:
    def test_fixed_where_nobody_set_one(
        self, model: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(os.environ, hashseed.SEED_ENV, "x")  # restored afterwards
        del os.environ[hashseed.SEED_ENV]
        caplog.set_level("INFO", "flexkv")
        workers = digest(model)
        assert hashseed.ensure(model, SETTINGS) == "0"
        assert os.environ[hashseed.SEED_ENV] == "0"
        assert "FLEXKV_SET_HASH_SEED=0" in caplog.text
        assert digest(model) == workers, "a worker's environment is not changed"

    def test_the_users_seed_stays(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        before = digest(model)
        monkeypatch.setenv(hashseed.SEED_ENV, "42")
        assert hashseed.ensure(model, SETTINGS) == "42"
        assert os.environ[hashseed.SEED_ENV] == "42"
        assert digest(model) != before

    def test_switched_off(self, model: Any, caplog: pytest.LogCaptureFixture) -> None:
        assert hashseed.ensure(model, Settings(set_hash_seed=False)) == hashseed.RANDOM
        assert hashseed.SEED_ENV not in os.environ
        assert "PYTHONHASHSEED=0" in caplog.text

    def test_vllm_has_a_default_of_its_own(
        self, model: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hashseed, "_vllm_default", lambda: "vllm-none-hash")
        assert hashseed.ensure(model, SETTINGS) == "vllm-none-hash"
        assert hashseed.SEED_ENV not in os.environ

    def test_weak_hash_gets_no_known_seed(
        self, model: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        model.cache_config.prefix_caching_hash_algo = "xxhash_cbor"
        assert hashseed.ensure(model, SETTINGS) == hashseed.RANDOM
        assert hashseed.SEED_ENV not in os.environ
        assert "sha256" in caplog.text
