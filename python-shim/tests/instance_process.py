"""One instance in a process of its own: told what to do by JSON lines on stdin, answers on stdout.

    python instance_process.py SOCKET '{"jar": …}' '{"block_bytes": 4096, "namespace": "ab…"}'

Finds or starts the sidecar as an engine does, then says {"pid": …, "server": …}.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from plain_instance import PlainInstance, random_hashes

from flexkv import launcher
from flexkv import protocol as p
from flexkv.config import Settings
from flexkv.joining import Joining
from flexkv.log import setup_logging
from flexkv.rendezvous import NobodyThereError


def content(seed: int, model: str, block: int, size: int) -> bytes:
    """What a model computes for a block of a chain."""
    return random.Random(f"{seed} {model} {block}").randbytes(size)


def main() -> None:
    socket_path, extra, shape = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    settings = Settings.load({"server_recv_port": f"ipc://{socket_path}", **extra})
    setup_logging(settings.log_level)
    instance = attach(settings, lambda: PlainInstance(socket_path, **shape))
    Joining(settings)(instance.scheduler)
    model = shape.get("namespace", "")
    say({"server": instance.scheduler.server_pid})
    request = 0
    for line in sys.stdin:
        command = json.loads(line)
        request += 1
        seed, count = command["seed"], command["count"]
        hashes = random_hashes(seed, count)
        blocks = list(range(1, count + 1))
        if command["op"] == "save":
            for block in blocks:
                instance.write_block(block, content(seed, model, block, instance.block_bytes))
            say({"saved": instance.save(request, hashes, blocks).committed})
            continue
        answer = instance.lookup(request, hashes)
        equal = False
        if answer.servable == count:
            for block in blocks:
                instance.write_block(block, bytes(instance.block_bytes))
            done = instance.load(answer, blocks)
            equal = done.status == p.STATUS_OK and all(
                instance.read_block(b) == content(seed, model, b, instance.block_bytes)
                for b in blocks
            )
        say({"servable": answer.servable, "equal": equal})


def attach(settings: Settings, attempt: Any) -> PlainInstance:
    deadline = time.monotonic() + 60
    while True:
        try:
            if not settings.launch:
                return attempt()  # type: ignore[no-any-return]
            found: PlainInstance | None = launcher.start_or_join(settings, attempt, lambda: False)
            assert found is not None
            return found
        except NobodyThereError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
