"""Stand-ins for the NVIDIA libraries that an ordinary torch wheel is linked against.

On a machine without a GPU they are several gigabytes of which nothing is used but that their names
and symbols resolve when torch is loaded. Each stand-in exports every symbol which torch's own
libraries import from the one it stands for, under the same symbol version, as a function that
returns 100 (`cudaErrorNoDevice` and `CUDA_ERROR_NO_DEVICE`): torch then finds no device and works
on the CPU. They are written beside torch's libraries, in that one environment only.

Needs gcc and readelf. Source of the format: readelf(1), ld's version scripts.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from progress import SetupError

_NVIDIA = re.compile(r"lib(cu|nv|nccl)")
_DRIVER = "libcuda.so.1"  # loaded lazily, and a real one must not be hidden
_MANIFEST = "flexkv-standins.json"
_SYMBOL = re.compile(
    r"^\s*\d+:\s+[0-9a-f]+\s+\S+\s+(?P<type>\w+)\s+(?P<binding>\w+)\s+\w+\s+(?P<section>\w+)\s+"
    r"(?P<name>[^@\s]+)(?:@+(?P<version>\S+))?"
)


@dataclass(slots=True)
class Imports:
    """What one shared library needs from others."""

    libraries: set[str] = field(default_factory=set)
    version_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # → libraries
    symbols: set[tuple[str, str | None]] = field(default_factory=set)  # (name, version)
    defined: set[str] = field(default_factory=set)


def write_standins(site_packages: Path) -> list[str]:
    """Writes the stand-ins that torch under `site_packages` lacks and returns their names.

    A library that is really installed is left alone; one from an earlier run is written anew.
    Raises SetupError if torch is not there or a tool is missing.
    """
    folder = site_packages / "torch" / "lib"
    if not folder.is_dir():
        raise SetupError(f"no torch under {site_packages}: nothing to write stand-ins for")
    manifest = folder / _MANIFEST
    if manifest.is_file():
        for name in json.loads(manifest.read_text()):
            (folder / name).unlink(missing_ok=True)
    present = {p.name for p in folder.iterdir()}
    present |= {p.name for p in site_packages.glob("nvidia/*/lib/*.so*")}
    imports = [read_imports(p) for p in sorted(folder.glob("*.so")) if not _NVIDIA.match(p.name)]
    wanted = {n for i in imports for n in i.libraries if _NVIDIA.match(n)}
    missing = sorted(wanted - present - {_DRIVER})
    if not missing:
        return []
    exports = assign(imports, missing)
    with tempfile.TemporaryDirectory() as scratch:
        for name in missing:
            _compile(folder / name, exports[name], Path(scratch))
    manifest.write_text(json.dumps(missing))
    return missing


def read_imports(library: Path) -> Imports:
    """Reads one ELF file's needed libraries, symbol versions and symbols."""
    text = _tool("readelf", "--wide", "--dynamic", "--version-info", "--dyn-syms", str(library))
    found = Imports()
    provider: str | None = None
    for line in text.splitlines():
        if needed := re.search(r"\(NEEDED\).*\[(\S+)\]", line):
            found.libraries.add(needed.group(1))
        elif file := re.search(r"\bVersion: \d+\s+File: (\S+)\s+Cnt:", line):
            provider = file.group(1)
        elif version := re.search(r"\bName: (\S+)\s+Flags: .*Version:", line):
            if provider is not None:
                found.version_of[version.group(1)].add(provider)
        elif symbol := _SYMBOL.match(line):
            if symbol["section"] != "UND":
                found.defined.add(symbol["name"])
            elif symbol["binding"] != "WEAK":
                found.symbols.add((symbol["name"], symbol["version"]))
    return found


def assign(imports: list[Imports], missing: list[str]) -> dict[str, dict[str | None, set[str]]]:
    """Decides which stand-in exports which symbols: library → version (None: unversioned) → names.

    An unversioned symbol may come from any loaded library, so the first stand-in takes those that
    torch's own libraries do not define and that Python does not provide.
    """
    exports: dict[str, dict[str | None, set[str]]] = {n: defaultdict(set) for n in missing}
    defined = {n for i in imports for n in i.defined}
    for one in imports:
        ours = one.libraries & exports.keys()
        for name, version in one.symbols:
            if version is None:
                if ours and name not in defined and not name.startswith(("Py", "_Py", "_Z")):
                    exports[missing[0]][None].add(name)
                continue
            for library in one.version_of.get(version, set()) & exports.keys():
                exports[library][version].add(name)
    return exports


def _compile(target: Path, versions: dict[str | None, set[str]], scratch: Path) -> None:
    names = sorted(set().union(*versions.values()))
    source = "".join(f"long {n}(void) {{ return 100; }}\n" for n in names)
    marker = re.sub(r"\W", "_", target.name)
    source += f'const char flexkv_standin_{marker}[] = "a stand-in without function";\n'
    (scratch / "standin.c").write_text(source)
    command = ["gcc", "-w", "-O1", "-shared", "-fPIC", "-nostdlib", "-fno-builtin"]
    command += [str(scratch / "standin.c"), "-o", str(target), f"-Wl,-soname,{target.name}"]
    script = "".join(
        f"{version} {{ global: {' '.join(f'{n};' for n in sorted(symbols))} }};\n"
        for version, symbols in versions.items()
        if version is not None
    )
    if script:
        (scratch / "standin.map").write_text(script)
        command.append(f"-Wl,--version-script={scratch / 'standin.map'}")
    _tool(*command)


def _tool(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError as error:
        raise SetupError(
            f"{command[0]} is missing (it makes stand-ins for NVIDIA's libraries, without which "
            "the ordinary torch wheel does not load): apt-get install gcc binutils"
        ) from error
    except subprocess.CalledProcessError as error:
        raise SetupError(f"{' '.join(command[:3])} …: {error.stderr.strip()[-2000:]}") from error
    return done.stdout
