"""Prints `docs/performance/README.md` from the records of runs that lie beside it.

    python tests/gpu/report.py > docs/performance/README.md

A bar that was missed must have its reason in `REASONS`; a test holds that, and that the committed
page is the one that the committed records give.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
HEAD = """\
# What was measured

Each table is printed from the JSON file beside it (`tests/gpu/report.py`); `limit` is what the
hardware, the bare call or plain vLLM did in the same run, `bar` what was asked for. Unless a table
says otherwise the model has Llama-3.1-8B's shape in bfloat16 (128 KiB of keys and values a token),
vLLM is 0.26.0 with CUDA graphs and async scheduling, and answers are greedy. "Cold" computes
everything, "engine hit" is vLLM's own prefix cache, "sidecar hit" comes back from host memory after
that cache was dropped.
"""
RUNS = {
    "gpu-acceptance": "Equality that proves bytes: batch-invariant vLLM, weights that make every "
    "answer depend on the whole cache, prompts of 2k to 30k tokens. Answers are compared by tokens "
    "and by log-probabilities, bit for bit",
    "gpu-acceptance-v1-evicting": "The same with vLLM's V1 model runner and a pool that holds a "
    "third of the prompts, so that it evicts all the time",
    "gpu-acceptance-served": "The same in bfloat16 as one serves it, eager, with the code of the "
    "copy records below: the sidecar's hit against the engine's own (cut at its time limit before "
    "the kills)",
    "gpu-acceptance-tp2": "The same over two GPUs (tensor parallelism of 2, bfloat16 as one serves "
    "it: the sidecar's hit against the engine's own)",
    "gpu-acceptance-tp4": "The same over four GPUs, eager (cut at its time limit before requests "
    "were preempted and the sidecar killed)",
    "gpu-acceptance-pp2": "The same over two GPUs as pipeline stages (eager; the run was cut at "
    "its time limit after these)",
    "gpu-acceptance-mla": "Latent attention (MLA): the dimensions of DeepSeek-V2-Lite with dense "
    "layers, 27 of them, vLLM's FLASH_ATTN_MLA, which is not batch-invariant though it was asked "
    "to be: vLLM's own hits differ from its cold answers too",
    "gpu-acceptance-fp8": "The 8B shape with keys and values in fp8, as one serves it",
    "gpu-acceptance-mla-fp8": "The same with latents kept in fp8, vLLM's TRITON_MLA (the run was "
    "cut at its time limit after these)",
    "cpu-acceptance-tp4": "Four tensor-parallel ranks of vLLM 0.32 on a CPU, two heads of keys and "
    "values (float32, so that cold answers are claimed too)",
    "cpu-acceptance-mla-tp2": "Latent attention on two tensor-parallel ranks of vLLM 0.32 on a "
    "CPU: stored once, loaded by both",
    "gpu-pairs": "Engines with and without connectors on one GPU, measured in turns: time to first "
    "token, its stages, throughput where nothing hits, a chat, a neighbour's token times with and "
    "without limits of what is moved. (What these stages call the end seen by the worker is its "
    "own look, as a rule after the request had been taken up.)",
    "gpu-pairs-told-ahead": "The same on a quieter machine, with and without (`unwaited`) a step's "
    "wait for loads",
    "gpu-pairs-slow-cores": "The same with limited copies in short slices, on a host whose cores "
    "were slower that day: an engine hit of 30,000 tokens took 45 ms there and 29 to 33 before",
    "gpu-neighbour": "A neighbour's token times beside loads and saves of three geometries, at "
    "full rate and with limits",
    "gpu-batches": "One engine after another, every peer in one run: start-up with a large pool, "
    "32 prompts of 8,192 tokens at once, stalls while the pool is pinned (cut at its time limit)",
    "gpu-batches-early-start": "The same on another machine, without the peers",
    "gpu-batches-compiled-anew": "The same with a quarter of the time of our own for a copy, on a "
    "third machine where each engine compiled anew (cut before PegaFlow)",
    "gpu-death-stops-copies": "The sidecar killed in the middle of loads of 1 GiB, "
    "canaries in the blocks afterwards",
    "gpu-dead-forward": "Engines killed in the middle of a forward whose blocks are to be saved "
    "behind it",
    "gpu-fences": "Jobs behind their fences, and the same with the fences removed",
    "gpu-pool-pages": "Kinds of memory for the host pool: how long its pages take to come, to be "
    "pinned and to go",
    "gpu-copy-paths": "Copy paths of the CUDA backend, byte for byte",
    "gpu-copy-bench": "The movers beside the link and beside bare loops of whichever call of the "
    "driver moves such rows best, on one processor at a time; rows of 4 to 64 KiB. Where rows are "
    "copies each, the ratio to the bare loop is the median of those of a pass to the one before "
    "it. Bare saves of one allocation were in their slow state here, for no loads came before them",
    "gpu-copy-bench-80-layers": "The same with 80 layers, as a model of 70B has: rows of 4 to 32 "
    "KiB",
    "gpu-copy-bench-large-rows": "The same for rows of 64 KiB and more, in a run of their own",
    "gpu-limits": "What limits of loads and saves keep of a neighbour's step of a millisecond, and "
    "leave of the rate (limit: what was allowed), for rows of each size",
    "gpu-limits-loop": "The same without limits where every copy is a call of its own",
    "gpu-handover": "What a load waits for beside its copies, without an engine",
    "gpu-visible-gpus": "Two engines that see one GPU each, around a sidecar that one of them "
    "started; every byte compared",
    "gpu-stall": "Loads of 64 MiB through a sidecar whose pool of 64 GB gets its pages and is "
    "pinned meanwhile",
    "gpu-copy-beside": "What ways to move small rows cost another process that computes in steps "
    "of 0.73 ms (limit: its steps alone); staged is by strided copies within the GPU, and not used",
    "gpu-kvmanager": "The Python API on GPU tensors: 20 shapes compared byte for byte, matches of "
    "512 blocks, puts and gets of 1 GiB",
    "gpu-ssd-hit": "Chains of 1 GiB from the SSD to the GPU, by a sidecar that was started anew, "
    "beside bare O_DIRECT reads of the same files right before and after",
    "gpu-ssd-restart": "Engine and sidecar ended and started anew: the same prompts, from the SSD",
    "gpu-host-ssd-lookups": "The same to a process's memory, and lookups while the SSD is "
    "written, 16 idle cores",
    "ssd-restart": "A start with as many blocks on the SSD as a terabyte has, each header read and "
    "checked, until all are served; three fresh processes for each size, on two cores that other "
    "work wanted as well (waits are those of a caller on the same cores)",
    "cpu-ssd": "The SSD tier beside bare O_DIRECT calls of eight threads on the same virtual disk, "
    "two cores: 31 pairs in turns of 128 MiB each, reads with checksums, writes with headers, by "
    "io_uring and by the pool of threads. The ratio is the median of the pairs' ratios, for the "
    "disk's rate changes from minute to minute",
    "cpu-ssd-hit": "A chain of 1 GiB from the SSD to a process's memory, the first after a start, "
    "and lookups while the SSD is written: the same two cores and virtual disk",
    "ssd-kills": "Processes killed at named points of their disk accesses and by the clock, and "
    "started again on the same directories, against a file of what must be there; directories are "
    "reset and resized meanwhile",
    "cpu-kills": "The sidecar of real vLLM on the CPU killed: at a granted load before it begins, "
    "as it begins, and at random steps; each answer compared with plain vLLM's token by token, and "
    "nothing left over after any of them",
    "cpu-kills-0.26": "The same at the other end of the versions",
    "gpu-geometries": "Random geometries, byte for byte: all layouts of vLLM's, one rank and two",
    "gpu-host-instances": "Lookups of two engines at once beside those of one, 16 idle cores",
    "gpu-host-lookup": "Lookups from Python beside a bare echo through the ring, 16 idle cores",
    "gpu-host-hooks": "What the hooks cost an engine's step, on the scheduler's thread and on a "
    "worker's, 16 idle cores",
    "cpu-instances": "Four real vLLM engines on the CPU, around one sidecar and with one each: six "
    "documents of 1,536 tokens, a question about each to every engine (6 layers of 512, float32; "
    "two cores that other work shared, so the ratio counts and not the rates). The limit of the "
    "last row is what sharing can bring: prompt tokens computed apart over those computed shared",
    "gpu-host-process-copies": "Copies of the process backend beside the bare system calls, "
    "16 idle cores",
    "dynamo-routing": "Mooncake's conversations through NVIDIA Dynamo's real router, four workers "
    "with simulated engines and real sidecars, while others used the machine (the clock of the "
    "simulation stands while anything real is under way): docs/dynamo.md",
}
_BEYOND_THE_LINK = (
    "beyond the link: 1.1 ms that vLLM sleeps after a step without tokens, before it takes the "
    "request up, 0.9 (and 0.9 a thousand blocks) for the rest of that step and the next, 0.5 until "
    "the worker says go, 0.3 for the sidecar's waking up, 0.3 for the lookup, 0.3 for allocation "
    "and plan: docs/decisions/loads-stay-asynchronous.md"
)
_BESIDE_COPIES = (
    "a step's own small copies wait up to 1 ms for the copy engine, which serves one process at a "
    "time: 5 to 7 % at the median at full rate, 1 to 1.7 % at 10 GB/s each way (load_limit_gb_s, "
    "save_limit_gb_s; off unless set, because long hits come later with them). Copies under a "
    "limit go in short slices, except in gpu-neighbour and gpu-pairs-told-ahead: "
    "docs/decisions/a-copy-engine-serves-one-process-at-a-time.md"
)
_DRIVERS_TIME = (
    "one descriptor a row: the driver takes 0.45 to 0.95 microseconds for each, by whether "
    "anything computes on the core's other hyperthread, the bare loop's as well. Ours adds 0.03 to "
    "0.06 to a save, of which 0.014 is our arithmetic; the rest was not found: "
    "docs/decisions/hyperthreads-halve-the-drivers-pace.md"
)
#: Why a bar was missed, by the file and a part of the record's name.
REASONS: dict[tuple[str, str], str] = {
    ("gpu-ssd-hit", "the first after a start: last byte"): "one hit beside a disk whose bare reads "
    "took 370 to 575 ms from one to the next; in another run the same hit took 0.97 of them",
    ("gpu-host-ssd-lookups", "the first after a start: last byte"): "one hit beside a disk whose "
    "bare reads took 370 to 575 ms from one to the next, and code that is compiled meanwhile",
    ("ssd-restart", "1 TB of 64 KiB"): "15 million blocks, of which each costs 0.6 microseconds of "
    "processor time in all; other work had a share of the two cores; without it a start would need "
    "some 8 s by calculation: docs/decisions/found-blocks-come-in-one-by-one.md",
    ("cpu-ssd-hit", "lookup of 256 keys, p99"): "two cores for the client that spins, the cache "
    "thread and the one that computes checksums of what is written; with 16 cores 27 beside 31 "
    "microseconds (gpu-host-ssd-lookups)",
    ("gpu-copy-bench", "runs of 8"): "neighbours are not kept together on the host: "
    "docs/decisions/small-rows-move-as-strided-copies.md",
    ("gpu-copy-bench", "64 KiB rows"): "the best bare loop of the same run is further from the "
    "link",
    ("gpu-copy-bench", "rests 0 ms"): "for comparison: saves that do not give way, which is not "
    "what movers do",
    ("gpu-copy-bench", " rows, an allocation a layer, scattered"): _DRIVERS_TIME,
    ("gpu-copy-bench", " rows, one allocation, scattered"): "the bars against the link are of 80 "
    "layers a copy; with 32, as here, the bare loop falls as short of them",
    ("gpu-copy-bench-80-layers", "runs of 8"): "neighbours are not kept together on the host: "
    "docs/decisions/small-rows-move-as-strided-copies.md",
    ("gpu-copy-bench-80-layers", "an allocation a layer, scattered"): _DRIVERS_TIME,
    ("gpu-copy-bench-large-rows", " KiB rows"): "the bare batch of the same run is about as far "
    "from the link",
    ("gpu-stall", "longest stall"): "a virtual machine that itself gets its memory while the pool "
    "does: copies beside nothing but threads that give pages take 6 ms at the 99th of a hundred "
    "(docs/performance/tried/gpu-copy-states.json), and with all of the pool pinned the longest of "
    "1,442 loads was held up for 9.5 ms. The rest is pieces that the driver pins slower for it",
    ("gpu-pairs", "flexkv's hit"): _BEYOND_THE_LINK,
    ("gpu-pairs", "neighbour's time a token"): _BESIDE_COPIES,
    ("gpu-pairs-slow-cores", "30000 tokens"): "the copies took 74.7 ms instead of 72.1, 5.8 "
    "passed until vLLM took the request up again, 1.9 until its load was planned, on cores on "
    "which an engine hit took 1.5 times as long as on the other machines",
    ("gpu-pairs-slow-cores", "flexkv's hit"): _BEYOND_THE_LINK,
    ("gpu-pairs-slow-cores", "neighbour's time a token"): _BESIDE_COPIES,
    ("gpu-pairs-told-ahead", "flexkv's hit"): _BEYOND_THE_LINK,
    ("gpu-pairs-told-ahead", "neighbour's time a token"): _BESIDE_COPIES,
    ("gpu-neighbour", "scattered 16 KiB fragments"): "a descriptor a fragment: the more of them a "
    "byte needs, the longer the copy engine is busy with ours, and a step's own small copies wait "
    "until it is not; a limit in bytes was not the better the lower it was",
    ("gpu-neighbour", "neighbour's time a token"): _BESIDE_COPIES,
    ("gpu-acceptance-mla", "answers with equal tokens"): "vLLM's own hits differ from its cold "
    "answers as often (11 of 16 alike), for FLASH_ATTN_MLA is not batch-invariant; the sidecar's "
    "hits equal vLLM's own bit for bit, 16 of 16",
    ("gpu-batches", "vLLM serves later than without"): "registration and proof took 0.2 s; loading "
    "and compiling took vLLM 2.3 s longer while the virtual machine got 64 GiB for the pool. On "
    "another machine it was 0.45 s in all (gpu-batches-early-start)",
    (
        "gpu-kvmanager",
        "first_sight",
    ): "any safe hash and the lookup behind it take 80 microseconds; "
    "the rest is two calls of Python a block: docs/decisions/keys-of-the-python-api-are-sha-256.md",
    (
        "gpu-kvmanager",
        "beside_another",
    ): "two managers that ask without pause, on two runs 0.97 and 1.08 of one alone; engines "
    "ask at the pace of their steps: gpu-host-instances",
}
COLUMNS = ("name", "value", "unit", "limit", "ratio", "bar", "met")


def cell(value: Any) -> str:
    """A figure with four digits, a word for a truth value, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def reason(file: str, name: str) -> str:
    """Why this bar was missed; '' if nobody has said."""
    for (where, part), text in REASONS.items():
        if where == file and part in name:
            return text
    return ""


def missed(records: dict[str, list[dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """File and record of every missed bar."""
    return [(f, row) for f, rows in records.items() for row in rows if row.get("met") is False]


def by_reason(
    rows: list[tuple[str, dict[str, Any]]],
) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """File and record of the missed bars by what is said of them, in their order."""
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file, row in rows:
        groups.setdefault(reason(file, row["name"]), []).append((file, row))
    return groups


def missed_lines(records: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Every missed bar by its name: a table under each reason, none folded into another's."""
    rows = missed(records)
    bars = sum(row.get("met") is not None for file in records.values() for row in file)
    groups = by_reason(rows)
    lines = [f"{len(rows)} of {bars}, for {len(groups)} reasons; what an engine shows first.", ""]
    for why, group in groups.items():
        lines += [f"**Why:** {why}.", ""]
        lines += ["| file | what | value | ratio | bar |", "|---|---|---:|---:|---:|"]
        lines += [missed_line(file, row) for file, row in group]
        lines.append("")
    return lines


def missed_line(file: str, row: dict[str, Any]) -> str:
    """One record; a bar of the ratio says so."""
    bar = f"ratio {cell(row['bar'])}" if is_of_ratio(row) else cell(row["bar"])
    value = f"{cell(row['value'])} {row['unit']}".strip()
    return f"| {file} | {row['name']} | {value} | {cell(row.get('ratio'))} | {bar} |"


def is_of_ratio(row: dict[str, Any]) -> bool:
    """Whether the bar is a share of the limit (bars of values are never that small)."""
    return bool(row.get("ratio")) and 0 < (row["bar"] or 0) <= 1


def read() -> dict[str, list[dict[str, Any]]]:
    """The committed records by file: those with a title in its order, then the others."""
    there = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    named = [name for name in RUNS if name in there]
    return {name: there[name] for name in [*named, *(n for n in there if n not in RUNS)]}


def page() -> str:
    """The page, from nothing but the records."""
    records = read()
    lines = [HEAD]
    lines += ["## Bars that were missed", "", *missed_lines(records)]
    for file in records:
        first = records[file][0]
        lines += [f"## {RUNS.get(file, file)}", ""]
        lines += [f"`{first['command']}` · [{file}.json]({file}.json) · {first['machine']}", ""]
        lines += [
            "| what | value | unit | limit | ratio | bar | met |",
            "|---|---:|---|---:|---:|---:|---|",
        ]
        lines += [
            "| " + " | ".join(cell(row.get(c)) for c in COLUMNS) + " |" for row in records[file]
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Prints it."""
    sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
