"""The page of options and the example file say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from flexkv.config import Settings
from flexkv.options import BY_KEY, OPTIONS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "conf" / "flexkv.yaml"
PAGE = ROOT / "docs" / "configuration.md"


def test_page_is_printed_from_the_options() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "pages", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_page_has_a_row_for_every_name(option) -> None:  # type: ignore[no-untyped-def]
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    (row,) = [
        line for line in rows if line.startswith((f"| `{option.name}` ", f"| `{option.name}`,"))
    ]
    for name in (*option.aliases, *option.envs):
        assert f"`{name}`" in row


def test_example_file_is_accepted_and_shows_the_defaults(tmp_path: Path) -> None:
    """With every commented option switched on, all but the host tier are at their defaults."""
    text = re.sub(r"^# ([a-z_]+: )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    full = tmp_path / "flexkv.yaml"
    full.write_text(text)
    keys = re.findall(r"^(\w+):", text, re.MULTILINE)
    assert {"cpu_cache_gb", "num_cpu_blocks", "server_recv_port", "instance_num"} <= set(keys)

    settings = Settings.load(env={"FLEXKV_CONFIG_PATH": str(full)})

    assert settings.notes == ()
    for option in [BY_KEY[key] for key in keys if key != "cpu_cache_gb"]:
        assert settings.values[option.name] == option.default, option.name
        assert settings.sources[option.name] == f"{full} {option.name}"
