"""How ranks find their manager's sidecar and what they may lend, on CPU memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kv_rig import Fleet, Shape, own_sidecar
from real_sidecar import missing

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.errors import ConfigError, FlexKVError
from flexkv.kvmanager import KVManager
from flexkv.server.client import KVTPClient

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sidecar(idle_exit_s=60) as found:
        yield found


def test_ranks_in_any_order_and_a_late_manager(address: str) -> None:
    """The ranks may come first; the manager is ready when the last of them is there."""
    shape = Shape("kv-first", kv_heads=8, tp=2)
    layout = shape.layout(16)
    tensors = [shape.tensors(layout, "cpu") for _ in range(2)]
    manager = KVManager(shape.model(uuid.uuid4().hex), CacheConfig(), dp_client_id=5)
    second = KVTPClient(manager.gpu_register_port, 5, 0, 1)  # as before there were stages
    kept = torch.full_like(tensors[1][0], 3)
    tensors[1][0].copy_(kept)
    KVTPClient(manager.gpu_register_port, 6, 0, 0)  # another manager's: never registered
    other = Fleet.start(Shape("kv-first"), model=uuid.uuid4().hex)  # so that a sidecar is there
    try:
        second.register_to_server(tensors[1], layout)
        assert torch.equal(tensors[1][0], kept), "the proof gives blocks their bytes back"
        manager.start()
        time.sleep(0.2)
        assert not manager.is_ready(), "rank 0 is not here"
        first = KVTPClient(manager.gpu_register_port, 5, 0, 0, 0)
        first.register_to_server(tensors[0], layout)
        assert manager.is_ready()
        first.suspend_gpu_mappings()
        deadline = time.monotonic() + 5
        while manager.is_ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not manager.is_ready(), "its memory was taken back"
        first.register_to_server(tensors[0], layout, resume=True)
        assert manager.is_ready()
        first.shutdown()
    finally:
        second.shutdown()
        manager.shutdown()
        other.close()


def test_rank_whose_manager_is_not_there_yet_waits_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FLEXKV_START_TIMEOUT_S", "1")
    shape = Shape("kv-first")
    layout = shape.layout(16)
    rank = KVTPClient(f"ipc://{tmp_path}/nobody.sock", 0, 0, 0, 0)
    with caplog.at_level("INFO", "flexkv"), pytest.raises(FlexKVError):
        rank.register_to_server(shape.tensors(layout, "cpu"), layout)
    assert "waits for the manager's sidecar" in caplog.text
    assert "is not attached" not in caplog.text


def test_own_register_port_is_a_link_to_the_sidecar(address: str, tmp_path: Path) -> None:
    shape = Shape("kv-first")
    port = f"ipc:///tmp/fxkv-{uuid.uuid4().hex[:8]}"
    manager = KVManager(shape.model("own-port"), CacheConfig(), gpu_register_port=port)
    manager.start()
    layout = shape.layout(16)
    rank = KVTPClient(port, 0, 0, 0, 0)
    rank.register_to_server(shape.tensors(layout, "cpu"), layout)
    assert manager.is_ready()
    rank.shutdown()
    manager.shutdown()
    assert not Path(port.removeprefix("ipc://")).is_symlink()


def test_register_port_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    manager = KVManager(
        ModelConfig(), CacheConfig(), gpu_register_port=f"ipc://{tmp_path}/f",
        server_recv_port=f"ipc://{tmp_path}/s",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="where something else lies"):
        manager.start()


def test_register_tensors_that_do_not_fit_is_named(address: str) -> None:
    shape = Shape("kv-first")
    layout = shape.layout(16)
    rank = KVTPClient(address + "_gpu_register", 9, 0, 0, 0)
    with pytest.raises(FlexKVError, match="no dimension counts 17 blocks"):
        rank.register_to_server(shape.tensors(layout, "cpu"), shape.layout(17))
    with pytest.raises(FlexKVError, match=r"have 8192 bytes a block, the layout .* has 12288"):
        rank.register_to_server(shape.tensors(layout, "cpu")[:2], layout)
    with pytest.raises(FlexKVError, match="layer_groups is not served"):
        rank.register_to_server(shape.tensors(layout, "cpu"), layout, layer_groups=[1])
