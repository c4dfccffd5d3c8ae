"""Why no load of ours is synchronous: what vLLM does when one fails, on its own scheduler.

Should this test fail one day, `docs/decisions/loads-stay-asynchronous.md` has lost its reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.zygote import EngineProcess

from e2e import synchronous
from e2e.synchronous import BLOCK_TOKENS, COMPUTED_ON_IT, PROMPT_TOKENS

pytestmark = pytest.mark.both_versions


def test_failed_synchronous_load_hands_out_what_the_next_step_computed_on_it(
    plain: EngineProcess, tmp_path: Path
) -> None:
    seen = plain.call(synchronous.run, tmp_path)
    assert seen.first_tokens == {"r": PROMPT_TOKENS - 4 * BLOCK_TOKENS}
    assert seen.after_failure == []
    assert seen.computed_after_failure == 0, "vLLM knows that all of it has to be computed again"
    assert seen.after_second == [COMPUTED_ON_IT]
    assert seen.third_tokens > PROMPT_TOKENS, "two placeholders count as tokens of it"
