"""The router's own cost function, applied to what is true when it decides.

Dynamo 1.6's cost of a worker, in blocks (lower wins):

    max(prefill that waits there + prompt - credit, 0) + distinct blocks of its requests and it

where the credit is the blocks it can use, those past the GPU's run by their tier's weight.  The two
load terms are kept here as the router keeps them: a request's prefill counts from its choice to its
first token, its blocks until its last.  How well that is done is measured: the router logs the cost
of the worker that it chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router_bench.residency import Reach
from router_bench.trace import BLOCK_TOKENS, Row

#: Two costs that differ by less are one: a difference of rounding, not of rank.
SAME = 1e-3


@dataclass(frozen=True, slots=True)
class Weights:
    """What a block in a lower tier counts beside one in the GPU."""

    host: float
    disk: float

    def credit(self, reach: Reach) -> float:
        """Blocks that need no prefill."""
        return (
            reach.gpu + self.host * (reach.host - reach.gpu) + self.disk * (reach.ssd - reach.host)
        )


@dataclass(slots=True)
class Choice:
    """One request on its way through the router; times are the wall's, in seconds."""

    row: Row
    reaches: tuple[Reach, ...]
    """By worker, what was true just before the request was sent."""
    at_s: float = 0.0
    """When the router chose."""
    worker: int = -1
    prefilled_s: float = 0.0
    ended_s: float = 0.0
    """When the router saw its first and its last token."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice beside what the router's cost function makes of what was true."""

    number: int
    chosen: int
    reaches: tuple[Reach, ...]
    costs: tuple[float, ...]

    @property
    def differs(self) -> bool:
        """Whether the workers differ in what they can use of the prompt."""
        return len(set(self.reaches)) > 1

    @property
    def is_best(self) -> bool:
        """Whether no worker costs less."""
        return self.costs[self.chosen] <= min(self.costs) + SAME


def judge(choices: Sequence[Choice], workers: int, weights: Weights) -> list[Decision]:
    """Every choice, in the order in which they were made."""
    changes: list[tuple[float, int, Choice]] = []
    for choice in choices:
        changes += [(choice.prefilled_s, 0, choice), (choice.ended_s, 1, choice)]
    changes.sort(key=lambda change: change[:2])
    loads = _Loads(workers, weights)
    decisions = []
    done = 0
    for choice in choices:
        while done < len(changes) and changes[done][0] <= choice.at_s:
            _, end, changed = changes[done]
            loads.changed(changed.row.number, ended=bool(end))
            done += 1
        costs = loads.costs(choice.row, choice.reaches)
        loads.chosen(choice.row, choice.worker, choice.reaches[choice.worker])
        decisions.append(Decision(choice.row.number, choice.worker, choice.reaches, costs))
    return decisions


class _Loads:
    """What the router counts as each worker's load."""

    def __init__(self, workers: int, weights: Weights) -> None:
        self._weights = weights
        self._blocks: list[dict[int, tuple[int, ...]]] = [{} for _ in range(workers)]
        self._waiting: list[dict[int, float]] = [{} for _ in range(workers)]

    def costs(self, row: Row, reaches: tuple[Reach, ...]) -> tuple[float, ...]:
        """Of every worker, for this request."""
        found = []
        for reach, held, waiting in zip(reaches, self._blocks, self._waiting, strict=True):
            blocks = set(row.whole_ids).union(*held.values())
            prefill = row.input_tokens / BLOCK_TOKENS - self._weights.credit(reach)
            found.append(max(sum(waiting.values()) + prefill, 0.0) + len(blocks))
        return tuple(found)

    def chosen(self, row: Row, worker: int, reach: Reach) -> None:
        """The router sent a request there, and takes this as usable there."""
        left = max(row.input_tokens / BLOCK_TOKENS - self._weights.credit(reach), 0.0)
        self._blocks[worker][row.number] = row.whole_ids
        self._waiting[worker][row.number] = left

    def changed(self, number: int, *, ended: bool) -> None:
        """Its first token has come, or its last."""
        for blocks, waiting in zip(self._blocks, self._waiting, strict=True):
            waiting.pop(number, None)
            if ended:
                blocks.pop(number, None)
