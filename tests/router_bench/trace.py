"""The slice of the trace, and prompts that share prefixes exactly where its ids say so."""

from __future__ import annotations

import gzip
import json
import random
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

BLOCK_TOKENS = 512
SLICE = Path(__file__).parent / "data" / "conversation-2000.jsonl.gz"
#: Token ids below are special ones of the tests' tokenizer.
_FIRST_TOKEN, _VOCABULARY = 300, 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the trace; ``arrival_s`` on the trace's own clock."""

    number: int
    arrival_s: float
    input_tokens: int
    output_tokens: int
    ids: tuple[int, ...]

    @property
    def reusable_blocks(self) -> int:
        """Whole blocks that a cache may serve: the last token is always computed."""
        return (self.input_tokens - 1) // BLOCK_TOKENS

    @property
    def whole_ids(self) -> tuple[int, ...]:
        """Ids of the blocks that it fills."""
        return self.ids[: self.input_tokens // BLOCK_TOKENS]

    def prompt(self) -> list[int]:
        """Its token ids: the same id of the trace is the same block."""
        tokens: list[int] = []
        for block in self.ids:
            tokens += block_tokens(block)
        return tokens[: self.input_tokens]


def read(path: Path = SLICE, most: int | None = None) -> list[Row]:
    """The requests in the trace's order."""
    rows = []
    with gzip.open(path, "rt") as lines:
        for number, line in enumerate(lines):
            if number == most:
                break
            row = json.loads(line)
            ids = tuple(row["hash_ids"])
            wanted = -(-row["input_length"] // BLOCK_TOKENS)
            if len(ids) != wanted:
                raise ValueError(f"{path}, line {number + 1}: {len(ids)} ids, wanted {wanted}")
            rows.append(
                Row(number, row["timestamp"] / 1000, row["input_length"], row["output_length"], ids)
            )
    return rows


@lru_cache(maxsize=4096)
def block_tokens(block: int) -> array[int]:
    """The 512 tokens of one id; two ids never begin alike, for its number stands in them."""
    rng = random.Random(block)
    span = _VOCABULARY - _FIRST_TOKEN
    head = [block % span, block // span % span]
    tokens = head + rng.choices(range(span), k=BLOCK_TOKENS - len(head))
    return array("I", [_FIRST_TOKEN + token for token in tokens])
