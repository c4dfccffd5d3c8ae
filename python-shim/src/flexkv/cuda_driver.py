"""The few calls of the CUDA driver that registration needs, by ctypes on ``libcuda.so.1``.

torch's own sharing of storages prefixes its handles with a version and hides the offset into the
allocation; these calls give the 64 bytes and the base themselves.  They need a current context on
the calling thread: the engine's thread inside ``register_kv_caches``, never a background thread.
"""

from __future__ import annotations

import ctypes

from flexkv.errors import FlexKVError

IPC_HANDLE_BYTES = 64
LEGACY_IPC_CAPABLE = 10


class CudaError(FlexKVError):
    """A driver call failed; names the call and its result."""


class CudaDriver:
    """Looks the symbols up once; raises ``CudaError`` where the driver lacks one."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"libcuda.so.1 cannot be opened: {error}") from None

    def _call(self, name: str, *args: object) -> None:
        function = getattr(self._lib, name, None)
        if function is None:
            raise CudaError(f"the CUDA driver has no {name}")
        result = function(*args)
        if result != 0:
            raise CudaError(f"{name} failed with CUDA error {result}")

    def allocation_of(self, address: int) -> tuple[int, int]:
        """Base address and bytes of the allocation that ``address`` lies in."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        self._call(
            "cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size),
            ctypes.c_uint64(address),
        )  # fmt: skip
        return base.value, size.value

    def legacy_ipc_capable(self, address: int) -> bool:
        """Whether the memory can be shared by a 64-byte handle (not virtual-memory management)."""
        value = ctypes.c_int(0)
        self._call(
            "cuPointerGetAttribute", ctypes.byref(value), ctypes.c_int(LEGACY_IPC_CAPABLE),
            ctypes.c_uint64(address),
        )  # fmt: skip
        return value.value != 0

    def ipc_handle(self, base: int) -> bytes:
        """The handle of an allocation, by its base address."""
        handle = (ctypes.c_ubyte * IPC_HANDLE_BYTES)()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), ctypes.c_uint64(base))
        return bytes(handle)

    def gpu_uuid(self) -> str:
        """UUID of the current device, as ``nvidia-smi -L`` prints it."""
        device = ctypes.c_int()
        self._call("cuCtxGetDevice", ctypes.byref(device))
        raw = (ctypes.c_ubyte * 16)()
        name = (
            "cuDeviceGetUuid_v2" if hasattr(self._lib, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
        )
        self._call(name, ctypes.byref(raw), device)
        hexed = bytes(raw).hex()
        parts = (hexed[:8], hexed[8:12], hexed[12:16], hexed[16:20], hexed[20:])
        return "GPU-" + "-".join(parts)
