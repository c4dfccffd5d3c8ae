"""Owns GPU memory for a bench: one allocation for each argument (bytes), until stdin ends.

Needs nothing but the driver.  Answers one line: the GPU's uuid and a handle an allocation, in hex.
"""

import ctypes
import sys

cuda = ctypes.CDLL("libcuda.so.1")
u64 = ctypes.c_uint64


def call(name, *args):
    result = getattr(cuda, name)(*args)
    if result != 0:
        sys.exit(f"{name} failed: {result}")


device, context, uuid = ctypes.c_int(), ctypes.c_void_p(), (ctypes.c_ubyte * 16)()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDeviceGetUuid", ctypes.byref(uuid), device)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
words = [bytes(uuid).hex()]
for length in map(int, sys.argv[1:]):
    memory, handle = u64(), (ctypes.c_ubyte * 64)()
    call("cuMemAlloc_v2", ctypes.byref(memory), u64(length))
    call("cuIpcGetMemHandle", ctypes.byref(handle), memory)
    words.append(bytes(handle).hex())
print(*words, flush=True)
sys.stdin.read()
