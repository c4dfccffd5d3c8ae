"""Every option of the shim as data: name, environment variable, type, default, what is allowed.

``config.py`` reads them; the command line and the documentation print them from here.  Options of
the sidecar (pool sizes, eviction, …) are its own business: the shim only knows the names it may
pass on from ``kv_connector_extra_config`` (``SIDECAR_OPTIONS``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT_ADDRESS = "ipc:///tmp/flexkv_server"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")


@dataclass(frozen=True, slots=True)
class Option:
    """One option; ``parse`` takes text or a typed value; raises ``ValueError`` or ``TypeError``."""

    name: str
    env: str
    default: Any
    parse: Callable[[Any], Any]
    allowed: str
    help: str


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    text = str(value).strip().lower() if isinstance(value, str) else None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _number(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        number = float(value)
        if not low <= number <= high:  # NaN fails both
            raise ValueError
        return number

    return parse


def _choice(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = value.strip() if isinstance(value, str) else ""
        for name in names:
            if text.lower() == name.lower():
                return name
        raise ValueError

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _version_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    return str(value)


def _address(value: Any) -> str:
    text = _text(value)
    path = text.removeprefix("ipc://")
    if path == text or not path.startswith("/") or len(path.encode()) > 107 or "\0" in path:
        raise ValueError
    return text


OPTIONS: tuple[Option, ...] = (
    Option("enabled", "ENABLE_FLEXKV", True, _bool, "0 or 1", "0 turns FlexKV off"),
    Option(
        "server_recv_port", "FLEXKV_SERVER_RECV_PORT", DEFAULT_ADDRESS, _address,
        "ipc:// and an absolute path of at most 107 bytes", "where shim and sidecar meet",
    ),
    Option(
        "server_launch_mode", "FLEXKV_SERVER_LAUNCH_MODE", "embedded",
        _choice("embedded", "external"), "embedded or external",
        "embedded: whoever finds no sidecar starts one; external: only connect",
    ),
    Option(
        "instance_num", "FLEXKV_INSTANCE_NUM", 1, _integer(1, 1024), "an integer from 1 to 1024",
        "engines on this host that share the sidecar",
    ),
    Option(
        "instance_id", "FLEXKV_INSTANCE_ID", 0, _integer(0, 1023), "an integer from 0 to 1023",
        "which of them this one is",
    ),
    Option(
        "log_level", "FLEXKV_LOG_LEVEL", "INFO",
        _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "OFF"),
        "DEBUG, INFO, WARNING, ERROR, CRITICAL or OFF", "level of the flexkv loggers",
    ),
    Option(
        "lookup_spin_us", "FLEXKV_LOOKUP_SPIN_US", 50, _integer(0, 1000),
        "an integer from 0 to 1000", "how long one lookup waits for its answer",
    ),
    Option(
        "step_spin_us", "FLEXKV_STEP_SPIN_US", 1000, _integer(0, 10_000),
        "an integer from 0 to 10000", "how long all lookups of one scheduling step wait",
    ),
    Option(
        "load_deadline_ms", "FLEXKV_LOAD_DEADLINE_MS", 10_000, _integer(1, 600_000),
        "an integer from 1 to 600000", "a load that takes longer is revoked and recomputed",
    ),
    Option(
        "drain_timeout_ms", "FLEXKV_DRAIN_TIMEOUT_MS", 5000, _integer(1, 60_000),
        "an integer from 1 to 60000", "a revoked load that lasts longer costs the sidecar its life",
    ),
    Option(
        "start_timeout_s", "FLEXKV_START_TIMEOUT_S", 60.0, _number(1, 3600),
        "a number from 1 to 3600", "how long a started sidecar may take to answer",
    ),
    Option(
        "idle_exit_s", "FLEXKV_IDLE_EXIT_S", 60.0, _number(0, 86_400 * 365),
        "a number of seconds, 0 = never",
        "a sidecar that the shim started ends when its last client has been gone so long",
    ),
    Option(
        "runtime_dir", "FLEXKV_RUNTIME_DIR", "", _text, "a folder of your own, or empty",
        "where lock and logs of a started sidecar lie (empty: a private folder)",
    ),
    Option("java", "FLEXKV_JAVA", "", _text, "path of a java 25 or newer", "Java to run"),
    Option(
        "java_home", "FLEXKV_JAVA_HOME", "", _text, "home of a Java 25 or newer",
        "Java to run, by its home",
    ),
    Option("jar", "FLEXKV_JAR", "", _text, "path of the sidecar's jar", "for development"),
    Option(
        "rings", "FLEXKV_RINGS", True, _bool, "0 or 1",
        "0: records travel as messages, as on machines other than x86-64",
    ),
    Option(
        "load_failure_policy", "FLEXKV_LOAD_FAILURE_POLICY", "recompute",
        _choice("recompute", "fail"), "recompute or fail", "what vLLM does after a failed load",
    ),
    Option(
        "weights_version", "FLEXKV_WEIGHTS_VERSION", "", _version_text, "any text",
        "part of the model identity: change it when weights change in place",
    ),
    Option(
        "plugin_replace", "FLEXKV_PLUGIN_REPLACE", True, _bool, "0 or 1",
        "1: our class takes the place of vLLM's in-tree FlexKVConnectorV1",
    ),
    Option(
        "set_hash_seed", "FLEXKV_SET_HASH_SEED", True, _bool, "0 or 1",
        "1: block hashes get a fixed seed where the user set none",
    ),
)  # fmt: skip

OPTIONS_BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}

ALIASES: dict[str, str] = {"enable_flexkv": "enabled", "enable": "enabled"}
"""Other spellings of option names, in files and in ``kv_connector_extra_config``."""

SIDECAR_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "cpu_cache_gb": _number(0.01, 1 << 20),
    "num_cpu_blocks": _integer(0, 1 << 31),
    "log_file": _text,
    "log_max_mb": _integer(1, 4096),
    "spin_us": _integer(0, 100_000),
    "lease_ttl_s": _number(1, 3600),
    "plan_ttl_s": _number(1, 3600),
    "max_sessions": _integer(1, 4096),
    "prefault_threads": _integer(0, 64),
}
"""Options that ``kv_connector_extra_config`` may give to a sidecar that the shim starts."""
