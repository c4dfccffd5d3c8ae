"""Plays the engine for the CUDA self test: owns GPU memory and events, and hands out their handles.

Needs nothing but the driver.  Arguments: bytes of GPU memory, a file to exchange contents by, its
size.  Answers one line for each command line on stdin:

    (at start)   uuid, memory handle, event handle (hex)
    fill         random bytes into the file and from there into the start of the GPU memory
    dump         the start of the GPU memory into the file
    busy         some hundred milliseconds of copies, then the event, without waiting for them
"""

import ctypes
import mmap
import os
import sys

cuda = ctypes.CDLL("libcuda.so.1")
u64 = ctypes.c_uint64


def call(name, *args):
    result = getattr(cuda, name)(*args)
    if result != 0:
        sys.exit(f"{name} failed: {result}")


total, path, length = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
device, context, uuid = ctypes.c_int(), ctypes.c_void_p(), (ctypes.c_ubyte * 16)()
memory, spare, stream, event = u64(), u64(), ctypes.c_void_p(), ctypes.c_void_p()
memory_handle, event_handle = (ctypes.c_ubyte * 64)(), (ctypes.c_ubyte * 64)()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDeviceGetUuid", ctypes.byref(uuid), device)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemAlloc_v2", ctypes.byref(memory), u64(total))
call("cuMemAlloc_v2", ctypes.byref(spare), u64(total))
call("cuStreamCreate", ctypes.byref(stream), 1)
call("cuEventCreate", ctypes.byref(event), 2 | 4)  # no timing, interprocess
call("cuIpcGetMemHandle", ctypes.byref(memory_handle), memory)
call("cuIpcGetEventHandle", ctypes.byref(event_handle), event)
with open(path, "r+b") as opened:
    exchange = mmap.mmap(opened.fileno(), length)
host = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(exchange)))
print(bytes(uuid).hex(), bytes(memory_handle).hex(), bytes(event_handle).hex(), flush=True)

for line in sys.stdin:
    command = line.strip()
    if command == "fill":
        for at in range(0, length, 1 << 20):
            exchange[at : at + (1 << 20)] = os.urandom(min(1 << 20, length - at))
        call("cuMemcpyHtoD_v2", memory, host, u64(length))
    elif command == "dump":
        call("cuMemcpyDtoH_v2", host, memory, u64(length))
    elif command == "busy":
        # About 0.5 ms for each GiB on a fast GPU.
        for _ in range(max(8, (400 << 30) // total)):
            call("cuMemcpyDtoDAsync_v2", spare, memory, u64(total), stream)
        call("cuEventRecord", event, stream)
    if command != "busy":
        call("cuCtxSynchronize")
    print("done", flush=True)
