"""Every variable and key of the original has an answer: it works, or a line says what happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexkv.config import Settings
from flexkv.options import BY_KEY, OPTIONS

NAMES = json.loads(Path(__file__).with_name("original_names.json").read_text())
BY_ENV = {name: option for option in OPTIONS for name in option.envs}
SAMPLE = {"flag": "1", "integer": "3", "number": "0.5", "any": "7", "text": "x", "paths": "/a"}


def sample(option) -> str:  # type: ignore[no-untyped-def]
    """A value that is allowed and asks for something."""
    if option.type == "choice":
        return next(str(name) for name in option.choices if option.asks(name))
    if option.name == "hugepage_size_bytes":
        return str(1 << 30)
    if option.type == "address":
        return "ipc:///tmp/other"
    return "0" if option.asks("0") and option.type == "flag" else SAMPLE[option.type]


@pytest.mark.parametrize("name", NAMES["environment"])
def test_variable_works_or_is_answered(name: str) -> None:
    option = BY_ENV[name]
    if option.quiet:
        assert option.says
        return
    beside = {"FLEXKV_INSTANCE_NUM": "9", "FLEXKV_SSD_CACHE_GB": "1"}
    settings = Settings.load(env={**beside, name: sample(option)})
    said = [note.text for note in settings.notes]
    if option.status == "works":
        assert settings.sources[option.name] == name
        assert said == []
    else:
        assert said == [f"{name}: {option.says}"]


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("key", NAMES["keys"])
def test_key_works_or_is_answered(key: str, form: str, tmp_path: Path) -> None:
    option = BY_KEY[key]
    values = {key: sample(option)}
    if option.name == "ssd_cache_dir":
        values["num_ssd_blocks"] = "1"  # without a size it is a warning
    path = tmp_path / "c.json"
    path.write_text(json.dumps(values if form == "flat" else {"cache_config": values}))

    settings = Settings.load(env={"FLEXKV_CONFIG_PATH": str(path), "FLEXKV_INSTANCE_NUM": "9"})

    said = [note.text for note in settings.notes]
    assert settings.sources[option.name] == f"{path} {option.name}"
    assert said == ([] if option.status == "works" else [f"{path} {option.name}: {option.says}"])


def test_every_option_that_does_nothing_says_what_happens() -> None:
    for option in OPTIONS:
        assert bool(option.says) == (option.status != "works"), option.name
