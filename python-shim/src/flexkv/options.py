"""Every option of shim and sidecar, as read from ``options.json``, and how a value is read.

The sidecar reads the same file out of its jar and reads values by the same rules, so that both
sides always agree; ``docs/configuration.md`` is printed from it.  To add an option, add it there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

SCHEMA_PATH = Path(__file__).with_name("options.json")

SECTIONS = ("cache_config", "CacheConfig", "model_config", "ModelConfig")
"""Mappings in a file whose keys count as if they stood at its top."""

MODEL_SECTIONS = ("model_config", "ModelConfig")

Status = Literal["works", "absent", "replaced"]
Value = bool | int | float | str | tuple[str, ...]

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_WHOLE = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_MAX_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    ``status``: *works*, *absent* (the part that it is for is not built: accepted, ``says`` is
    logged) or *replaced* (something else does it: accepted, ``says`` is logged).  Values in
    ``neutral`` ask for nothing, so nothing is said of them.  ``type`` *any* is not looked at.
    What is ``live`` can be changed while the sidecar runs.
    """

    name: str
    env: str
    type: str
    side: Literal["engine", "sidecar", "both"]
    status: Status
    section: str
    aliases: tuple[str, ...] = ()
    env_aliases: tuple[str, ...] = ()
    default_text: str = ""
    least: float = 0.0
    most: float = 0.0
    choices: tuple[str, ...] = ()
    allowed: str = ""
    neutral: tuple[str, ...] = ()
    doc: str = ""
    says: str = ""
    secret: bool = False
    quiet: bool = False
    file_replaces_env: bool = False
    live: bool = False

    @property
    def default(self) -> Value:
        """The default, typed."""
        return self.parse(self.default_text)

    @property
    def envs(self) -> tuple[str, ...]:
        """All its environment variables, the preferred one first."""
        return (self.env, *self.env_aliases)

    def parse(self, value: Any) -> Value:
        """The typed form of text or of a value from JSON or YAML; raises ``ValueError``."""
        if self.type == "any":
            return "(given)"
        if self.type == "paths":
            parts = value if isinstance(value, (list, tuple)) else str(value).split(";")
            paths = tuple(p for p in (text_of(part).strip() for part in parts) if p)
            if not paths:
                raise ValueError
            return paths
        return self._parse_text(text_of(value).strip())

    def _parse_text(self, text: str) -> Value:
        if self.type == "flag":
            return _flag(text)
        if self.type == "integer":
            if not _WHOLE.fullmatch(text) or not self.least <= int(text) <= self.most:
                raise ValueError
            return int(text)
        if self.type == "number":
            if not _NUMBER.fullmatch(text) or not self.least <= float(text) <= self.most:
                raise ValueError
            return float(text)
        if self.type == "choice":
            return next(name for name in self.choices if name.lower() == text.lower())
        if self.type == "address":
            _check_address(text)
        return text

    def shown(self, value: Any) -> str:
        """A value as it may be printed: secrets are not."""
        if self.secret:
            return "***"
        return ";".join(value) if isinstance(value, tuple) else text_of(value)

    def asks(self, value: Any) -> bool:
        """Whether a value asks for more than what is there anyway."""
        if isinstance(value, (dict, list)):
            return bool(value)
        text = text_of(value).strip().lower()
        if text in self.neutral:
            return False
        if text in _TRUE or text in _FALSE:
            return ("1" if text in _TRUE else "0") not in self.neutral
        return True


def text_of(value: Any) -> str:
    """A value of a file as one would write it in the environment; ``ValueError`` for containers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError


def _check_address(text: str) -> None:
    path = text.removeprefix("ipc://")
    if path == text or not path.startswith("/") or "\0" in path:
        raise ValueError
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise ValueError


def _option(section: str, row: Mapping[str, Any]) -> Option:
    lists = ("aliases", "env_aliases", "choices", "neutral")
    fields: dict[str, Any] = {
        key: tuple(value) if key in lists else value for key, value in row.items()
    }
    fields.setdefault("env", "FLEXKV_" + row["name"].upper())
    return Option(section=section, default_text=fields.pop("default", ""), **fields)


def _load() -> tuple[Option, ...]:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return tuple(
        _option(section["title"], row)
        for section in schema["sections"]
        for row in section["options"]
    )


OPTIONS: tuple[Option, ...] = _load()
"""All of them, in the order in which they are documented."""

OPTIONS_BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}

BY_KEY: dict[str, Option] = {
    key: option for option in OPTIONS for key in (option.name, *option.aliases)
}
"""Options by every key that a file may use for them."""

LIVE: tuple[str, ...] = tuple(option.name for option in OPTIONS if option.live)
"""Options that ``flexkv set`` takes."""

DEFAULT_ADDRESS = OPTIONS_BY_NAME["server_recv_port"].default_text


def nearest(key: str) -> str:
    """Words for a message: the key that somebody most probably meant, if any is near.

    Only of options that do something: the others would be no help.
    """
    found = _nearest_key(key)
    return f"; did you mean {found!r}?" if found else ""


def nearest_variable(name: str) -> str:
    """The same for an environment variable."""
    found = _nearest_key(name.removeprefix("FLEXKV_").lower())
    return f"; did you mean {BY_KEY[found].env!r}?" if found else ""


def _nearest_key(key: str) -> str:
    works = [known for known, option in BY_KEY.items() if option.status == "works"]
    return next(iter(get_close_matches(key, works, n=1, cutoff=0.7)), "")
