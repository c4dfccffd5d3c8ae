"""Handles of KV memory: which there are, and what is said where another process cannot map it."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from memory_sidecar import FakeGenerations, FakeLink
from test_engine_facts import FullAttentionSpec, caches, config

from flexkv import registration, wiring
from flexkv.cuda_driver import CudaDriver, CudaError
from flexkv.handles import HandleError, allocation_handles, cuda_handles
from flexkv.hooks import WorkerHooks
from flexkv.layout import Storage

BASE, SIZE = 0x7F0000000000, 1 << 20
UUID = bytes(range(0x10, 0x20))


class FakeLibrary:
    """The driver's functions, as ctypes calls them; ``without`` names some that it lacks."""

    def __init__(self, *, legacy: bool = True, failing: str = "", without: str = "") -> None:
        self._legacy = legacy
        self._failing = failing
        for name in (
            "cuMemGetAddressRange_v2", "cuPointerGetAttribute", "cuIpcGetMemHandle",
            "cuCtxGetDevice", "cuDeviceGetUuid", "cuDeviceGetUuid_v2",
        ):  # fmt: skip
            if name != without:
                setattr(self, name, self._function(name))

    def _function(self, name: str) -> Callable[..., int]:
        body = getattr(self, f"_{name}")

        def call(*args: Any) -> int:
            if name == self._failing:
                return 201
            body(*args)
            return 0

        return call

    def _cuMemGetAddressRange_v2(self, base: Any, size: Any, address: Any) -> None:  # noqa: N802
        assert BASE <= address.value < BASE + SIZE
        base._obj.value, size._obj.value = BASE, SIZE

    def _cuPointerGetAttribute(self, value: Any, attribute: Any, address: Any) -> None:  # noqa: N802
        assert attribute.value == 10
        value._obj.value = int(self._legacy)

    def _cuIpcGetMemHandle(self, handle: Any, base: Any) -> None:  # noqa: N802
        assert base.value == BASE, "of the base, not of an address within"
        ctypes.memmove(handle._obj, bytes(range(64)), 64)

    def _cuCtxGetDevice(self, device: Any) -> None:  # noqa: N802
        device._obj.value = 3

    def _cuDeviceGetUuid(self, raw: Any, device: Any) -> None:  # noqa: N802
        assert device.value == 3
        ctypes.memmove(raw._obj, bytes(16), 16)

    def _cuDeviceGetUuid_v2(self, raw: Any, device: Any) -> None:  # noqa: N802
        assert device.value == 3
        ctypes.memmove(raw._obj, UUID, 16)


def driver(monkeypatch: pytest.MonkeyPatch, **how: Any) -> CudaDriver:
    library = FakeLibrary(**how)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return CudaDriver()


def storage(offset: int = 512, length: int = 4096) -> Storage:
    tensor = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    return Storage(BASE + offset, length, tensor)


def test_cuda_handle_is_of_the_allocations_base_with_the_offset_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cuda_handles([storage()], driver(monkeypatch)) == [
        {
            "kind": "cuda_ipc",
            "handle": bytes(range(64)).hex(),
            "offset": 512,
            "length": 4096,
            "gpu_uuid": "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f",
        }
    ]


def test_uuid_of_a_driver_without_the_newer_call_is_the_older_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = driver(monkeypatch, without="cuDeviceGetUuid_v2")
    assert old.gpu_uuid() == "GPU-00000000-0000-0000-0000-000000000000"


def test_virtual_memory_is_refused_with_all_that_brings_it_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(HandleError) as caught:
        cuda_handles([storage()], driver(monkeypatch, legacy=False))
    for culprit in ("--enable-sleep-mode", "--enable-cumem-allocator", "expandable_segments:True"):
        assert culprit in str(caught.value)


def test_buffer_that_leaves_its_allocation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandleError, match="4096 bytes at offset 1048064 leaves its CUDA alloc"):
        cuda_handles([storage(offset=SIZE - 512)], driver(monkeypatch))


def test_failed_call_is_named_with_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match="cuIpcGetMemHandle failed with CUDA error 201"):
        cuda_handles([storage()], driver(monkeypatch, failing="cuIpcGetMemHandle"))


def test_driver_that_lacks_a_call_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match="the CUDA driver has no cuPointerGetAttribute"):
        cuda_handles([storage()], driver(monkeypatch, without="cuPointerGetAttribute"))


def test_machine_without_a_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    with pytest.raises(CudaError, match=r"libcuda\.so\.1 cannot be opened: "):
        CudaDriver()


def test_memory_of_other_devices_is_refused() -> None:
    with pytest.raises(HandleError, match="KV memory on xpu is not served, only cpu and cuda"):
        allocation_handles([Storage(0, 1, SimpleNamespace(device=SimpleNamespace(type="xpu")))])


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> tuple[WorkerHooks, FakeLink]:
    """A worker whose KV tensors come next, and its link."""
    link = FakeLink()
    monkeypatch.setattr(wiring, "Link", lambda *_, **__: link)
    monkeypatch.setattr(wiring, "prepare_worker", lambda *_: "a namespace")
    engine = config(kv_transfer_config__kv_connector_extra_config={})
    return wiring.worker_hooks(engine, caches(FullAttentionSpec())), link


def test_only_the_workers_link_says_that_vllms_start_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler comes after the KV cache is registered: for its link nobody waits."""
    asked: list[str] = []

    def make(*_: object, held_up: str = "", **__: object) -> FakeLink:
        asked.append(held_up)
        return FakeLink(FakeGenerations(100))

    monkeypatch.setattr(wiring, "Link", make)
    monkeypatch.setattr(wiring, "prepare_worker", lambda *_: "a namespace")
    monkeypatch.setattr(wiring, "prepare_scheduler", lambda *_: "a namespace")
    monkeypatch.setattr(wiring, "exact_sleeps", lambda: True)  # it would last for all tests
    engine = config(kv_transfer_config__kv_connector_extra_config={})
    for hooks in (wiring.worker_hooks, wiring.scheduler_hooks):
        hooks(engine, caches(FullAttentionSpec()))
    assert asked == ["vLLM's start", ""]


def assert_refused_in_one_line(
    caplog: pytest.LogCaptureFixture, hooks: WorkerHooks, link: FakeLink, says: str
) -> None:
    (record,) = (one for one in caplog.records if one.levelno >= logging.WARNING)
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("FlexKV serves nothing to this rank: ")
    assert says in record.getMessage()
    assert "report" not in record.getMessage()
    assert not record.exc_info
    assert hooks.side is None
    assert not hooks.guard.tripped
    assert link.closed, "a session without a registration would keep the sidecar up"


def test_rank_in_virtual_memory_is_refused_in_one_line_and_its_session_ends(
    rank: tuple[WorkerHooks, FakeLink],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hooks, link = rank
    virtual = driver(monkeypatch, legacy=False)
    monkeypatch.setattr(
        registration, "allocation_handles", lambda storages: cuda_handles([storage()], virtual)
    )
    layers = {name: torch.zeros((100, 4000), dtype=torch.uint8) for name in ("a", "b")}
    hooks.register_kv_caches(layers)
    assert_refused_in_one_line(caplog, hooks, link, "--enable-cumem-allocator")


def test_rank_whose_tensors_do_not_fit_is_refused_in_one_line_and_its_session_ends(
    rank: tuple[WorkerHooks, FakeLink], caplog: pytest.LogCaptureFixture
) -> None:
    hooks, link = rank
    hooks.register_kv_caches({name: torch.zeros((7, 3)) for name in ("a", "b")})
    assert_refused_in_one_line(caplog, hooks, link, "layer a")
