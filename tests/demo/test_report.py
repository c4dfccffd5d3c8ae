"""The demonstration's last words follow its figures."""

from __future__ import annotations

from demo.report import afterword
from harness.records import Records


def words(*rows: tuple[int, float, float, float]) -> str:
    """Of rows of tokens, and milliseconds cold, by an engine hit and by a FlexKV hit."""
    records = Records()
    for length, *times in rows:
        for way, time in zip(("cold", "engine hit", "FlexKV hit"), times, strict=True):
            records.add(f"time to first token, {length} tokens: {way}", time, "ms")
    return " ".join(afterword(records.all).split())


def test_afterword_slower_than_an_engine_hit_says_by_how_much() -> None:
    assert words((512, 300.0, 40.0, 45.0), (2048, 1200.0, 60.0, 80.0)) == (
        "An engine hit finds its blocks where they are. A FlexKV hit brings them back first, which "
        "took 5 to 20 ms here. Computing took 6.67 to 15 times as long as a FlexKV hit. "
        "Without a GPU the copies take turns with the engine."
    )


def test_afterword_faster_than_an_engine_hit_is_called_chance() -> None:
    said = words((512, 300.0, 40.0, 38.0), (2048, 1200.0, 60.0, 80.0))
    assert "which took 20 ms here. Where the table has it no slower (512 tokens), times" in said
    said = words((512, 300.0, 40.0, 38.0), (2048, 1200.0, 60.0, 60.0))
    assert "back first. Where the table has it no slower (512 tokens and 2048 tokens)" in said
    assert "ms here" not in said


def test_afterword_slower_than_computing_does_not_call_it_faster() -> None:
    assert "Computing" not in words((512, 30.0, 20.0, 38.0))
