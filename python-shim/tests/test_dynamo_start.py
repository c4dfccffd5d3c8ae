"""The ready deployments behind NVIDIA Dynamo and the script that starts them.

Dynamo's frontend and workers are stand-ins that note how they were started. The sidecars are real
where something depends on them; a JVM takes seconds to start on a busy machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexkv import config_file
from flexkv.config import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "conf" / "dynamo"
ENGINES = ROOT / "tests" / "router_bench" / "engines.sh"

FRONTEND = """
import http.server, json, os, pathlib, sys
out = pathlib.Path(os.environ["OUT"])
(out / "frontend.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        workers = [{"instance_id": f.name, "endpoint": "generate"} for f in out.glob("*.serving")]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"instances": workers}).encode())

port = int(sys.argv[sys.argv.index("--http-port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
WORKER = """
import json, os, pathlib, signal, subprocess, sys, time
out, number = pathlib.Path(os.environ["OUT"]), os.environ["WORKER"]
(out / (number + ".json")).write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
if os.environ.get("DIES") == number:
    sys.exit("the model is not there")
if os.environ.get("DEAF") == number:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("SILENT") != number:
    (out / (number + ".serving")).touch()
subprocess.run(["sleep", "120"])  # an engine has processes of its own
time.sleep(120)
"""
SIDECAR = """
import os, pathlib, sys, time
note = pathlib.Path(os.environ["FLEXKV_SERVER_RECV_PORT"].removeprefix("ipc://") + ".pid")
if sys.argv[1] == "serve":
    note.write_text(str(os.getpid()))
    time.sleep(120)
print('"pid": ' + note.read_text() + ",")
"""
SMALL = """
cpu_cache_gb: 0.05
"""


def free_ports(count: int) -> int:
    """The first of so many TCP ports in a row that nobody uses."""
    for _ in range(100):
        first = random.randrange(20_000, 32_000 - count)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("", port))
            return first
    raise RuntimeError(f"no {count} free ports")


class Deployment:
    """One run of the script in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.run = folder / "out", folder / "run"
        for made in (self.out, self.run):
            made.mkdir()
        for name, text in (("frontend", FRONTEND), ("vllm", WORKER)):
            package = folder / "fakes" / "dynamo" / name
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(text)
        (folder / "small.yaml").write_text(SMALL)
        first = free_ports(6)
        self.http_port, self.event_port = first, first + 1
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def replace_sidecars(self) -> None:
        """Stand-ins for the sidecars too."""
        package = self.folder / "fakes" / "flexkv"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "cli.py").write_text(SIDECAR)

    def start(
        self, *arguments: str, script: Path = FOLDER / "start.sh", **env: str
    ) -> subprocess.Popen[str]:
        base = {k: v for k, v in os.environ.items() if not k.startswith(("FLEXKV", "DYN_"))}
        for name in ("PYTHONHASHSEED", "DYN_FILE_KV", "CUDA_VISIBLE_DEVICES"):
            base.pop(name, None)
        path = os.pathsep.join(filter(None, [str(self.folder / "fakes"), base.get("PYTHONPATH")]))
        # A shell cannot trap what was ignored when it started, as SIGINT is for a run of these
        # tests in the background of a script.
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", script, *arguments],
            env={
                **base, "PYTHONPATH": path, "PYTHON": sys.executable, "OUT": str(self.out),
                "LOG_DIR": str(self.folder / "logs"), "RUN_DIR": str(self.run),
                "SSD_DIR": str(self.folder / "ssd"), "TMPDIR": str(self.run), "GPUS": "0",
                "HTTP_PORT": str(self.http_port), "EVENT_PORT": str(self.event_port),
                "FLEXKV_CONFIG_PATH": str(self.folder / "small.yaml"),
                "FLEXKV_RUNTIME_DIR": str(self.run), "STOP_TIMEOUT_S": "20", **env,
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
        )  # fmt: skip
        return self.process

    def wait_serving(self, workers: int) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each worker, once the script says that all serve."""
        assert self.process is not None
        assert self.process.stdout is not None
        said = ""
        while "serving at" not in said:
            said = self.process.stdout.readline()
            assert said, self.process.communicate(timeout=30)
        assert f"({workers} workers" in said
        return [self.seen(str(number)) for number in range(workers)]

    def seen(self, name: str) -> tuple[list[str], dict[str, str]]:
        arguments, environment = json.loads((self.out / f"{name}.json").read_text())
        return arguments, environment

    def fails(self, timeout_s: float = 60.0) -> str:
        """What it says when it ends by itself, unsuccessfully and with nothing left."""
        assert self.process is not None
        _, said = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 1, said
        assert self.living() == []
        return said

    def living(self) -> list[str]:
        """Everything that was started for this folder and runs."""
        found = []
        mark = f"OUT={self.out}\0".encode()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes():
                    found.append((environ.parent / "comm").read_text().strip())
        return found

    def end(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 130
        assert self.living() == []


@pytest.fixture
def script_only(deployment: Deployment) -> Deployment:
    """Where the script alone is looked at."""
    deployment.replace_sidecars()
    return deployment


@pytest.fixture
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("d"))
    yield made
    if made.process is not None:
        if made.process.poll() is None:
            made.process.terminate()
        made.process.communicate(timeout=40)  # closes the pipes


def option(arguments: list[str], name: str) -> Any:
    return json.loads(arguments[arguments.index(name) + 1])


@pytest.mark.parametrize("name", ["one", "private", "shared"])
def test_configurations_are_understood(name: str, tmp_path: Path) -> None:
    environments = [
        {"FLEXKV_CONFIG_PATH": str(FOLDER / f"{name}.yaml"), "WORKER": worker,
         "SSD_DIR": str(tmp_path)}
        for worker in "01"
    ]  # fmt: skip
    assert all(Settings.load(env=one).notes == () for one in environments)
    folders = set()
    for one in environments:
        read = config_file.read_file(one["FLEXKV_CONFIG_PATH"], one)
        assert read.remarks == []
        folders.add(str(read.values["ssd_cache_dir"]))
    wanted = ["shared"] if name == "shared" else ["worker-0", "worker-1"]
    assert folders == {f"{tmp_path}/{folder}" for folder in wanted}


def test_private_workers_have_ports_addresses_and_sidecars_of_their_own(
    deployment: Deployment,
) -> None:
    deployment.start("private", "some/model", "--block-size", "64", WORKERS="2")
    found = deployment.wait_serving(2)
    for number, (arguments, environment) in enumerate(found):
        events = option(arguments, "--kv-events-config")
        assert events["endpoint"] == f"tcp://*:{deployment.event_port + number}"
        assert events["enable_kv_cache_events"] is True
        transfer = option(arguments, "--kv-transfer-config")
        assert transfer == {"kv_connector": "FlexKVConnectorV1", "kv_role": "kv_both"}
        assert arguments[:2] == ["--model", "some/model"]
        assert arguments[-2:] == ["--block-size", "64"]
        address = f"ipc://{deployment.run}/flexkv_dynamo_{number}"
        assert environment["FLEXKV_SERVER_RECV_PORT"] == address
        assert environment["PYTHONHASHSEED"] == "0"
        assert environment["DYN_DISCOVERY_BACKEND"] == "file"
        assert environment["DYN_EVENT_PLANE"] == "zmq"
        assert "FLEXKV_INSTANCE_ID" not in environment
    arguments, environment = deployment.seen("frontend")
    assert arguments[arguments.index("--router-mode") + 1] == "kv"
    assert environment["DYN_FILE_KV"] == found[0][1]["DYN_FILE_KV"]
    deployment.end()
    assert not Path(environment["DYN_FILE_KV"]).exists()
    assert not list(deployment.run.glob("flexkv_dynamo_?"))


@pytest.mark.parametrize(("mode", "router"), [("shared", "kv"), ("round-robin", "round-robin")])
def test_workers_around_one_sidecar_differ_in_their_instance(
    deployment: Deployment, mode: str, router: str
) -> None:
    deployment.start(mode, "some/model", WORKERS="3", PYTHONHASHSEED="7")
    found = [environment for _, environment in deployment.wait_serving(3)]
    assert {one["FLEXKV_SERVER_RECV_PORT"] for one in found} == {
        f"ipc://{deployment.run}/flexkv_dynamo"
    }
    assert [one["FLEXKV_INSTANCE_ID"] for one in found] == ["0", "1", "2"]
    assert {one["FLEXKV_INSTANCE_NUM"] for one in found} == {"3"}
    assert {one["PYTHONHASHSEED"] for one in found} == {"7"}
    arguments, _ = deployment.seen("frontend")
    assert arguments[arguments.index("--router-mode") + 1] == router
    deployment.end()


def test_one_worker_uses_the_discovery_that_is_set(script_only: Deployment) -> None:
    script_only.start("one", "some/model", DYN_DISCOVERY_BACKEND="etcd", DYN_EVENT_PLANE="nats")
    _, environment = script_only.wait_serving(1)[0]
    assert environment["DYN_DISCOVERY_BACKEND"] == "etcd"
    assert environment["DYN_EVENT_PLANE"] == "nats"
    assert "DYN_FILE_KV" not in environment
    script_only.end()


def test_taken_event_port_is_said_before_anything_starts(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.event_port + 1)):
        deployment.start("private", "some/model", WORKERS="2")
        said = deployment.fails(20)
    assert f"port {deployment.event_port + 1}, for the KV events of worker 1, is taken" in said
    assert "set EVENT_PORT" in said
    assert not list((deployment.folder / "logs").iterdir())


def test_taken_http_port_is_looked_for_where_the_frontend_serves(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.2", deployment.http_port)):
        deployment.start("one", "some/model", HTTP_HOST="127.0.0.2")
        said = deployment.fails(20)
    assert f"port {deployment.http_port} of 127.0.0.2 is taken" in said


def test_workers_share_the_gpus_that_are_visible(script_only: Deployment) -> None:
    script_only.start(
        "shared", "some/model", WORKERS="2", TP="2", GPUS="1",
        CUDA_VISIBLE_DEVICES="4,GPU-5a,6,7,3",
    )  # fmt: skip
    found = [environment for _, environment in script_only.wait_serving(2)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4,GPU-5a", "6,7"]
    script_only.end()


def test_workers_get_gpus_from_the_first_on(script_only: Deployment) -> None:
    script_only.start("one", "some/model", TP="2", GPUS="1")
    ((_, environment),) = script_only.wait_serving(1)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    script_only.end()


@pytest.mark.parametrize("visible", ["4,5,6", ""])
def test_too_few_visible_gpus_are_said_before_anything_starts(
    deployment: Deployment, visible: str
) -> None:
    deployment.start(
        "shared", "some/model", WORKERS="2", TP="2", GPUS="1", CUDA_VISIBLE_DEVICES=visible
    )
    said = deployment.fails(20)
    assert said.count("\n") == 1
    assert f"CUDA_VISIBLE_DEVICES={visible} has" in said
    assert "2 workers with TP=2 need 4" in said
    assert not list((deployment.folder / "logs").iterdir())


def test_child_that_has_no_group_yet_is_ended(script_only: Deployment) -> None:
    """As if the signal came before `setsid` ran, with which its process group begins."""
    slow = script_only.folder / "bin" / "setsid"
    slow.parent.mkdir()
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    process = script_only.start("one", "some/model", PATH=path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("sidecar-0: pid")
    process.send_signal(signal.SIGTERM)
    code = process.wait(20)
    assert code == 130, process.stdout.read()
    assert script_only.living() == []


def test_event_port_for_all_workers_is_refused(deployment: Deployment) -> None:
    deployment.start("private", "some/model", "--kv-events-config", "{}")
    assert "each worker needs an event port of its own" in deployment.fails(20)


def test_taken_rendezvous_address_is_said_and_all_is_ended(deployment: Deployment) -> None:
    address = deployment.run / "flexkv_dynamo_1"
    with socket.socket(socket.AF_UNIX) as somebody:
        somebody.bind(str(address))
        somebody.listen()
        deployment.start("private", "some/model", WORKERS="2")
        said = deployment.fails()
    assert "sidecar-1 ended: ending all" in said
    assert str(address) in said
    assert not list(deployment.out.iterdir())


def test_missing_dynamo_is_said(deployment: Deployment) -> None:
    deployment.start("one", "some/model", PYTHONPATH="")
    said = deployment.fails(20)
    assert said.count("\n") == 1
    assert "no NVIDIA Dynamo" in said
    assert "pip install" in said


def test_end_of_one_worker_ends_all_with_its_last_words(script_only: Deployment) -> None:
    script_only.start("private", "some/model", WORKERS="2", DIES="1")
    said = script_only.fails()
    assert "worker-1 ended: ending all" in said
    assert "the model is not there" in said


def test_worker_that_never_serves_ends_the_wait(script_only: Deployment) -> None:
    script_only.start("shared", "some/model", WORKERS="2", SILENT="1", START_TIMEOUT_S="8")
    assert "2 workers serve: not within 8 s" in script_only.fails()


def test_worker_that_does_not_listen_is_killed(script_only: Deployment) -> None:
    process = script_only.start("one", "some/model", DEAF="0", STOP_TIMEOUT_S="1")
    script_only.wait_serving(1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert time.monotonic() - began < 10
    assert script_only.living() == []


AIPERF = """#!/bin/sh
out="$OUT/$(ls "$OUT" | grep -c arm).arm"
printf '%s\\n' "$@" >"$out"
"""


def test_engines_are_measured_once_for_each_way_of_routing(script_only: Deployment) -> None:
    """aiperf is a stand-in: what it is asked for, by whom it is answered, and the order."""
    fake = script_only.folder / "aiperf"
    fake.write_text(AIPERF)
    fake.chmod(0o755)
    process = script_only.start(
        "some/model", script=ENGINES, WORKERS="1", AIPERF=str(fake), REQUESTS="50",
        OUT=str(script_only.out),
    )  # fmt: skip
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, said + errors
    assert script_only.living() == []
    for number, arm in enumerate(("round-robin", "kv-gpu", "kv-all")):
        assert f"{arm}: replaying 50 requests" in said
        asked = (script_only.out / f"{number}.arm").read_text().splitlines()
        assert f"http://127.0.0.1:{script_only.http_port}" in asked
        assert asked[asked.index("--custom-dataset-type") + 1] == "mooncake_trace"
    assert len((script_only.out / "trace.jsonl").read_text().splitlines()) == 50
    arguments, _ = script_only.seen("frontend")
    assert arguments[-4:] == [
        "--router-host-cache-hit-weight", "1", "--router-disk-cache-hit-weight", "1",
    ]  # fmt: skip


def test_wrong_use_is_explained(deployment: Deployment) -> None:
    process = deployment.start("both")
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "start.sh one|private|shared|round-robin MODEL" in said


def test_signal_while_engines_are_measured_ends_all_at_once(script_only: Deployment) -> None:
    """It finds the shell with a replay that takes an hour, whose processes do not listen."""
    fake, begun = script_only.folder / "aiperf", script_only.out / "begun"
    fake.write_text(f"#!/bin/bash\ntrap '' TERM\ntouch {begun}\nsleep 3600\n")
    fake.chmod(0o755)
    process = script_only.start(
        "some/model", script=ENGINES, WORKERS="1", AIPERF=str(fake), REQUESTS="50",
        OUT=str(script_only.out),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 130
    assert script_only.living() == []
