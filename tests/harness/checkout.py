"""Places in this checkout, and what its README promises."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: Everything a run leaves behind, none of it under version control.
BUILD = ROOT / "build"
RECORDS = BUILD / "bench"
#: Apart for each environment: runs on two versions of vLLM may go on at once.
LOGS = BUILD / "e2e" / Path(sys.prefix).name.lstrip(".")
MODELS = ROOT / ".demo"


def readme_flag() -> dict[str, Any]:
    """The value of `--kv-transfer-config` that the README tells its reader to type, verbatim."""
    found = re.search(r"--kv-transfer-config '(\{[^']*\})'", (ROOT / "README.md").read_text())
    if found is None:
        raise LookupError(f"{ROOT}/README.md has no --kv-transfer-config '{{…}}'")
    flag: dict[str, Any] = json.loads(found.group(1))
    return flag
