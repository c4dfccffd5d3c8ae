"""The table in docs/configuration.md and the example file say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexkv.config import Settings
from flexkv.options import ALIASES, OPTIONS, OPTIONS_BY_NAME, SIDECAR_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "conf" / "flexkv.yaml"


def documented() -> dict[str, tuple[str, str, str, str]]:
    """The shim's options by name, with their cells: environment, default, allowed, what.

    The sidecar's table above it is held to the sidecar's own options by a test in Java.
    """
    _, _, table = (ROOT / "docs" / "configuration.md").read_text().partition("## The shim's")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    return {name: (env, default, allowed, what) for name, env, default, allowed, what in rows}


def test_table_has_every_option_and_no_other() -> None:
    assert set(documented()) == set(OPTIONS_BY_NAME)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_table_says_what_the_option_is(option) -> None:  # type: ignore[no-untyped-def]
    default = int(option.default) if isinstance(option.default, bool) else option.default
    shown = "empty" if default == "" else f"`{default}`"

    assert documented()[option.name] == (f"`{option.env}`", shown, option.allowed, option.help)


def test_example_file_is_accepted_and_shows_the_defaults(tmp_path: Path) -> None:
    """With every commented option switched on, the shim's are at their defaults."""
    text = re.sub(r"^# ([a-z_]+: )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    full = tmp_path / "flexkv.yaml"
    full.write_text(text)
    names = {ALIASES.get(n, n) for n in re.findall(r"^(\w+):", text, re.MULTILINE)}
    assert names <= set(OPTIONS_BY_NAME) | set(SIDECAR_OPTIONS)
    assert {"cpu_cache_gb", "num_cpu_blocks", "server_recv_port", "instance_num"} <= names

    settings = Settings.load(env={"FLEXKV_CONFIG_PATH": str(full)})

    for name in names & set(OPTIONS_BY_NAME):
        assert getattr(settings, name) == OPTIONS_BY_NAME[name].default, name
        assert settings.sources[name] == f"{full} {name}"
