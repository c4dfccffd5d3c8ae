"""What the README has its reader paste after the demonstration fits the demonstration."""

from __future__ import annotations

import re
import subprocess

from demo import run
from harness import checkout


def pasted() -> str:
    """The block of commands behind "See it at work"."""
    page = (checkout.ROOT / "README.md").read_text()
    return page.split("**See it at work**", 1)[1].split("```\n")[1]


def test_see_it_at_work_serves_the_demonstrations_model_as_it_did() -> None:
    text = pasted()
    model = (checkout.MODELS / "demo-model").relative_to(checkout.ROOT)
    assert f"--model {model} " in text
    arguments = run._arguments()
    for option in ("--max-model-len", "--kv-cache-memory-bytes"):
        assert f"{option} {arguments[arguments.index(option) + 1]}" in text
    last = re.search(r"seq -s, 1 (\d+)", text)
    assert last is not None
    assert 128 < int(last.group(1)) < run.SHAPE.vocab_size, "tokens of the model, and a block's"


def test_see_it_at_work_is_a_script_of_programs_that_a_clone_has() -> None:
    text = pasted()
    checked = subprocess.run(
        ["bash", "-n"], check=False, input=text, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert text.startswith('alias flexkv="$PWD/.venv/bin/flexkv"'), "nothing else has it there"
