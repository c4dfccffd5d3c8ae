"""The family of errors of the package.

No error of this family reaches vLLM but ``MemoryInUseError``: the connector's hooks are total.
They are for tools, tests, the attach thread (which logs them once a change of state) and the
worker's registration.
"""

from __future__ import annotations

from collections.abc import Sequence


class FlexKVError(Exception):
    """Base of everything that this package raises on purpose; the text says what would help."""


class ConfigError(FlexKVError):
    """A setting cannot be used; the text names it, its value and what is allowed.

    ``problems``: a sentence on each thing that is wrong, of which the text may name the first only.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class AttachError(FlexKVError):
    """No session could be opened with the sidecar."""


class RefusedError(AttachError):
    """The sidecar answered the hello with a refusal; ``code`` is one of ``protocol.REFUSED_*``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the sidecar refused the session ({code}): {message}")
        self.code = code


class LaunchError(FlexKVError):
    """The sidecar could not be started; carries the last lines it wrote."""


class UnusableError(LaunchError):
    """No sidecar can be started here before somebody changes something: the text says what."""


class ControlError(FlexKVError):
    """A control-plane request failed; ``code`` is the sidecar's, or ``timeout`` or ``gone``.

    ``may_run``: it was sent and not answered, so the sidecar may be at it still, or begin it later.
    """

    def __init__(self, code: str, message: str, *, may_run: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.may_run = may_run


class MemoryInUseError(FlexKVError):
    """Somebody may still write into KV blocks of this engine and could not be stopped.

    An engine that served from them would answer with wrong bytes, so its start has to fail.
    """
