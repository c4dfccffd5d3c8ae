"""Block keys from token ids: what must differ differs, and nothing is guessed."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from flexkv.tokens import KEY_BYTES, ChainHasher, int64_array, namespace_header


def keys(tokens: object, namespace: list[str] | None = None, block: int = 4) -> list[bytes]:
    joined = ChainHasher(block).keys(int64_array(tokens, "tokens"), namespace)
    return [joined[i : i + KEY_BYTES] for i in range(0, len(joined), KEY_BYTES)]


def test_keys_are_the_digests_of_the_prefixes() -> None:
    tokens = list(range(10, 23))
    header = namespace_header(["lora"])
    wanted = [
        hashlib.sha256(header + np.array(tokens[: 4 * n], "<i8").tobytes()).digest()
        for n in (1, 2, 3)
    ]
    assert keys(tokens, ["lora"]) == wanted


def test_keys_list_array_and_tensor_are_the_same() -> None:
    tokens = [5, 0, 7, 1 << 40, 9, 10, 11, 12]
    wanted = keys(tokens)
    assert keys(np.array(tokens)) == wanted
    assert keys(torch.tensor(tokens)) == wanted
    small = [*tokens[:3], 1, *tokens[4:]]
    assert keys(np.array(small, np.int32)) == keys(small)
    assert keys(torch.tensor(tokens).repeat_interleave(2)[::2]) == wanted, "a strided view"


def test_keys_one_token_changed_changes_all_from_its_block_on() -> None:
    tokens = list(range(40))
    changed = list(tokens)
    changed[17] += 1
    before, after = keys(tokens), keys(changed)
    assert before[:4] == after[:4]
    assert all(a != b for a, b in zip(before[4:], after[4:], strict=True))


def test_keys_namespaces_are_apart() -> None:
    tokens = list(range(4))
    spaces: list[list[str] | None] = [None, ["a"], ["a", ""], ["", "a"], ["a", "b"], ["ab"], [""]]
    found = [keys(tokens, space)[0] for space in spaces]
    assert len(set(found)) == len(spaces)
    # What a namespace is written as cannot be imitated by tokens behind a shorter one.
    header = namespace_header([""])[len(namespace_header(None)) :]
    imitated = np.frombuffer(header + bytes(32), "<i8").tolist()
    assert keys(imitated)[0] != keys(tokens, [""])[0]


def test_hasher_remembered_equals_hashed_afresh() -> None:
    """Random walks through a tree of prompts, against a hasher that remembers nothing."""
    rng = random.Random(4)
    remembering = ChainHasher(16, memory_bytes=400_000)
    prompts: list[list[int]] = [[]]
    for _ in range(300):
        stem = rng.choice(prompts)
        stem = stem[: rng.randrange(len(stem) + 1)]
        prompt = stem + [rng.randrange(3) for _ in range(rng.randrange(2500))]
        prompts.append(prompt)
        space = rng.choice([None, ["x"]])
        array = np.array(prompt, np.int64)
        assert remembering.keys(array, space) == ChainHasher(16).keys(array, space)
    assert remembering.remembered_blocks > 1000
    assert remembering.hashed_blocks > 1000
    assert remembering._used <= 400_000
    assert remembering._used == sum(len(c.data) + len(c.keys) for c in remembering._chunks.values())


def test_hasher_same_tail_other_body_is_not_taken_for_it() -> None:
    hasher = ChainHasher(16)
    first = np.zeros(1024, np.int64)
    second = first.copy()
    second[3] = 1
    assert hasher.keys(first) != hasher.keys(second)
    assert hasher.keys(first) == ChainHasher(16).keys(first)


@pytest.mark.parametrize(
    ("tokens", "error", "text"),
    [
        ([0.5], TypeError, "token_ids holds float64, must hold integers"),
        ([[1, 2]], ValueError, r"token_ids has shape \(1, 2\), must have one dimension"),
        (np.array([1 << 63], np.uint64), ValueError, "must be below 2\\^63"),
    ],
)
def test_tokens_wrong_are_named(tokens: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        int64_array(tokens, "token_ids")


@pytest.mark.parametrize("namespace", ["text", [1]])
def test_namespace_not_alist_of_strings_is_named(namespace: object) -> None:
    with pytest.raises(TypeError, match="must be a list of strings"):
        namespace_header(namespace)  # type: ignore[arg-type]


def test_tokens_none_have_no_keys() -> None:
    assert keys([]) == []
    assert keys([1, 2, 3]) == []
