"""The bare link: large copies from pinned memory to the GPU, timed beside what is measured."""

from __future__ import annotations

import time
from typing import Any

_PIECE = 256 << 20


class Link:
    """Copies with nothing around them. On a machine without a GPU, within its memory."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self.on_gpu = bool(torch.cuda.is_available())
        size = _PIECE if self.on_gpu else 16 << 20
        self._host = torch.ones(size, dtype=torch.uint8, pin_memory=self.on_gpu)
        self._device = torch.zeros(size, dtype=torch.uint8, device="cuda" if self.on_gpu else "cpu")
        self._bytes: int = size
        self.seconds_per_byte()

    def seconds_per_byte(self, pieces: int = 4) -> float:
        """Now, to the device."""
        if self.on_gpu:
            self._torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(pieces):
            self._device.copy_(self._host, non_blocking=True)
        if self.on_gpu:
            self._torch.cuda.synchronize()
        return (time.perf_counter() - begin) / (pieces * self._bytes)
