"""Reads a configuration file: YAML, or JSON with comments; the legacy nested form too.

The sidecar reads the same files (``ConfigFile`` in Java) by the same rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flexkv.errors import ConfigError
from flexkv.options import BY_KEY, MODEL_SECTIONS, SECTIONS, nearest

CONFIG_PATH_ENV = "FLEXKV_CONFIG_PATH"
MAX_CONFIG_BYTES = 1024 * 1024

_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT_OR_STRING = re.compile(_STRING + r"|//[^\n]*|/\*.*?\*/", re.DOTALL)
_COMMA_OR_STRING = re.compile(_STRING + r"|,(?=\s*[}\]])", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class FileValues:
    """What a file says: raw values by option name, and what was odd about it.

    ``unknown`` lists whole sentences on keys that no option has, ``unset`` by their names on
    variables that the environment has not, ``remarks`` on the rest.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.unknown: list[str] = []
        self.unset: dict[str, str] = {}
        self.remarks: list[str] = []


def read_file(path: str, env: Mapping[str, str], named_by: str = CONFIG_PATH_ENV) -> FileValues:
    """Reads ``path`` (``.json``, ``.yaml``, ``.yml``); raises ``ConfigError`` with the remedy.

    ``${NAME}`` is replaced from ``env``; what is not there stays as it stands.  Sections count
    less than the top level; a key with a null value counts as not given.  ``named_by`` is where
    the path was given, for messages.
    """
    found = FileValues(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{named_by} is {path!r}, must end in .json, .yaml or .yml")
    text = _VARIABLE.sub(lambda m: env.get(m.group(1), m.group(0)), _read(path, named_by))
    try:
        data = _parse_json(text) if suffix == ".json" else _parse_yaml(text, path)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be parsed: {error}") from None
    if data is None:
        return found
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}, must be a mapping of options")
    for section, layer in _layers(data):
        _take(section, layer, found)
    missing = (_VARIABLE.finditer(v) for v in found.values.values() if isinstance(v, str))
    for name in sorted({m.group(1) for matches in missing for m in matches}):
        found.unset[name] = (
            f"{path}: {name} is not in the environment, so ${{{name}}} stays as it is written: "
            "set it"
        )
    return found


def _layers(data: dict[Any, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The sections and then the top, which counts more."""
    for section in SECTIONS:
        if isinstance(data.get(section), dict):
            yield section, data[section]
    yield "", {k: v for k, v in data.items() if not (k in SECTIONS and isinstance(v, dict))}


def _take(section: str, layer: dict[Any, Any], found: FileValues) -> None:
    engines: list[str] = []
    for key, value in layer.items():
        option = BY_KEY.get(str(key))
        if option is not None:
            if value is not None:
                found.values[option.name] = value
        elif section in MODEL_SECTIONS:
            engines.append(str(key))
        else:
            where = f"{found.path} {section}".strip()
            found.unknown.append(f"{where} has an unknown key {str(key)!r}{nearest(str(key))}")
    if engines:
        found.remarks.append(
            f"{found.path} {section}: {', '.join(engines)} are read from the engine instead"
        )


def _read(path: str, named_by: str) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{named_by} is {path!r}, which cannot be read: {error}") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    return text


def _parse_json(text: str) -> Any:
    """JSON with ``//`` and block comments and commas before a closing bracket."""
    for pattern in (_COMMENT_OR_STRING, _COMMA_OR_STRING):
        text = pattern.sub(lambda m: m.group(0) if m.group(0).startswith('"') else " ", text)
    return json.loads(text) if text.strip() else None


def _parse_yaml(text: str, path: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f"{path} is YAML and PyYAML is not installed: pip install pyyaml, or write JSON"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own text quotes the line, in which ``${NAME}`` may have become a password.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{getattr(error, 'problem', None) or 'bad YAML'}{where}") from None
