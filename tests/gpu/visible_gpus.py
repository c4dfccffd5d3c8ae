"""Two engines that were given one GPU each share a sidecar, whichever of them started it.

    python tests/gpu/visible_gpus.py --out records.json
    python tests/gpu/visible_gpus.py --device cpu --out records.json      (without a GPU)

A process with `CUDA_VISIBLE_DEVICES` of one GPU starts the sidecar, by the launcher and over the
real protocol, and saves blocks; another, with that of the next GPU, joins the same sidecar, loads
what the first has saved, and saves and loads blocks of its own. Then the other way round, with
another sidecar. Every byte is compared. Exit status 1 if one is wrong or somebody is not served.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from harness import processes
from harness.records import Records

from flexkv import protocol as p
from gpu.engine import has_gpu
from gpu.rank import BLOCK_BYTES, Rank
from gpu.session import NO_GPU, skip

MARK = 0xFE  # a value that no source block has
TIMEOUT_S = 120


def wrong_blocks(rank: Rank, request: int, seed: int) -> int:
    """Loads this request's blocks; how many of them differ from what was saved."""
    scheduler, worker = rank.sessions()
    rank.fill(1 + rank.blocks, MARK)
    done = rank.wait_done(worker, rank.start_load(scheduler, worker, request))
    if done.status != p.STATUS_OK:
        raise SystemExit(f"a load ended as {p.STATUS_NAMES.get(done.status)}")
    rank.synchronize()
    differs = torch.zeros(rank.blocks, dtype=torch.bool, device=rank.device)
    for layer in rank.layers.values():
        differs |= (layer[rank.target()] != rank.expected(seed)[:, None]).any(dim=1)
    return int(differs.sum())


def engine(device: str, blocks: int, number: int) -> None:
    """Engine 1 or 2: its own blocks there and back, the second one first loads the first one's.

    Prints what it saw as one JSON object, and lives until its standard input ends.
    """
    processes.die_with_parent()
    rank = Rank(device, blocks)
    scheduler, worker = rank.sessions()
    seen = {"wrong": 0, "loaded": 0}
    if number > 1:
        rank.extend(scheduler, 1, 1)
        seen["wrong"] += wrong_blocks(rank, 1, 1)
        seen["loaded"] += blocks
    rank.fill_source(number)
    rank.extend(scheduler, 1 + number, number)
    rank.save(scheduler, worker, 1 + number)
    seen["wrong"] += wrong_blocks(rank, 1 + number, number)
    seen["loaded"] += blocks
    gpu = str(torch.cuda.get_device_properties(0).uuid) if device == "cuda" else ""
    print(json.dumps({**seen, "gpu": gpu, "sidecar": worker.server_pid}), flush=True)
    sys.stdin.read()
    rank.close()


def start(args: argparse.Namespace, number: int, gpu: int, folder: str) -> subprocess.Popen[str]:
    """An engine that sees this GPU alone."""
    command = [sys.executable, __file__, "--engine", str(number), "--device", args.device,
               "--blocks", str(args.blocks), "--out", args.out]  # fmt: skip
    environment = {
        "FLEXKV_CPU_CACHE_GB": str(1 + 8 * args.blocks * BLOCK_BYTES // 1_000_000_000),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": str(gpu),
        "FLEXKV_SERVER_RECV_PORT": f"ipc://{folder}/flexkv",
        "FLEXKV_RUNTIME_DIR": f"{folder}/run",
        "FLEXKV_IDLE_EXIT_S": "1",
    }
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(child: subprocess.Popen[str]) -> dict[str, int | str]:
    """What an engine saw; {} if it ended without saying so (its standard error has the cause)."""
    assert child.stdout
    line = child.stdout.readline()
    found: dict[str, int | str] = json.loads(line) if line else {}
    return found


def both(args: argparse.Namespace, gpus: tuple[int, int]) -> list[dict[str, int | str]]:
    """The first engine, on the first GPU, starts a sidecar; the second joins it."""
    with tempfile.TemporaryDirectory(prefix="fxkv", dir="/tmp") as folder:
        children = []
        try:
            seen = []
            for number, gpu in enumerate(gpus, 1):
                children.append(start(args, number, gpu, folder))
                seen.append(ask(children[-1]))
        finally:
            for child in children:
                child.communicate(timeout=TIMEOUT_S)
        sidecar = int(seen[0].get("sidecar", 0))  # it writes into the folder until it has ended
        processes.wait_until(
            lambda: not (sidecar and processes.is_running(sidecar)), 30, "the end of the sidecar"
        )
    return seen


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--blocks", type=int, default=64, help="of 2 MiB, saved by each engine")
    parser.add_argument("--engine", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        engine(args.device, args.blocks, args.engine)
        return 0
    if args.device == "cuda" and not has_gpu():
        return skip(pathlib.Path(args.out), f"{NO_GPU}; --device cpu needs none")
    if args.device == "cuda" and (count := torch.cuda.device_count()) < 2:
        return skip(pathlib.Path(args.out), f"it takes two GPUs, torch sees {count}")
    records = Records()
    for gpus in ((0, 1), (1, 0)):
        seen = both(args, gpus)
        shared = len({one.get("sidecar") for one in seen}) == 1 and all(seen)
        apart = args.device == "cpu" or len({one.get("gpu") for one in seen}) == 2
        started = f"sidecar started by an engine on GPU {gpus[0]} of 2"
        served = sum(1 for one in seen if one) if shared and apart else 0
        records.add(f"{started}: engines on a GPU each that it serves", served, "engines",
                    bar=2, met=served == 2)  # fmt: skip
        loaded = sum(int(one.get("loaded", 0)) for one in seen)
        wrong = sum(int(one.get("wrong", 0)) for one in seen)
        records.add(f"{started}: blocks loaded with wrong bytes, a third of them the other's",
                    wrong, "blocks", limit=loaded, bar=0,
                    met=wrong == 0 and loaded == 3 * args.blocks)  # fmt: skip
        for record in records.all[-2:]:
            print(f"{record.name}: {record.value} {record.unit}", flush=True)
    records.write(pathlib.Path(args.out))
    return 1 if records.missed else 0


if __name__ == "__main__":
    sys.exit(main())
