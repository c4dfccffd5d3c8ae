"""What older vLLM leaves to the connector, so that nothing is wrong and nothing hangs.

**Before 0.16** an abort frees the request's blocks while its load is still open.  Later versions
keep them until every worker has named the request in ``finished_recving``.  Before, only the
connector can keep them: ``request_finished`` answers that they are still in use, and vLLM frees
them when every worker has named the request in ``finished_sending`` instead.  A rank may have
reported the load as received before it hears of the abort, another not: so the scheduler's side
tells the workers which requests it kept, and each names them as sent, at once if its part of the
load has ended, else when it does.  Every rank names them as received all the same: vLLM counts the
ranks by request id, and a count that stays open, like a name that those versions remember as
received, would take the load of a later request of that id for complete.  So the scheduler's side
takes the kept ones out of ``finished_recving`` before vLLM reads it.  No rank names a request as
sent before it has named it as received: once it is sent, nothing more is heard of it.

An abort may also come when the load has ended and the request has yet to be scheduled.  Its blocks
may go then, but those versions forget the word "received" only when they schedule the request: they
remember it for good, and a load of a later request of that id (a user's own, before 0.14) would be
taken for complete before it has begun.  Only vLLM could forget it, so no request of such an id is
offered a load.

**Before 0.14** ``update_state_after_alloc`` shows only what was allocated now.  For a request that
holds no blocks that is its whole table, but when a load has ended it is what comes behind it.  And
a request that was preempted and then loads is run as a new one, without the tokens that it had
answered: such a request computes instead.

**Before 0.23** loads are admitted as long as their own blocks are free.  A request whose load is
open, or has ended and that has not run since, holds blocks, makes no progress and cannot be
preempted; and scheduling stops at the first waiting request that finds no room.  With enough of
them nothing runs any more, for ever (vllm#27074).  So a load is taken here only while all of these
and the largest request that is known fit into the pool together: whichever comes first can run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_FILTER_BITS = 1 << 23


@dataclass(frozen=True, slots=True)
class Quirks:
    """What the vLLM that loads us leaves to us; see the module."""

    frees_open_loads: bool = False
    admits_without_room: bool = False
    shows_new_blocks_only: bool = False
    resumes_loads_as_new: bool = False


def whole_table(held: Sequence[int], shown: list[int]) -> list[int]:
    """A request's block table: what is shown of it, behind what it holds unless that is shown too.

    A block that is held cannot be given to anybody, so one look at the first tells which it is.
    """
    if not held or (shown and shown[0] == held[0]):
        return shown
    return [*held, *shown]


class IdFilter:
    """Ids that were added, and by chance some others: a mebibyte, however many there are.

    A Bloom filter with four bits an id: of other ids one in 200,000 is taken for one of 100,000,
    one in 50 for one of a million.
    """

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, request_id: str) -> None:
        """From now on ``request_id in self``."""
        if not self._bits:
            self._bits = bytearray(_FILTER_BITS // 8)
        for place in _places(request_id):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, request_id: object) -> bool:
        bits = self._bits
        return bool(bits) and all(bits[p >> 3] >> (p & 7) & 1 for p in _places(str(request_id)))


def _places(request_id: str) -> Iterator[int]:
    digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=16).digest()
    for i in range(0, 16, 4):
        yield int.from_bytes(digest[i : i + 4], "little") % _FILTER_BITS


class KeptRequests:
    """The scheduler's half: requests whose blocks vLLM keeps until they are "sent"."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._new: list[str] = []
        self._unread: set[str] = set()
        self.remembered = IdFilter()
        """Ids that vLLM takes for received for good: nothing may be loaded for them."""

    def finished(self, request_id: str, *, loading: bool) -> bool:
        """Whether ``request_finished`` answers true; the next step tells the workers then."""
        if loading:
            self._new.append(request_id)
        elif request_id in self._unread:
            self._unread.discard(request_id)
            self.remembered.add(request_id)
        return loading

    def take(self) -> list[str]:
        """What the step that is being built has to tell."""
        new, self._new = self._new, []
        self._told.update(new)
        return new

    def take_out(self, received: Iterable[str] | None) -> set[str]:
        """What every worker has received, less ours: vLLM would remember them for good."""
        rest = set(received or ()).difference(self._told, self._new)
        self._unread |= rest
        return rest

    def scheduled(self, request_id: str) -> None:
        """Now vLLM asks about this request or runs it: the word is read, and forgotten."""
        self._unread.discard(request_id)

    def sent(self, request_ids: Iterable[str] | None) -> list[str]:
        """Those of ours that every worker has named by now."""
        if not self._told or not request_ids:
            return []
        ended = self._told.intersection(request_ids)
        self._told -= ended
        return list(ended)


class SentInstead:
    """A worker's half.  Engine thread of one rank only."""

    def __init__(self) -> None:
        self._waited_for: set[str] = set()
        self._sent: set[str] = set()

    def hear(self, request_ids: Iterable[str], is_open: Callable[[str], bool]) -> None:
        """These requests were aborted and kept; ``is_open``: this rank has yet to end the load."""
        for request_id in request_ids:
            (self._waited_for if is_open(request_id) else self._sent).add(request_id)

    def ended(self, received: set[str]) -> None:
        """These loads have ended now, and are named as received in the same step."""
        mine = received & self._waited_for
        self._waited_for -= mine
        self._sent |= mine

    def take(self) -> set[str]:
        """Requests to name as sent, each once."""
        sent, self._sent = self._sent, set()
        return sent


class Parking:
    """Blocks that requests need which hold some and do not run.  Scheduler thread only."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self._room = num_blocks - 1  # block 0 is never handed out
        self._block_tokens = block_tokens
        self._parked: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def fits(self, num_tokens: int, others: Iterable[int]) -> bool:
        """Whether a request of so many tokens may be parked beside what is parked already.

        ``others`` are the tokens of all requests that are known.
        """
        largest = self._blocks(max(others, default=0))
        return sum(self._parked.values()) + self._blocks(num_tokens) + largest <= self._room

    def park(self, request_id: str, num_tokens: int) -> None:
        """A load was granted to this request."""
        self._parked[request_id] = self._blocks(num_tokens)

    def leave(self, request_ids: Iterable[str]) -> None:
        """These run, or hold no blocks any more."""
        if self._parked:
            for request_id in request_ids:
                self._parked.pop(request_id, None)

    def _blocks(self, num_tokens: int) -> int:
        """With room for the next token, and for drafts of some more."""
        return num_tokens // self._block_tokens + 2
