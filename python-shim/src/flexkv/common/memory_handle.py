"""A torch tensor that another process can open."""

from __future__ import annotations

from typing import Any

from flexkv.errors import FlexKVError


class TensorSharedHandle:
    """A tensor as something that can be pickled and sent to another process of this host.

    ``TensorSharedHandle(tensor)`` shares a CUDA tensor by CUDA IPC, one on the CPU by shared memory
    (its storage is moved there).  ``get_tensor()`` opens it in the process that received it; the
    sender must keep the tensor alive, and must not be the process that opens it.
    """

    def __init__(
        self,
        data: Any,
        device_id: int = -1,  # noqa: ARG002
        force_direct_ipc: bool = False,  # noqa: ARG002
    ) -> None:
        """Shares ``data``; ``device_id`` and ``force_direct_ipc`` change nothing for a tensor."""
        if not hasattr(data, "untyped_storage"):
            raise FlexKVError(
                f"a {type(data).__name__} cannot be shared, must be a torch tensor: register the "
                "tensor in the process that allocated it"
            )
        from torch.multiprocessing.reductions import reduce_tensor

        self.device = data.device
        self.tensor_shape = tuple(data.shape)
        self.tensor_dtype = data.dtype
        self._rebuild, self._arguments = reduce_tensor(data)

    def get_tensor(self) -> Any:
        """The tensor, in this process."""
        return self._rebuild(*self._arguments)
