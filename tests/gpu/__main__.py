"""`make test-gpu`: the programs that show the GPU backend, one after another, each in a process.

    python tests/gpu                              all of them, records in build/bench/gpu
    python tests/gpu geometries acceptance        some of them
    python tests/gpu --skip pairs batches         all but these
    python tests/gpu pairs -- --parts ttft        with options for the one program
    python tests/gpu --list                       what there is

One folder of records comes out, and one table of all that has a limit or a bar. A program that
cannot run here says why, in the table too. Exit status 1 if a claim of equality does not hold, or a
program ended in an error or took too long. A missed bar is said in the table and is no error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.records import Record, Records, read, table

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """A script of this folder, the seconds it may take at most, and what it takes on its way.

    `file` tells that `--out` is the file of its records; else it is the folder for them.
    """

    what: str
    limit_s: float
    arguments: tuple[str, ...] = ()
    file: bool = True


#: In the order in which they run: what is cheap and says most comes first.
PROGRAMS: Mapping[str, Program] = {
    "contract": Program("the contract of a device, on the GPU (Java tests)", 900),
    "self_test": Program("every copy path of the driver, both ways, byte for byte", 300),
    "geometries": Program("random layouts, types and ranks, byte for byte", 400,
                          ("--cases", "120", "--budget-s", "60")),
    "fences": Program("jobs with their fences and without", 200),
    "dead_forward": Program("engines killed in a forward whose blocks are to be saved", 300),
    "visible_gpus": Program("two engines that see one of two GPUs each", 300),
    "copy_bench": Program("the link, the best bare call and the movers, in turns", 1200),
    "acceptance": Program("real vLLM: equal answers, aborts, preemptions, kills", 900, file=False),
    "pairs": Program("real vLLM beside none, its own offloading and PegaFlow", 1200, file=False),
    "batches": Program("the same one after another: 32 long prompts, start-up", 1200, file=False),
}  # fmt: skip
#: What was run, written anew after each program.
LINE = "test-gpu"


def command(name: str, program: Program, folder: Path, rest: Sequence[str]) -> list[str]:
    """What is started, with more options at the end, of which the last of a kind counts."""
    out = folder / f"{name}.json" if program.file else folder
    script = _HERE / f"{name}.py"
    return [sys.executable, str(script), "--out", str(out), *program.arguments, *rest]


def run(
    name: str, program: Program, folder: Path, sockets: Path, rest: Sequence[str]
) -> tuple[str, list[Record]]:
    """How it ended ('' if well), and its records; those of an earlier run are removed first.

    Its sidecar, where it starts one, is its own: nobody's that serves the usual address.
    """
    records = folder / f"{name}.json"
    records.unlink(missing_ok=True)
    print(f"\n=== {name}: {program.what}", flush=True)
    environment = {
        **os.environ,
        "FLEXKV_SERVER_RECV_PORT": f"ipc://{sockets / name}",
        "FLEXKV_RUNTIME_DIR": str((folder / "sidecars").absolute()),
        "FLEXKV_IDLE_EXIT_S": "5",
    }
    child = subprocess.Popen(
        command(name, program, folder, rest), env=environment, start_new_session=True
    )
    try:
        status = child.wait(program.limit_s)
        ended = f"exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        ended = f"longer than {program.limit_s:g} s"
    finally:
        # With all that it has started: an engine that is left would hold the next one's GPU.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    try:
        return ended, read(records)
    except FileNotFoundError:  # it was told another name, or did not come so far
        return ended, []
    except ValueError:  # it was killed while it wrote
        return ended or "broken records", []


def telling(record: Record) -> bool:
    """Whether it says something by itself: a comparison, or that a part was not run, and why."""
    return record.limit is not None or record.bar is not None or isinstance(record.value, str)


def run_all(programs: Mapping[str, Program], folder: Path, rest: Sequence[str]) -> int:
    """Runs these, prints one table of what they left; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    line, shown, failed = Records(), list[Record](), list[str]()
    sockets = Path(tempfile.mkdtemp(prefix="fxkv", dir="/tmp"))  # short enough for a socket
    for name, program in programs.items():
        begun = time.monotonic()
        ended, records = run(name, program, folder, sockets, rest)
        if ended:
            failed.append(f"{name} ({ended})")
        skipped = next((r for r in records if r.name == f"{name}: skipped"), None)
        if skipped is not None and not ended:
            line.add(f"{name}: {program.what}", f"skipped: {skipped.value}", "")
        else:
            line.add(f"{name}: {program.what}", time.monotonic() - begun, "s",
                     bar="runs to its end", met=not ended)  # fmt: skip
        line.write(folder / f"{LINE}.json")
        shown += [record for record in records if record is not skipped]
    shutil.rmtree(sockets, ignore_errors=True)
    told = [record for record in shown if telling(record)]
    print(f"\n=== {folder}: {len(shown)} records, {len(told)} with a limit, a bar or a reason\n")
    print(table([*line.all, *told]), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main(words: Sequence[str]) -> int:
    """Runs what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tests/gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    parser.add_argument("--skip", nargs="+", default=[], metavar="PROGRAM")
    parser.add_argument("--out", default="build/bench/gpu", help="folder for records and logs")
    parser.add_argument("--list", action="store_true", help="says what there is")
    own = list(words[: words.index("--")]) if "--" in words else list(words)
    rest = list(words[len(own) + 1 :])
    options = parser.parse_args(own)
    if options.list:
        print("\n".join(f"{name:12} {program.what}" for name, program in PROGRAMS.items()))
        return 0
    unknown = sorted({*options.programs, *options.skip} - set(PROGRAMS))
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)} (there are {', '.join(PROGRAMS)})")
    wanted = options.programs or list(PROGRAMS)
    chosen = {name: PROGRAMS[name] for name in wanted if name not in options.skip}
    if rest and len(chosen) != 1:
        parser.error(f"options after -- are one program's; {len(chosen)} are to run")
    return run_all(chosen, Path(options.out), rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
