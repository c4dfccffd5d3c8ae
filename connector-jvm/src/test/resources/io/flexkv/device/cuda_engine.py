"""Owns GPU memory for the contract test: one allocation for each argument (bytes), zero-filled.

First line: uuid and a handle an allocation, in hex.  Then for each line on stdin:
    peek <allocation> <offset> <length>   answers the bytes in hex
    poke <allocation> <offset> <hex>      answers "done"
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
allocations, words = [], [bytes(uuid).hex()]
for length in map(int, sys.argv[1:]):
    memory, handle = u64(), (ctypes.c_ubyte * 64)()
    call("cuMemAlloc_v2", ctypes.byref(memory), u64(length))
    call("cuMemcpyHtoD_v2", memory, bytes(length), u64(length))
    call("cuIpcGetMemHandle", ctypes.byref(handle), memory)
    allocations.append(memory.value)
    words.append(bytes(handle).hex())
print(*words, flush=True)

for line in sys.stdin:
    command, allocation, offset, argument = line.split()
    address = u64(allocations[int(allocation)] + int(offset))
    if command == "peek":
        buffer = ctypes.create_string_buffer(int(argument))
        call("cuMemcpyDtoH_v2", buffer, address, u64(int(argument)))
        print(buffer.raw.hex(), flush=True)
    else:
        data = bytes.fromhex(argument)
        call("cuMemcpyHtoD_v2", address, data, u64(len(data)))
        call("cuCtxSynchronize")
        print("done", flush=True)
