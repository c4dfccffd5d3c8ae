"""FlexKV on the JVM, the part that runs inside vLLM.

``flexkv.connector`` is the connector, ``flexkv.client`` the link to the sidecar, ``flexkv.config``
the settings.  Importing the package imports nothing heavy.
"""

from flexkv.errors import (
    AttachError,
    ConfigError,
    ControlError,
    FlexKVError,
    LaunchError,
    RefusedError,
)
from flexkv.version import __version__

__all__ = [
    "AttachError",
    "ConfigError",
    "ControlError",
    "FlexKVError",
    "LaunchError",
    "RefusedError",
    "__version__",
]
