"""Plays a CPU engine: owns one piece of memory, says where it is, and waits for the end of stdin.

Argument: bytes.  Answers one line: the address.
"""

import ctypes
import mmap
import sys

PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)
ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
length = int(sys.argv[1])
memory = mmap.mmap(-1, length)
for at in range(0, length, 4096):
    memory[at] = at >> 12 & 0xFF
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
