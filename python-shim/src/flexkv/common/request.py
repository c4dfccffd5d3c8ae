"""What became of a KVManager task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[Any]


class KVResponseStatus(Enum):
    """How a task stands.

    ``SUCCESS``: it has ended and ``return_mask`` says for which tokens.  ``NOTFOUND``: no such
    task, or it was merged into a batch.  ``UNREADY``: matched, but not launched.  ``TIMEOUT``:
    still running; wait again.  ``CANCELLED``: cancelled before it was launched.  ``FAILED``: it has
    ended, and not all went well; ``return_mask`` has the tokens for which it did.
    """

    SUCCESS = "success"
    NOTFOUND = "not_found"
    UNREADY = "unready"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass
class KVResponse:
    """Answer of ``KVManager.wait`` for one task.

    ``return_mask`` is boolean over the task's ``token_ids`` (shape ``(len(token_ids),)``), a list
    of such masks for a batch, ``None`` for a task that has not ended.  True are the tokens whose KV
    was loaded (get), is cached beyond what was cached before (put), or lies in the host tier
    (prefetch).
    """

    status: KVResponseStatus
    task_id: int
    return_mask: Any
