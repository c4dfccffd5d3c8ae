"""Build hook: a wheel without the sidecar's jar is refused, with the remedy in the message."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

JAR = Path("src/flexkv/_jar/flexkv-sidecar.jar")
MAIN_CLASS = "io/flexkv/sidecar/FlexKv.class"


class SidecarJarHook(BuildHookInterface):
    """Checks that the staged jar is there and is the sidecar."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before each build; `version` is "standard" or "editable".

        Raises RuntimeError if the jar is missing or is not the sidecar's.
        """
        del build_data
        if version == "editable":
            return  # the launcher says what is missing when the sidecar is first needed
        jar = Path(self.root) / JAR
        remedy = "run `make wheel` in the repository root (it needs a JDK 25)"
        if not jar.is_file():
            raise RuntimeError(f"the sidecar's jar is not at {jar}: {remedy}")
        try:
            with zipfile.ZipFile(jar) as archive:
                archive.getinfo(MAIN_CLASS)
        except (zipfile.BadZipFile, KeyError) as error:
            raise RuntimeError(f"{jar} is not the sidecar ({error}): {remedy}") from error
