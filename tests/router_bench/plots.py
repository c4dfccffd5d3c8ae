"""Draws the benchmark's figure; runs in Dynamo's environment, which has matplotlib.

python plots.py RECORDS.json RAW_FOLDER FIGURE     (writes FIGURE.png and FIGURE.svg)
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

COLOURS = {
    "round-robin": "#9a9a9a", "kv, GPU events": "#5b8db8", "kv, all tiers": "#d1622b",
    "kv, all tiers, weights 0.75 and 0.25": "#7a5195",
}  # fmt: skip
SHORT = {
    "kv, all tiers, weights 0.75 and 0.25": "kv, all tiers,\n0.75 / 0.25",
    "kv, GPU events": "kv,\nGPU events", "kv, all tiers": "kv,\nall tiers",
}  # fmt: skip
FOLDERS = {
    "round-robin": "round-robin", "gpu": "kv, GPU events", "all": "kv, all tiers",
    "default-weights": "kv, all tiers, weights 0.75 and 0.25",
}  # fmt: skip
TIERS = {"gpu": 1.0, "host": 0.65, "ssd": 0.35}


def main(records: Path, raw: Path, figure: Path) -> None:
    """Four panels: hits by tier, time to first token, throughput, share of the best worker."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "flexkv", "font.size": 9})
    pyplot = importlib.import_module("matplotlib.pyplot")
    found = {row["name"]: row for row in json.loads(records.read_text())}
    canvas, axes = pyplot.subplots(2, 2, figsize=(10, 7.2))
    _hits(axes[0][0], found)
    _first_tokens(axes[0][1], raw)
    _best(axes[1][0], found)
    _throughput(axes[1][1], found)
    canvas.suptitle(
        "Mooncake conversation trace, first 2,000 requests, 4 workers behind Dynamo's router",
        fontsize=11,
    )
    canvas.tight_layout()
    for kind in ("png", "svg"):
        canvas.savefig(figure.with_suffix(f".{kind}"), dpi=110, metadata={"Date": None}
                       if kind == "svg" else None)  # fmt: skip


def _named(found: dict[str, Any], what: str) -> dict[str, Any]:
    """The records of one figure, by arm."""
    return {arm: found[f"{arm}: {what}"] for arm in COLOURS if f"{arm}: {what}" in found}


def _hits(axis: Any, found: dict[str, Any]) -> None:
    arms = _named(found, "token hits")
    for place, arm in enumerate(arms):
        bottom = 0.0
        for tier, alpha in TIERS.items():
            share = found[f"{arm}: from the {tier}"]["value"]
            axis.bar(place, share, bottom=bottom, color=COLOURS[arm], alpha=alpha, width=0.6)
            bottom += share
        wanted = arms[arm]["limit"]
        axis.text(place, max(bottom, wanted or 0) + 0.3, f"{arms[arm]['value']:.1f}", ha="center")
        if wanted is not None:
            label = "independent replays" if place == 0 else None
            axis.plot([place - 0.36, place + 0.36], [wanted] * 2, "k--", lw=1.2,
                      label=label)  # fmt: skip
    for alpha, tier in zip(TIERS.values(), ("GPU", "host", "SSD"), strict=True):
        axis.bar(0, 0, color="#444444", alpha=alpha, label=f"from the {tier}")
    _dress(axis, arms, "token hit rate, %", "What came from a cache")
    axis.legend(loc="upper left", fontsize=8)
    axis.set_ylim(0, 1.35 * max(row["value"] for row in arms.values()))


def _first_tokens(axis: Any, raw: Path) -> None:
    for folder, arm in FOLDERS.items():
        file = raw / folder / "requests.jsonl"
        if file.exists():
            ttft = sorted(json.loads(line)["ttft_s"] for line in file.open())
            share = [100 * (i + 1) / len(ttft) for i in range(len(ttft))]
            axis.plot(ttft, share, color=COLOURS[arm], label=arm)
    axis.set(xscale="log", xlabel="estimated time to first token, s", ylabel="% of requests",
             title="Time to first token", ylim=(0, 100))  # fmt: skip
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)


def _best(axis: Any, found: dict[str, Any]) -> None:
    arms = _named(found, "sent to the best worker")
    for place, (arm, row) in enumerate(arms.items()):
        axis.bar(place, row["value"], color=COLOURS[arm], width=0.6)
        axis.text(place, row["value"] + 1, f"{row['value']:.1f}", ha="center")
    axis.axhline(95, color="k", ls="--", lw=1, label="asked for: 95 %")
    _dress(axis, arms, "% of requests whose workers differ", "Sent to the best worker")
    axis.set_ylim(0, 112)
    axis.legend(loc="upper left", fontsize=8)


def _throughput(axis: Any, found: dict[str, Any]) -> None:
    ends = ": throughput"
    rows = {name.partition(", arrivals")[0]: found[name] for name in found if ends in name}
    arms = {arm: rows[arm] for arm in COLOURS if arm in rows}
    load = next((n.partition("arrivals x ")[2].removesuffix(ends) for n in found if ends in n), "")
    for place, (arm, row) in enumerate(arms.items()):
        axis.bar(place, row["value"] / 1000, color=COLOURS[arm], width=0.6)
        axis.text(place, row["value"] / 1000 + 0.4, f"{row['value'] / 1000:.1f}", ha="center")
    axis.set_ylim(0, 1.12 * max((row["value"] for row in arms.values()), default=1.0) / 1000)
    _dress(axis, arms, "thousand prompt tokens/s", f"Throughput, arrivals {load} times as dense")


def _dress(axis: Any, arms: dict[str, Any], label: str, title: str) -> None:
    axis.set_xticks(range(len(arms)), [SHORT.get(arm, arm) for arm in arms])
    axis.set(ylabel=label, title=title)
    axis.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
