"""Settings: precedence, types, texts; nothing is ignored in silence."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flexkv.config import Settings
from flexkv.errors import ConfigError
from flexkv.options import OPTIONS, OPTIONS_BY_NAME


def test_defaults_are_those_of_the_option_table() -> None:
    settings = Settings.load(env={})
    assert dataclasses.replace(settings, sources={}, values={}) == Settings()
    for option in OPTIONS:
        if not option.quiet:
            assert settings.values[option.name] == option.default, option.name
            assert settings.sources[option.name] == "default"
    assert settings.socket_path == "/tmp/flexkv_server"
    assert settings.launch


@pytest.mark.parametrize("suffix", ["json", "yml", "yaml"])
def test_extra_above_file_above_environment(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_text('{"load_deadline_ms": 2, "lookup_spin_us": 2, "cpu_cache_gb": 9}')
    env = {
        "FLEXKV_CONFIG_PATH": str(path),
        "FLEXKV_LOAD_DEADLINE_MS": "1",
        "FLEXKV_LOOKUP_SPIN_US": "1",
        "FLEXKV_STEP_SPIN_US": "1",
    }
    settings = Settings.load({"flexkv_load_deadline_ms": 3}, env)
    assert (settings.load_deadline_ms, settings.lookup_spin_us, settings.step_spin_us) == (3, 2, 1)
    assert settings.sources["load_deadline_ms"] == "kv_connector_extra_config load_deadline_ms"
    assert settings.sources["lookup_spin_us"] == f"{path} lookup_spin_us"
    assert settings.sources["step_spin_us"] == "FLEXKV_STEP_SPIN_US"


def test_plain_names_and_aliases_in_extra() -> None:
    settings = Settings.load({"enable_flexkv": False, "load_failure_policy": "FAIL"}, {})
    assert not settings.enabled
    assert settings.load_failure_policy == "fail"
    assert not Settings.load({"flexkv_enabled": 0}, {}).enabled
    assert not Settings.load(env={"ENABLE_FLEXKV": "0"}).enabled


def test_extra_for_the_sidecar_and_for_others() -> None:
    settings = Settings.load({"flexkv_cpu_cache_gb": "2.5", "num_cpu_blocks": 7, "x": 1}, {})
    assert settings.sidecar == {"cpu_cache_gb": 2.5, "num_cpu_blocks": 7}
    assert settings.ignored == ("x",)


def test_folders_in_extra_reach_the_sidecar_as_text() -> None:
    settings = Settings.load({"flexkv_ssd_cache_dir": ["/a", "/b "]}, {})
    assert settings.values["ssd_cache_dir"] == ("/a", "/b")
    assert settings.sidecar == {"ssd_cache_dir": "/a;/b"}


def test_variable_that_is_not_set_is_a_warning_and_with_strict_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("server_recv_port: ipc:///tmp/flexkv_${WORKER}\n")
    env = {"FLEXKV_CONFIG_PATH": str(path)}
    ((warning, text),) = Settings.load(env=env).notes
    assert warning
    assert text.startswith(f"{path}: WORKER is not in the environment, so ${{WORKER}} stays as it")
    assert Settings.load(env={**env, "WORKER": "2"}).notes == ()
    with pytest.raises(ConfigError, match="WORKER is not in the environment"):
        Settings.load(env={**env, "FLEXKV_STRICT": "1"})


def test_unknown_extra_is_a_warning_and_with_strict_an_error() -> None:
    extra = {"flexkv_zzzzzz": 1, "flexkv_cpu_cach_gb": 2}
    said = "kv_connector_extra_config has an unknown key "
    assert Settings.load(extra, {}).notes == (
        (True, said + "'flexkv_zzzzzz'"),
        (True, said + "'flexkv_cpu_cach_gb'; did you mean 'cpu_cache_gb'?"),
    )
    with pytest.raises(ConfigError, match=r"'flexkv_zzzzzz'; .*\(strict is on\)"):
        Settings.load({**extra, "flexkv_strict": True}, {})


def test_instances_beyond_the_announced_join() -> None:
    settings = Settings.load(env={"FLEXKV_INSTANCE_ID": "2", "FLEXKV_INSTANCE_NUM": "2"})
    assert settings.instance_id == 2
    assert settings.notes == ((False, "instance 2 joins, although only 2 are announced"),)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    secret = "hunter2"
    settings = load_file(
        tmp_path, "c.yml",
        f"redis_password: {secret}\nremote_config_custom: {{key: {secret}}}\nunknown: {secret}\n",
        FLEXKV_REDIS_PASSWORD=secret,
    )  # fmt: skip
    assert len(settings.notes) == 3
    assert secret not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        Settings.load({"redis_password": secret, "flexkv_redis_password": "other"}, {})
    assert secret not in str(caught.value)


CASES = json.loads(Path(__file__).with_name("config_cases.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_shared_case_is_answered_as_by_the_sidecar(case: Any, tmp_path: Path) -> None:
    """``SharedCasesTest`` reads the same cases."""
    env = dict(case.get("env", {}))
    path = tmp_path / case.get("file", "none")
    if "file" in case:
        path.write_text(case["text"])
        env["FLEXKV_CONFIG_PATH"] = str(path)
    if "error" in case:
        with pytest.raises(ConfigError) as caught:
            Settings.load(env=env)
        said = str(caught.value).replace(str(path), "FILE")
        assert case["error"] in said
        return
    settings = Settings.load(env=env)
    for name, wanted in case.get("values", {}).items():
        assert settings.values[name] == OPTIONS_BY_NAME[name].parse(wanted), name
    for name, source in case.get("sources", {}).items():
        assert settings.sources[name].replace(str(path), "FILE") == source
    if "notes" in case:
        said_lines = [note.text.replace(str(path), "FILE") for note in settings.notes]
        assert said_lines == case["notes"]


def test_same_option_twice_in_extra() -> None:
    with pytest.raises(ConfigError, match="names load_deadline_ms twice: 1 and 2"):
        Settings.load({"flexkv_load_deadline_ms": 1, "load_deadline_ms": 2}, {})


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"FLEXKV_SERVER_RECV_PORT": "tcp://h:1"}, "FLEXKV_SERVER_RECV_PORT is 'tcp://h:1'"),
        ({"FLEXKV_SERVER_RECV_PORT": "ipc://rel"}, "absolute path"),
        ({"FLEXKV_SERVER_RECV_PORT": "ipc:///" + "x" * 107}, "at most 107 bytes"),
        ({"FLEXKV_CPU_CACHE_GB": "0"}, "FLEXKV_CPU_CACHE_GB is '0', must be a number of GB"),
        ({"FLEXKV_LOAD_DEADLINE_MS": "soon"}, "FLEXKV_LOAD_DEADLINE_MS is 'soon', must be an int"),
        ({"FLEXKV_LOAD_DEADLINE_MS": "0"}, "from 1 to 600000"),
        ({"FLEXKV_LOAD_DEADLINE_MS": "1.5"}, "must be an integer"),
        ({"FLEXKV_LOG_LEVEL": "LOUD"}, "DEBUG, INFO"),
        ({"ENABLE_FLEXKV": "maybe"}, "ENABLE_FLEXKV is 'maybe', must be 0 or 1"),
        ({"FLEXKV_IDLE_EXIT_S": "nan"}, "FLEXKV_IDLE_EXIT_S is 'nan'"),
        ({"FLEXKV_CONFIG_PATH": "/no/such.json"}, "'/no/such.json', which cannot be read"),
        ({"FLEXKV_CONFIG_PATH": "/etc/passwd"}, "must end in .json, .yaml or .yml"),
    ],
)
def test_errors_name_variable_value_and_what_is_allowed(env: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(env=env)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"flexkv_load_deadline_ms": True}, "is True, must be an integer"),
        ({"flexkv_load_deadline_ms": [1]}, "is [1]"),
        ({"flexkv_enabled": "perhaps"}, "'perhaps'"),
        ({"flexkv_enabled": 2}, "is 2, must be 0 or 1"),
        ({"flexkv_cpu_cache_gb": "much"}, "cpu_cache_gb is 'much'"),
        ({"flexkv_cpu_cache_gb": float("nan")}, "is nan"),
    ],
)
def test_types_are_checked(extra: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(extra, {})
    assert text in str(caught.value)


def load_file(tmp_path: Path, name: str, text: str, **env: str) -> Settings:
    path = tmp_path / name
    path.write_text(text)
    return Settings.load(env={"FLEXKV_CONFIG_PATH": str(path), **env})


def test_broken_file_does_not_show_what_variables_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in line 2") as caught:
        load_file(tmp_path, "c.yml", 'a: 1\nredis_password: "${SECRET}" x', SECRET="hush")
    assert "hush" not in str(caught.value)


def test_json_with_comments_variables_and_sections(tmp_path: Path) -> None:
    settings = load_file(
        tmp_path,
        "c.json",
        """{
        // where it listens
        "server_recv_port": "ipc:///tmp/flexkv_${RANK}", /* not
        "instance_num": 5, */
        "cache_config": {"enable_cpu": true, "load_deadline_ms": 44}
        }""",
        RANK="3",
    )
    assert settings.server_recv_port == "ipc:///tmp/flexkv_3"
    assert settings.instance_num == 1
    assert settings.load_deadline_ms == 44


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.json", "{", "cannot be parsed"),
        ("c.yml", "a: [", "cannot be parsed"),
        ("c.yml", "- 1", "holds a list"),
        ("c.json", '{"load_deadline_ms": "x"}', "load_deadline_ms is 'x'"),
        ("c.json", " " * (1024 * 1024 + 1), "larger than"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_file(tmp_path, name, text)
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_empty_yaml_and_null_values(tmp_path: Path) -> None:
    assert load_file(tmp_path, "c.yml", "").load_deadline_ms == 10_000
    assert load_file(tmp_path, "c.yml", "load_deadline_ms:\n").load_deadline_ms == 10_000


def test_yaml_without_pyyaml_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="pip install pyyaml"):
        load_file(tmp_path, "c.yml", "a: 1")
    assert load_file(tmp_path, "c.json", "{}").enabled
