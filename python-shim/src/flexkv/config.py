"""What the user set, checked and with its source.

Precedence: ``kv_connector_extra_config`` above the file named by ``FLEXKV_CONFIG_PATH`` above the
environment above the default.  The sidecar reads the same file for its own options; the shim looks
only at those in ``options.OPTIONS``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexkv.errors import ConfigError
from flexkv.options import ALIASES, DEFAULT_ADDRESS, OPTIONS, OPTIONS_BY_NAME, SIDECAR_OPTIONS

CONFIG_PATH_ENV = "FLEXKV_CONFIG_PATH"
MAX_CONFIG_BYTES = 1024 * 1024

_SECTIONS = ("cache_config", "CacheConfig", "model_config", "ModelConfig")
_COMMENT_OR_STRING = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of ``options.OPTIONS`` under their names, and where each came from.

    ``sidecar`` holds options for the sidecar that came with ``kv_connector_extra_config``; they
    reach it only if the shim starts it.  ``ignored`` names plain extra keys that are not ours.
    """

    enabled: bool = True
    server_recv_port: str = DEFAULT_ADDRESS
    server_launch_mode: str = "embedded"
    instance_num: int = 1
    instance_id: int = 0
    log_level: str = "INFO"
    lookup_spin_us: int = 50
    step_spin_us: int = 1000
    load_deadline_ms: int = 10_000
    drain_timeout_ms: int = 5000
    start_timeout_s: float = 60.0
    idle_exit_s: float = 60.0
    runtime_dir: str = ""
    java: str = ""
    java_home: str = ""
    jar: str = ""
    rings: bool = True
    load_failure_policy: str = "recompute"
    weights_version: str = ""
    plugin_replace: bool = True
    set_hash_seed: bool = True
    config_path: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @property
    def socket_path(self) -> str:
        """The rendezvous socket's path."""
        return self.server_recv_port.removeprefix("ipc://")

    @property
    def launch(self) -> bool:
        """Whether the shim starts a sidecar where it finds none."""
        return self.server_launch_mode == "embedded"

    @classmethod
    def load(
        cls,
        extra: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Settings:
        """Reads every source; raises ``ConfigError`` naming the first thing that is wrong."""
        env = os.environ if env is None else env
        own, sidecar, ignored = _split_extra(extra or {})
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        config_path = str(own.pop("config_path", "") or env.get(CONFIG_PATH_ENV, "")).strip()
        file_values = read_file(config_path, env) if config_path else {}
        for option in OPTIONS:
            if option.name in own:
                source, value = f"kv_connector_extra_config {option.name}", own[option.name]
            elif option.name in file_values:
                source, value = f"{config_path} {option.name}", file_values[option.name]
            elif option.env in env:
                source, value = option.env, env[option.env]
            else:
                sources[option.name] = "default"
                continue
            values[option.name] = _parsed(source, option.parse, value, option.allowed)
            sources[option.name] = source
        settings = cls(
            **values, config_path=config_path, sidecar=sidecar, sources=sources, ignored=ignored
        )
        if settings.instance_id >= settings.instance_num:
            raise ConfigError(
                f"FLEXKV_INSTANCE_ID is {settings.instance_id}, must be below FLEXKV_INSTANCE_NUM "
                f"({settings.instance_num})"
            )
        return settings


def _parsed(source: str, parse: Any, value: Any, allowed: str) -> Any:
    try:
        return parse(value)
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{source} is {value!r}, must be {allowed}") from None


def _split_extra(
    extra: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Options of the shim, options of the sidecar, and keys that belong to somebody else."""
    own: dict[str, Any] = {}
    sidecar: dict[str, Any] = {}
    ignored: list[str] = []
    unknown: list[str] = []
    for key, value in extra.items():
        plain = key.removeprefix("flexkv_")
        name = ALIASES.get(key, ALIASES.get(plain, plain))
        if name in OPTIONS_BY_NAME or name == "config_path":
            target = own
        elif name in SIDECAR_OPTIONS:
            target = sidecar
        else:
            (unknown if key.startswith("flexkv_") else ignored).append(key)
            continue
        if name in target and target[name] != value:
            raise ConfigError(
                f"kv_connector_extra_config names {name} twice: {target[name]!r} and {value!r}"
            )
        target[name] = value
    for name, value in sidecar.items():
        source = f"kv_connector_extra_config {name}"
        sidecar[name] = _parsed(source, SIDECAR_OPTIONS[name], value, "a number in range")
    if unknown:
        known = sorted([*OPTIONS_BY_NAME, *SIDECAR_OPTIONS, "config_path"])
        raise ConfigError(
            f"kv_connector_extra_config has unknown {', '.join(sorted(unknown))}; known are "
            f"flexkv_ and one of: {', '.join(known)}"
        )
    return own, sidecar, tuple(sorted(ignored))


def read_file(path: str, env: Mapping[str, str]) -> dict[str, Any]:
    """The shim's options in a configuration file (``.json``, ``.yaml``, ``.yml``).

    JSON may have ``//`` and ``/* */`` comments; ``${NAME}`` is replaced from the environment.  Keys
    that are not the shim's are the sidecar's to judge.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"{CONFIG_PATH_ENV} is {path!r}, must end in .json, .yaml or .yml")
    try:
        raw = Path(path).read_bytes()[: MAX_CONFIG_BYTES + 1]
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{CONFIG_PATH_ENV} is {path!r}, which cannot be read: {error}") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    text = _VARIABLE.sub(lambda m: env.get(m.group(1), m.group(0)), text)
    try:
        data = _parse_json(text) if suffix == ".json" else _parse_yaml(text, path)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be parsed: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}, must be a mapping of options")
    found: dict[str, Any] = {}
    for layer in (*(data.get(s) for s in _SECTIONS), data):
        if isinstance(layer, dict):
            for key, value in layer.items():
                name = ALIASES.get(key, key)
                if name in OPTIONS_BY_NAME and value is not None:
                    found[name] = value
    return found


def _parse_json(text: str) -> Any:
    without = _COMMENT_OR_STRING.sub(
        lambda m: m.group(0) if m.group(0).startswith('"') else " ", text
    )
    return json.loads(without)


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
        raise ValueError(str(error)) from None
