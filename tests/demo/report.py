"""What the demonstration's answers come to: records, and the reasons to fail."""

from __future__ import annotations

import os
import re
import statistics
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Record, Records, columns
from harness.server import Completion
from harness.sidecar import Moved

if TYPE_CHECKING:
    from demo.run import Served

_TIME = "time to first token, "
_WAYS = ("cold", "engine hit", "FlexKV hit")


def summary(
    records: Records,
    served: Sequence[Served],
    moved: Moved,
    external_tokens: float,
    kv_bytes_per_token: int,
) -> list[str]:
    """Adds the records of a run; returns why it failed, an empty list if it did not."""
    failures = []
    equal = sum(one.equal for one in served)
    answers = sum(1 + len(one.flexkv_hits) for one in served)
    records.add(
        f"prompts whose later answers ({answers} in all) have the cold one's tokens",
        equal,
        "prompts",
        limit=len(served),
        bar=len(served),
        met=equal == len(served),
    )
    if equal < len(served):
        failures.append(f"{len(served) - equal} of {len(served)} prompts got other tokens")

    asked = sum(len(one.prompt) * len(one.flexkv_hits) for one in served)
    cached = sum(hit.cached_tokens for one in served for hit in one.flexkv_hits)
    records.add(
        "prompt tokens served from the sidecar (whole blocks)",
        cached,
        "tokens",
        limit=asked,
        bar="> 0",
        met=cached > 0,
    )
    if cached == 0:
        failures.append("no token came from the sidecar")
    if external_tokens != cached:
        failures.append(
            f"vLLM's metric counts {external_tokens:.0f} external tokens, its answers {cached}"
        )

    for length in sorted({len(one.prompt) for one in served}):
        failures += _times(records, length, [one for one in served if len(one.prompt) == length])

    memcpy = memcpy_gb_s()
    for way, copied, seconds in (
        ("saves", moved.saved_bytes, moved.save_s),
        ("loads", moved.loaded_bytes, moved.load_s),
    ):
        records.add(f"{way}: bytes moved", copied / 1e6, "MB")
        if seconds > 0:
            rate = copied / seconds / 1e9
            records.add(f"{way}: rate, beside one core's memcpy", rate, "GB/s", limit=memcpy)
    expected = cached * kv_bytes_per_token
    if moved.loaded_bytes < expected:
        failures.append(f"{moved.loaded_bytes} bytes came back, {expected} were served")
    return failures


def lookup_times(records: Records, log: Path) -> list[str]:
    """What lookups cost the engine's scheduler thread, by the connector's last line in its log."""
    found = re.findall(r"lookup p50 us (\d+), lookup p99 us (\d+)", log.read_text(errors="replace"))
    if not found:
        return [f"the connector's last line is not in {log}: no lookup latency"]
    for name, microseconds in zip(("p50", "p99"), found[-1], strict=True):
        records.add(f"lookup in the scheduler's thread, {name} (at most)", int(microseconds), "us")
    return []


def memcpy_gb_s() -> float:
    """What one thread copies within one process: the best of five times 64 MiB."""
    source = bytearray(os.urandom(1 << 20) * 64)
    target = bytearray(len(source))
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - begun)
    return len(source) / best / 1e9


def times_table(records: Sequence[Record]) -> str:
    """Time to the first token, a row for each prompt length."""
    cells = _cells(records)
    head = ("time to first token", *_WAYS, "cold / FlexKV hit")
    rows: list[tuple[str, ...]] = [head]
    for length, ways in cells.items():
        gain = _value(ways, "cold") / _value(ways, "FlexKV hit")
        shown = (f"{ways[way].value:,} {ways[way].unit}" for way in _WAYS)
        rows.append((length, *shown, f"{gain:.1f} ×"))
    return columns(rows)


def _cells(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """By prompt length, and there by the way in which the prompt was answered."""
    cells: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.name.startswith(_TIME):
            length, _, way = record.name.removeprefix(_TIME).partition(": ")
            cells.setdefault(length, {})[way] = record
    return cells


def _value(ways: dict[str, Record], way: str) -> float:
    return float(ways[way].value)


def afterword(records: Sequence[Record]) -> str:
    """What `times_table` shows, in words."""
    cells = _cells(records)
    longer = {n: _value(w, "FlexKV hit") - _value(w, "engine hit") for n, w in cells.items()}
    gains = [_value(ways, "cold") / _value(ways, "FlexKV hit") for ways in cells.values()]
    slower = [more for more in longer.values() if more > 0]
    even = [length for length, more in longer.items() if more <= 0]
    text = "An engine hit finds its blocks where they are. A FlexKV hit brings them back first"
    if slower:
        text += f", which took {_range(slower)} ms here"
    if even:
        text += (
            f". Where the table has it no slower ({' and '.join(even)}), times of so few answers "
            "scatter by more than that takes"
        )
    if min(gains) > 1:
        text += f". Computing took {_range(gains)} times as long as a FlexKV hit"
    return textwrap.fill(f"{text}. Without a GPU the copies take turns with the engine.", 98)


def _range(values: Sequence[float]) -> str:
    """The least and the greatest, or one number where they look the same."""
    shown = [f"{value:,.3g}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(shown))


def others(records: Sequence[Record]) -> list[Record]:
    """What `times_table` does not show."""
    return [record for record in records if not record.name.startswith(_TIME)]


def _times(records: Records, length: int, served: Sequence[Served]) -> list[str]:
    cold = _median_ms(one.cold for one in served)
    engine = _median_ms(one.engine_hit for one in served if one.engine_hit)
    flexkv = _median_ms(hit for one in served for hit in one.flexkv_hits)
    name = f"{_TIME}{length} tokens"
    records.add(f"{name}: cold", cold, "ms")
    records.add(f"{name}: engine hit", engine, "ms")
    # The engine's own hit moves nothing: nobody can be faster than that.
    records.add(
        f"{name}: FlexKV hit",
        flexkv,
        "ms",
        limit=engine,
        bar=f"< {cold:.4g} ms",
        met=flexkv < cold,
    )
    if flexkv >= cold:
        return [f"{length} tokens: {flexkv:.0f} ms from the sidecar, {cold:.0f} ms recomputed"]
    return []


def _median_ms(answers: Iterable[Completion]) -> float:
    return 1000 * statistics.median(answer.ttft_s for answer in answers)
