"""Defaults that depend on the machine or the user: what they come to here, and by which rule."""

from __future__ import annotations

from flexkv.config import Settings
from flexkv.launcher import default_runtime_dir
from flexkv.machine import MachineMemory
from flexkv.options import Option


def shown(settings: Settings, option: Option) -> str:
    """An option's value as it counts here, for people."""
    if option.name == "cpu_cache_gb" and not settings.values["num_cpu_blocks"]:
        return f"{MachineMemory.read().host_gb(settings):g}"
    if option.name == "runtime_dir" and not settings.runtime_dir:
        return default_runtime_dir()
    return option.shown(settings.values[option.name])


def default_rule(option: Option) -> str:
    """The default in words."""
    if option.name == "cpu_cache_gb":
        return f"{option.default_text}, but at most an eighth of the memory"
    if option.name == "runtime_dir":
        return default_runtime_dir()
    return option.default_text or "empty"
