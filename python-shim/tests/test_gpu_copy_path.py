"""`gpu_copy_path` through a real sidecar whose CUDA driver is the stand-in of the Java tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_sidecar import REPOSITORY, missing, settings

from flexkv import launcher, proof
from flexkv import protocol as p
from flexkv.errors import ControlError
from flexkv.session import Session, open_session

_RESOURCES = REPOSITORY / "connector-jvm/src/test/resources/io/flexkv"
_BLOCKS, _BLOCK_BYTES = 8, 4096
_COMPILER = shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(_COMPILER is None, reason="no compiler to build what stands in for libcuda"),
]


class Gpu:
    """A child that owns memory of the stand-in, and a sidecar that copies by it."""

    def __init__(self, folder: Path, socket_path: str) -> None:
        self._folder, self._socket_path = folder, socket_path
        self._owner: subprocess.Popen[str] | None = None
        self._sidecar = 0

    def driver(self, *flags: str) -> None:
        """Builds the driver."""
        source = _RESOURCES / "transfer/fake_cuda.c"
        library = self._folder / "libcuda.so.1"
        command = [str(_COMPILER), "-shared", "-fPIC", "-o", str(library), str(source), *flags]
        subprocess.run(command, check=True)

    def sidecar(self, **options: object) -> Session:
        """Starts one, as an engine would; a worker's session."""
        hello = p.Hello(role=p.ROLE_WORKER, pid=0, instance="i", namespace="ab", block_tokens=16)
        session = launcher.start_or_join(
            settings(self._socket_path, self._folder / "run", cpu_cache_gb=0.01, **options),
            lambda: open_session(self._socket_path, hello, None),
            lambda: False,
        )
        assert session is not None
        self._sidecar = session.server_pid
        return session

    def copy(self, session: Session) -> bytes:
        """Registers a rank's memory and has the proof written; what is in its last block then."""
        script = _RESOURCES / "device/cuda_engine.py"
        size = _BLOCKS * _BLOCK_BYTES
        self._owner = subprocess.Popen(
            [sys.executable, script, str(size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        uuid, handle = self._answer().split()
        allocation = {"kind": "cuda_ipc", "handle": handle, "offset": 0, "length": size,
                      "gpu_uuid": uuid}  # fmt: skip
        layout = {
            "block_tokens": 16, "num_blocks": _BLOCKS, "fingerprint": "f",
            "allocations": [allocation], "regions": [[0, 0, _BLOCK_BYTES, _BLOCK_BYTES, _BLOCKS]],
        }  # fmt: skip
        identity: dict[str, object] = {"session_id": session.session_id}
        registration = {**identity, "layout": layout, "fences": None, "proved": False}
        session.control("register", registration, 10)
        proving = {**identity, "seed": 7, "blocks": [0, _BLOCKS - 1]}
        session.control("prove_write", {**proving, "expires_ns": proof.expires_ns()}, 10)
        assert self._owner.stdin
        self._owner.stdin.write(f"peek 0 {size - _BLOCK_BYTES} {_BLOCK_BYTES}\n")
        self._owner.stdin.flush()
        return bytes.fromhex(self._answer())

    def _answer(self) -> str:
        assert self._owner
        assert self._owner.stdout
        return self._owner.stdout.readline()

    def log(self) -> str:
        (file,) = (self._folder / "run").glob("sidecar-*.log")
        return file.read_text()

    def close(self) -> None:
        if self._sidecar:
            os.kill(self._sidecar, signal.SIGKILL)
        if self._owner:
            self._owner.kill()
            self._owner.wait()
        launcher._failures.clear()


@pytest.fixture
def gpu(tmp_path: Path, socket_path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv(
        "FAKE_CUDA_DIR", str(Path(socket_path).parent)
    )  # its handles are short paths
    found = Gpu(tmp_path, socket_path)
    yield found
    found.close()


def pattern() -> bytes:
    return bytes(proof.pattern(7, 0, _BLOCKS - 1, _BLOCK_BYTES, "cpu").tolist())


#: What the sidecar logs when the driver has refused a batched call.
REFUSED = "simpler copies on this stream"


def test_auto_uses_the_batched_calls_that_there_are(gpu: Gpu) -> None:
    gpu.driver("-DWITHOUT_BATCHES")  # they are there, and refuse
    assert gpu.copy(gpu.sidecar()) == pattern()
    assert "copies by BATCH_V2 (gpu_copy_path: AUTO)" in gpu.log()
    assert REFUSED in gpu.log()


def test_loop_calls_none_of_them(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.driver("-DWITHOUT_BATCHES")
    monkeypatch.setenv("FLEXKV_GPU_COPY_PATH", "loop")
    assert gpu.copy(gpu.sidecar()) == pattern()
    assert "copies by LOOP (gpu_copy_path: LOOP)" in gpu.log()
    assert REFUSED not in gpu.log()


def test_batch_of_a_driver_without_them_is_refused(gpu: Gpu) -> None:
    gpu.driver("-DWITHOUT_V1", "-DWITHOUT_V2")
    session = gpu.sidecar(gpu_copy_path="batch")
    with pytest.raises(
        ControlError, match="BATCH is not offered by this driver: gpu_copy_path=auto"
    ):
        gpu.copy(session)
