"""Where a model comes from: enough to tell another configuration or other weights from these.

Only what goes *into* the model is looked at, not vLLM's configuration object: many models change
that object when a worker loads them, so scheduler and workers would not agree on it.  A hub model
is named by its resolved commit, a local folder by the content of its configuration files and by
names, sizes and modification times of its weight files, dummy weights by their seed.  Where none
of these can be had, a note says that the user must tell versions apart
(``flexkv_weights_version``).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

MAX_FILES = 10_000

_CONFIG_FILES = (
    "config.json",
    "params.json",
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
)
_MAX_CONFIG_BYTES = 16 * 1024 * 1024
_WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".tensors", ".mdl",
    ".index.json", ".py",
)  # fmt: skip
_SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
UNSURE = (
    "FlexKV cannot tell versions of the model {name!r} apart ({why}): set "
    "flexkv_weights_version in kv_connector_extra_config and change it with the model"
)


def source_identity(
    model: str, revision: str | None, commit: str | None, load_format: str, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """What tells this model from others, as plain JSON values, and notes for the user.

    ``commit`` is what the hub said when vLLM read the configuration, if it is known.
    """
    dummy = load_format == "dummy"
    how = {"dummy_seed": seed} if dummy else {"format": load_format}
    path = Path(model)
    exists = path.exists()
    snapshot = _SNAPSHOT.search(str(path.absolute()) if exists else model)
    if snapshot:
        return {"kind": "hub", "repo": snapshot[1], "commit": snapshot[2], **how}, []
    if exists and not path.is_dir():
        return {"kind": "file", "files": [_file(path, path.name)], **how}, []
    if exists:
        return _folder(path, how, weights=not dummy)
    repo = model.replace("/", "--")
    if commit is None and revision is not None and _COMMIT.match(revision):
        commit = revision
    commit = commit or _cached_commit(repo, revision or "main")
    if commit is not None:
        return {"kind": "hub", "repo": repo, "commit": commit, **how}, []
    note = UNSURE.format(name=model, why="neither a local path nor a resolved hub revision")
    return {"kind": "unknown", "name": model, "revision": revision, **how}, [note]


def _folder(path: Path, how: dict[str, Any], *, weights: bool) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {"kind": "folder", "config": config_files(path), **how}
    if not weights:
        return found, []
    found["files"], cut = _weight_files(path)
    if not found["files"]:
        return found, [UNSURE.format(name=str(path), why="no weight files in the folder")]
    if cut:
        return found, [UNSURE.format(name=str(path), why=f"more than {MAX_FILES} weight files")]
    return found, []


def config_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every configuration file in ``folder``."""
    found: dict[str, str] = {}
    for name in _CONFIG_FILES:
        try:
            with (folder / name).open("rb") as file:
                found[name] = hashlib.sha256(file.read(_MAX_CONFIG_BYTES)).hexdigest()
        except OSError:
            continue  # most folders have one or two of them
    return found


def _weight_files(folder: Path) -> tuple[list[list[Any]], bool]:
    """[name, size, modification time in ns] of every weight file, sorted; whether cut short."""
    found: list[list[Any]] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_WEIGHT_SUFFIXES):
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
