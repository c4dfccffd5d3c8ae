"""The set-up scripts: what they find, what they refuse and in which words."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import environments
import installed
import jar
import jdk
import progress
import standins
import uvtool
from progress import SetupError

SLEEP = "import threading; threading.Event().wait(60)"


def java_home(folder: Path, version: str, *, compiler: bool = True) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    (folder / "bin" / ("javac" if compiler else "java")).touch()
    return folder


# ---------------------------------------------------------------- JDK


def test_jdk_explicit_is_taken_before_java_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = java_home(tmp_path / "a", "25.0.3")
    monkeypatch.setenv("FLEXKV_JAVA_HOME", str(chosen))
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path / "b", "26")))

    assert jdk.find_jdk() == chosen


@pytest.mark.parametrize(
    ("version", "compiler", "text"),
    [("17.0.15", True, "Java 17, 25 is wanted"), ("25", False, "without javac")],
)
def test_jdk_explicit_but_unfit_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, compiler: bool, text: str
) -> None:
    home = java_home(tmp_path / "a", version, compiler=compiler)
    monkeypatch.setenv("FLEXKV_JAVA_HOME", str(home))

    with pytest.raises(SetupError, match=text) as error:
        jdk.find_jdk()
    assert "apt-get install openjdk-25-jdk-headless" in str(error.value)


def test_jdk_old_java_home_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = java_home(tmp_path / "old", "1.8.0_402"), java_home(tmp_path / "new", "25.0.3")
    monkeypatch.delenv("FLEXKV_JAVA_HOME", raising=False)
    monkeypatch.setattr(jdk, "_candidates", lambda: iter([old, new]))

    assert jdk.major_version(old) == 8
    assert jdk.find_jdk() == new


def test_jdk_none_at_all_names_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = java_home(tmp_path / "old", "21.0.1")
    monkeypatch.delenv("FLEXKV_JAVA_HOME", raising=False)
    monkeypatch.setattr(jdk, "_candidates", lambda: iter([old]))

    with pytest.raises(SetupError, match=r"no JDK 25 or newer found \(.*old: Java 21"):
        jdk.find_jdk()


# ---------------------------------------------------------------- commands and their logs


def test_run_failure_shows_the_end_of_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOGS", tmp_path)
    code = "import sys; print('first'); print('the reason'); sys.exit(3)"

    with pytest.raises(
        SetupError, match=r"a step: exit status 3(.|\n)*the reason(.|\n)*a-step.log"
    ):
        progress.run("a step", [sys.executable, "-c", code])


def test_run_that_outlives_its_limit_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOGS", tmp_path)
    monkeypatch.setattr(progress, "_FIRST_LINE_AFTER_S", 0.05)
    started = time.monotonic()

    with pytest.raises(SetupError, match="given up"):
        progress.run("a step", [sys.executable, "-c", SLEEP], timeout_s=0.01)
    assert time.monotonic() - started < 20


# ---------------------------------------------------------------- inputs, indexes, interpreters


def test_digest_changes_with_names_and_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jar, "ROOT", tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    seen = {jar.digest([tmp_path / "d"])}
    (tmp_path / "d" / "a").write_text("2")
    seen.add(jar.digest([tmp_path / "d"]))
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    seen.add(jar.digest([tmp_path / "d"]))
    assert len(seen) == 3

    (tmp_path / "d" / "__pycache__").mkdir()
    (tmp_path / "d" / "__pycache__" / "a.pyc").write_text("x")
    assert jar.digest([tmp_path / "d"]) in seen


def test_uv_takes_pips_index_unless_it_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvtool, "_pip_settings", lambda: {"index-url": "http://pip.invalid/"})
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")

    taken = uvtool.environment()
    assert taken["UV_DEFAULT_INDEX"] == "http://pip.invalid/"
    assert taken["UV_PYTHON_DOWNLOADS"] == "never"
    assert "VIRTUAL_ENV" not in taken

    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://own.invalid/")
    assert uvtool.environment()["UV_DEFAULT_INDEX"] == "http://own.invalid/"


def test_demo_explicit_python_without_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PYTHON", "/nonexistent/python")

    with pytest.raises(SetupError, match="VLLM_PYTHON=/nonexistent/python has no vLLM"):
        installed.find_installed()


@pytest.mark.parametrize(("version", "fits"), [("0.19.2", False), ("0.20.0", True), ("1.0", True)])
def test_demo_old_vllm_is_not_used(
    monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    answer = f'["/usr/bin/python3", "{version}", ["/x/site-packages"]]'
    monkeypatch.setattr(installed, "ask", lambda python, code: answer)
    monkeypatch.delenv("VLLM_PYTHON", raising=False)

    assert (installed.find_installed() is not None) == fits
    monkeypatch.setenv("VLLM_PYTHON", "/usr/bin/python3")
    if not fits:
        with pytest.raises(SetupError, match=r"has vLLM 0\.19\.2, 0\.20 or newer is wanted"):
            installed.find_installed()


def test_environment_unknown_version_is_refused() -> None:
    with pytest.raises(SetupError, match=r"vLLM 0\.1\.0 has no pinned environment"):
        environments.prepare("0.1.0")


@pytest.mark.parametrize("version", environments.PINNED)
def test_cpu_torch_replaces_only_the_torch_line(tmp_path: Path, version: str) -> None:
    (pins,) = environments._pins(version)["vllm"]
    torch = environments._torch_line(pins)

    text = environments._with_cpu_torch(tmp_path, pins, f"{torch}+cpu").read_text()

    assert f"{torch}+cpu\n" in text
    assert text.replace("+cpu", "") == pins.read_text()
    assert text.count("--hash=sha256:") >= 2  # the community build is held by hash


def test_pins_of_an_older_version_take_the_place_of_the_common_ones() -> None:
    now = environments.merged(environments._pins("0.32.0")["common"]).splitlines()
    old = environments.merged(environments._pins("0.16.0")["common"]).splitlines()

    names = [line.partition("==")[0] for line in old if ";" not in line]
    assert len(names) == len(set(names)), "one line a package"
    assert any(line.startswith("transformers==4.") for line in old)
    assert any(line.startswith("transformers==5.") for line in now)
    # Both lines of a package that is pinned by platform stay.
    assert sum(line.startswith("networkx==") for line in old) == 2
    assert "nvidia-cuda-runtime-cu12" in environments._pins("0.16.0")["cuda"][0].read_text()


# ---------------------------------------------------------------- stand-ins


needs_gcc = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("readelf")), reason="gcc or readelf is missing"
)


def compile_c(target: Path, source: str, *flags: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *flags, "-o", str(target)],
        input=source, text=True, check=True,
    )  # fmt: skip


@needs_gcc
def test_standins_let_a_library_load_that_lacks_its_own(tmp_path: Path) -> None:
    """A library linked against a versioned and an unversioned one loads once both are stood in."""
    site, real = tmp_path / "site", tmp_path / "real"
    versions = tmp_path / "map"
    versions.write_text("libcudart.so.13 { global: cudaFree; };\n")
    compile_c(
        real / "libcudart.so.13", "int cudaFree(void *p) { return 0; }",
        "-Wl,-soname,libcudart.so.13", f"-Wl,--version-script={versions}",
    )  # fmt: skip
    compile_c(real / "libnccl.so.2", "int ncclInit(void) { return 0; }", "-Wl,-soname,libnccl.so.2")
    torch = site / "torch" / "lib" / "libtorch.so"
    compile_c(
        torch,
        "int cudaFree(void *); int ncclInit(void);"
        "int probe(void) { return 1000 * ncclInit() + cudaFree(0); }",
        str(real / "libcudart.so.13"), str(real / "libnccl.so.2"), "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip
    probe = f"import ctypes; print(ctypes.CDLL({str(torch)!r}).probe())"
    before = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
    assert before.returncode != 0

    assert standins.write_standins(site) == ["libcudart.so.13", "libnccl.so.2"]
    assert standins.write_standins(site) == ["libcudart.so.13", "libnccl.so.2"]  # anew, the same

    after = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True)
    assert after.stdout.strip() == b"100100"


@needs_gcc
def test_standins_leave_a_real_library_alone(tmp_path: Path) -> None:
    real = tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libcudart.so.13"
    compile_c(real, "int cudaFree(void *p) { return 0; }", "-Wl,-soname,libcudart.so.13")
    compile_c(
        tmp_path / "site" / "torch" / "lib" / "libtorch.so",
        "int cudaFree(void *); int probe(void) { return cudaFree(0); }", str(real),
    )  # fmt: skip

    assert standins.write_standins(tmp_path / "site") == []


def test_standins_without_torch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no torch under"):
        standins.write_standins(tmp_path)
