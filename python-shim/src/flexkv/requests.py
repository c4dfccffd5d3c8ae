"""What the scheduler side remembers of one request."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from flexkv.metadata import no_blocks
from flexkv.protocol import LookupAnswer


def no_counters() -> array[int]:
    """Generation counters of no blocks, as they travel."""
    return array("Q")


@dataclass(slots=True)
class Offer:
    """What ``get_num_new_matched_tokens`` promised to vLLM: a lease and where it starts."""

    lease_id: int
    generation: int
    first_block: int
    blocks: int


@dataclass(slots=True)
class OpenLoad:
    """A load that vLLM waits for.  ``failed`` is the first block that did not arrive, if any.

    ``parts_left`` ranks have not yet got all of it, as far as the sidecar has told; it was planned
    at ``since`` (seconds).
    """

    job_id: int
    first_block: int
    blocks: array[int] = field(default_factory=no_blocks)
    failed: int | None = None
    parts_left: int = 1
    since: float = 0.0

    def note_invalid(self, invalid: set[int]) -> None:
        """Notes which of the load's blocks, if any, is the first of these."""
        for index, block in enumerate(self.blocks):
            if block in invalid:
                self.fail_at(index)
                return

    def fail_at(self, index: int) -> None:
        """Notes that the load's block ``index`` (counted from its first) is not in place."""
        self.failed = index if self.failed is None else min(self.failed, index)


@dataclass(slots=True)
class RequestState:
    """One request, from its admission to ``request_finished``.

    ``number`` is its name on the wire.  Counts are blocks from the start of the chain:
    ``known`` entries of ``blocks`` have been counted as assigned to this request, the first
    ``verified`` of them hold bytes that we saw written, ``saved`` is where the next save plan
    starts, ``sent`` hashes are with the sidecar, which has at least ``resident`` blocks.
    ``held_at`` are the counters that ``blocks`` had when vLLM showed them (those of a local hit: at
    that step's end): a block that has another by now is another request's, whoever has filled it
    since and however that went unseen.
    ``loaded`` counts the blocks that loads brought in.
    ``tainted``: its blocks were computed before a reset, what builds on them must not be saved.
    """

    number: int
    request_id: str
    request: Any
    blocks: array[int] = field(default_factory=no_blocks)
    known: int = 0
    local: int = 0
    verified: int = 0
    held_at: array[int] = field(default_factory=no_counters)
    # -- what the present session knows; void with it
    sent: int = 0
    saved: int = 0
    resident: int = 0
    query_id: int = 0
    asked_keys: int = 0
    asked_at: float = 0.0
    answer: LookupAnswer | None = None
    answered_at: float = 0.0
    offer: Offer | None = None
    # -- how the request behaves
    asks: int = 0
    asks_since: float = 0.0
    load: OpenLoad | None = None
    load_failed: bool = False
    loaded: int = 0
    tainted: bool = False
    no_save: bool = False
    no_load: bool = False

    def forget_session(self) -> None:
        """The session ended, or the cache was reset: nothing it said holds any longer."""
        self.sent = self.saved = self.resident = 0
        self.query_id = 0
        self.answer = None
        self.offer = None

    def forget_blocks(self) -> None:
        """The engine took the request's blocks away."""
        self.blocks = no_blocks()
        self.held_at = no_counters()
        self.known = self.verified = self.saved = 0
        self.tainted = False
