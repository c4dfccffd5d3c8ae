"""Which weights a model has, without reading them: enough to tell another set of weights.

A hub model is named by its resolved commit, a local folder by names, sizes and modification times
of its weight files, dummy weights by their seed.  Where none of these can be had, a note says that
the user must tell versions apart (``flexkv_weights_version``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

MAX_FILES = 10_000

_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".tensors", ".mdl",
    ".index.json", "adapter_config.json",
)  # fmt: skip
_SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
UNSURE = (
    "FlexKV cannot tell versions of the weights of {name!r} apart ({why}): set "
    "flexkv_weights_version in kv_connector_extra_config and change it with the weights"
)


def weights_identity(
    model: str, revision: str | None, commit: str | None, load_format: str, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """What tells these weights from others, as plain JSON values, and notes for the user."""
    if load_format == "dummy":
        return {"kind": "dummy", "seed": seed}, []
    path = Path(model)
    snapshot = _SNAPSHOT.search(f"{path.resolve() if path.exists() else model}")
    if snapshot:
        return {"kind": "hub", "repo": snapshot.group(1), "commit": snapshot.group(2)}, []
    if path.is_dir():
        files, cut = _files(path)
        notes = []
        if not files:
            notes.append(UNSURE.format(name=model, why="no weight files in the folder"))
        if cut:
            notes.append(UNSURE.format(name=model, why=f"more than {MAX_FILES} weight files"))
        return {"kind": "folder", "files": files, "format": load_format}, notes
    if path.is_file():
        return {"kind": "file", "files": [_file(path, path.name)], "format": load_format}, []
    repo = model.replace("/", "--")
    if commit is None and revision is not None and _COMMIT.match(revision):
        commit = revision
    commit = commit or _cached_commit(repo, revision or "main")
    if commit is not None:
        return {"kind": "hub", "repo": repo, "commit": commit}, []
    note = UNSURE.format(name=model, why="neither a local path nor a resolved hub revision")
    return {"kind": "unknown", "name": model, "revision": revision}, [note]


def _files(folder: Path) -> tuple[list[list[Any]], bool]:
    """[name, size, modification time in ns] of every weight file, sorted; whether cut short."""
    found: list[list[Any]] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_SUFFIXES):
                if len(found) == MAX_FILES:
                    return found, True
                path = Path(parent, name)
                found.append(_file(path, str(path.relative_to(folder))))
    return found, False


def _file(path: Path, name: str) -> list[Any]:
    try:
        info = path.stat()
    except OSError:
        return [name, -1, -1]  # a dangling link is still a difference
    return [name, info.st_size, info.st_mtime_ns]


def _cached_commit(repo: str, revision: str) -> str | None:
    """The commit that the hub's local cache has for this revision."""
    home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
    hub = os.environ.get("HF_HUB_CACHE") or str(Path(home, "hub"))
    try:
        commit = Path(hub, f"models--{repo}", "refs", revision).read_text().strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.match(commit) else None
