"""What the scheduler side tells every worker rank in one step.

Enough for a rank to finish or fail every job with the sidecar dead, and no keys: the sidecar has
those already.  Pickled by vLLM once a step, so it stays small: five numbers and one string a job,
and the destination blocks of loads as one array of ``u32``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from flexkv.protocol import KIND_LOAD

BEFORE_FORWARD = 0
"""The bytes are complete once everything submitted before this step's forward has run."""
AFTER_FORWARD = 1
"""The bytes are complete once this step's forward has run."""

VOID_EPOCH = 0
"""Boot epoch of a job that no sidecar knows: a worker fails it at once."""


def no_blocks() -> array[int]:
    """An empty list of block ids."""
    return array("I")


@dataclass(slots=True)
class StepJob:
    """One load or save of one request, as every rank sees it.

    ``blocks`` are the GPU blocks that a load writes, in chain order (empty for a save).
    """

    job_id: int
    boot_epoch: int
    request_id: str
    kind: int
    when: int = BEFORE_FORWARD
    blocks: array[int] = field(default_factory=no_blocks)

    @property
    def is_load(self) -> bool:
        return self.kind == KIND_LOAD


@dataclass(slots=True)
class StepMetadata:
    """The jobs of one step, in the order in which the scheduler planned them.

    Loads whose id is in ``void`` were planned before a reset of the cache: they end as failed,
    whatever the sidecar says of them.  ``kept`` are requests that were aborted with their load
    open; vLLM before 0.16 waits until each is named as sent.
    """

    jobs: list[StepJob] = field(default_factory=list)
    void: list[int] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
