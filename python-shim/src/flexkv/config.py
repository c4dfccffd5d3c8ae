"""What the user set, checked and with its source.

Precedence: ``kv_connector_extra_config`` above the file named by ``FLEXKV_CONFIG_PATH`` above the
environment above the default.  As in the original, a file replaces the environment's form of the
capacities and switches marked ``file_replaces_env`` even where it does not name them.

The shim checks the sidecar's options too, so that a wrong value is said where the user looks; the
sidecar reads the same sources by the same rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flexkv.config_file import CONFIG_PATH_ENV, FileValues, read_file
from flexkv.errors import ConfigError
from flexkv.options import (
    BY_KEY,
    DEFAULT_ADDRESS,
    OPTIONS,
    Option,
    Value,
    nearest,
    nearest_variable,
)

OVERRIDES_ENV = "FLEXKV_OVERRIDES"
"""Options as a JSON object, from whoever starts a sidecar: above file and environment."""

NOT_OPTIONS = frozenset((CONFIG_PATH_ENV, OVERRIDES_ENV))
"""Environment variables of ours that are no options."""

_EXTRA = "kv_connector_extra_config"
"""How the source of such an option begins."""

_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP)(_.*)?)?)")


class Note(NamedTuple):
    """Something the user should read once, at start; ``warning`` = less happens than was asked."""

    warning: bool
    text: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's options under their names; all options in ``values``, with their sources.

    ``sidecar`` holds options for the sidecar that came with ``kv_connector_extra_config``; they
    reach it only if the shim starts it.  ``ignored`` names plain extra keys that are not ours.
    """

    enabled: bool = True
    server_recv_port: str = DEFAULT_ADDRESS
    server_launch_mode: str = "embedded"
    instance_num: int = 1
    instance_id: int = 0
    log_level: str = "INFO"
    logging_prefix: str = ""
    num_log_interval_requests: int = 200
    lookup_spin_us: int = 50
    step_spin_us: int = 1000
    load_wait_ms: int = 10
    load_deadline_ms: int = 10_000
    drain_timeout_ms: int = 5000
    start_timeout_s: float = 60.0
    early_start: bool = True
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
    kv_events: bool = True
    kv_events_cpu_medium: str = "CPU"
    dynamo_connector_flag: bool = True
    strict: bool = False
    config_path: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict, repr=False)
    values: Mapping[str, Value] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
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
        file_named_by: str = CONFIG_PATH_ENV,
    ) -> Settings:
        """Reads every source; raises ``ConfigError`` with everything that is wrong.

        ``file_named_by``: who has put the file's path into ``env``, for messages.
        """
        return _Loading(extra or {}, os.environ if env is None else env, file_named_by).settings()


FIELDS = frozenset(Settings.__dataclass_fields__)


class _Extra:
    """``kv_connector_extra_config``: options by name, and keys that belong to somebody else."""

    def __init__(self, extra: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = {}
        self.config_path = ""
        self.ignored: list[str] = []
        self.unknown: list[str] = []
        for key, value in extra.items():
            plain = key.removeprefix("flexkv_")
            option = BY_KEY.get(key) or BY_KEY.get(plain)
            if option is not None:
                self._take(option.name, value)
            elif plain == "config_path":
                self.config_path = str(value)
            elif key.startswith("flexkv_"):
                self.unknown.append(
                    f"kv_connector_extra_config has an unknown key {key!r}{nearest(plain)}"
                )
            else:
                self.ignored.append(key)

    def _take(self, name: str, value: Any) -> None:
        if name in self.values and self.values[name] != value:
            seen = BY_KEY[name].shown
            raise ConfigError(
                f"kv_connector_extra_config names {name} twice: {seen(self.values[name])} and "
                f"{seen(value)}"
            )
        self.values[name] = value


class _Loading:
    """One reading of all sources."""

    def __init__(
        self, extra: Mapping[str, Any], env: Mapping[str, str], file_named_by: str
    ) -> None:
        self._env = env
        self._extra = _Extra(extra)
        self._path = (self._extra.config_path or env.get(CONFIG_PATH_ENV, "")).strip()
        if self._extra.config_path:
            file_named_by = "kv_connector_extra_config flexkv_config_path"
        self._file = read_file(self._path, env, file_named_by) if self._path else FileValues("")
        self._notes: list[Note] = []

    def settings(self) -> Settings:
        values: dict[str, Value] = {}
        sources: dict[str, str] = {}
        answers: dict[tuple[bool, str], list[str]] = {}
        wrong: list[str] = []
        for option in OPTIONS:
            if option.quiet:
                continue
            source, value = self._raw(option)
            sources[option.name] = source
            try:
                values[option.name] = parsed(source, option, value)
            except ConfigError as error:
                wrong.append(f"{error}{self._unset_in(source, value)}")
                continue
            if source != "default" and option.status != "works" and option.asks(value):
                answers.setdefault((option.status == "absent", option.says), []).append(source)
        if wrong:
            raise self._refusal(wrong, strict=bool(values.get("strict")))
        self._notes += [
            Note(warning, f"{joined(found)}: {says}") for (warning, says), found in answers.items()
        ]
        self._unknown(strict=bool(values["strict"]))
        self._notes += [Note(False, text) for text in self._file.remarks]
        self._folder_without_size(values, sources)
        self._instance(values)
        return Settings(
            **{name: value for name, value in values.items() if name in FIELDS},  # type: ignore[arg-type]
            config_path=self._path,
            sidecar={
                name: _plain(values[name])
                for name in self._extra.values
                if BY_KEY[name].side == "sidecar" and BY_KEY[name].type != "any"
            },
            values=values,
            sources=sources,
            notes=tuple(self._notes),
            ignored=tuple(sorted(self._extra.ignored)),
        )

    def _raw(self, option: Option) -> tuple[str, Any]:
        """Where an option's value comes from, and the value as it stands there."""
        if option.name in self._extra.values:
            return f"kv_connector_extra_config {option.name}", self._extra.values[option.name]
        if option.name in self._file.values:
            return f"{self._path} {option.name}", self._file.values[option.name]
        given = [name for name in option.envs if self._env.get(name, "").strip()]
        if given and self._path and option.file_replaces_env:
            text = f"{given[0]} does not count: {self._path} replaces it, say {option.name} there"
            self._notes.append(Note(True, text))
        elif given:
            return given[0], self._env[given[0]]
        return "default", option.default_text

    def _folder_without_size(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        """A folder alone makes no SSD tier, which its owner would find out late."""
        sized = values["ssd_cache_gb"] > 0 or values["num_ssd_blocks"] > 0
        off = str(values["enable_ssd"]) in ("0", "false")
        if sources["ssd_cache_dir"] != "default" and not sized and not off:
            text = f"{sources['ssd_cache_dir']} without ssd_cache_gb makes no SSD tier: "
            self._notes.append(Note(True, text + "give its size too (FLEXKV_SSD_CACHE_GB)"))

    def _instance(self, values: Mapping[str, Any]) -> None:
        """Instances may come late and be more than announced: that is only worth a line."""
        number, announced = values["instance_id"], values["instance_num"]
        if number >= announced:
            self._notes.append(
                Note(False, f"instance {number} joins, although only {announced} are announced")
            )

    def _unknown(self, *, strict: bool) -> None:
        found = self._odd()
        if strict and found:
            raise ConfigError("; ".join(found) + " (strict is on)")
        self._notes += [Note(True, text) for text in found]

    def _odd(self, said: str = "") -> list[str]:
        """Sentences on keys and variables that mean nothing, less variables that ``said`` names."""
        unset = [t for name, t in self._file.unset.items() if f"${{{name}}}" not in said]
        return [
            *self._extra.unknown, *self._file.unknown, *unset, *unknown_variables(self._env),
        ]  # fmt: skip

    def _unset_in(self, source: str, value: Any) -> str:
        """What a file's value lacks if a variable in it has no value; empty if that is not it."""
        names = [n for n in self._file.unset if source.startswith(f"{self._path} ")
                 and f"${{{n}}}" in str(value)]  # fmt: skip
        verb = "is" if len(names) == 1 else "are"
        return f" ({' and '.join(names)} {verb} not in the environment)" if names else ""

    def _refusal(self, wrong: Sequence[str], *, strict: bool) -> ConfigError:
        """All that is wrong in one line, of what a check of the file would list the first only.

        What FlexKV does not know is wrong only with ``strict``; else it is counted by itself.
        """
        odd = self._odd("".join(wrong))
        problems = [*wrong, *odd]
        if not self._path:
            return ConfigError("; ".join(problems), problems)
        shown = [text for text in problems if text.startswith(_EXTRA)]
        refused = [text for text in (problems if strict else wrong) if text not in shown]
        text = "; ".join(shown + refused[:1])
        warnings = 0 if strict else sum(text not in shown for text in odd)
        more = _more(len(refused) - 1, warnings)
        if more:
            text += f" ({more}: flexkv config check {self._path} lists all)"
        return ConfigError(text, problems)


def _more(wrong: int, warnings: int) -> str:
    """How much there is beside what is said; empty if nothing."""
    found = []
    if wrong > 0:
        found.append(f"{wrong} more {'thing is' if wrong == 1 else 'things are'} wrong")
    if warnings:
        found.append(f"{warnings} {'warning' if warnings == 1 else 'warnings'}")
    return " and ".join(found)


def joined(sources: Sequence[str]) -> str:
    """Sources in one text; where one comes out of the same place as the last, its name alone."""
    text, place = "", ""
    for source in sources:
        where, _, name = source.rpartition(" ")
        text += f"{', ' if text else ''}{name if where and where == place else source}"
        place = where
    return text


def unknown_variables(env: Mapping[str, str]) -> Iterator[str]:
    """A sentence on each variable ``FLEXKV_…`` that no option has."""
    known = {name for option in OPTIONS for name in option.envs} | NOT_OPTIONS
    for name in sorted(env):
        if not name.startswith("FLEXKV_") or name in known:
            continue
        if "KUBERNETES_SERVICE_HOST" in env and _KUBERNETES.fullmatch(name):
            continue  # of a service called flexkv: every pod gets these
        yield f"the environment has an unknown {name}{nearest_variable(name)}"


def parsed(source: str, option: Option, value: Any) -> Value:
    """A value in its type; ``ConfigError`` with source, value and what is allowed."""
    try:
        return option.parse(value)
    except (ValueError, StopIteration):
        seen = "a secret" if option.secret else repr(value)
        raise ConfigError(f"{source} is {seen}, must be {option.allowed}") from None


def _plain(value: Value) -> Any:
    return ";".join(value) if isinstance(value, tuple) else value
