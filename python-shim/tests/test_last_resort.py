"""A sidecar that does not say that its proof has ended: nothing is served before it is dead."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: no KV tensors to prove")

from test_proof import Sidecar, layers  # noqa: E402

from flexkv import last_resort  # noqa: E402
from flexkv.errors import ControlError, FlexKVError, MemoryInUseError  # noqa: E402
from flexkv.fences import NoFences  # noqa: E402
from flexkv.hooks import WorkerHooks  # noqa: E402
from flexkv.proof import LayoutProof  # noqa: E402
from flexkv.registration import Registration  # noqa: E402

LATE = ControlError("timeout", "prove write: no answer within 30 s", may_run=True)
GONE = ControlError("gone", "prove write: the sidecar has gone", may_run=True)


class Stubborn(Sidecar):
    """Answers ``prove_write`` with an error, and writes after all, with its last breath.

    ``looks``: how often it is looked at, once it dies, until it is gone.
    """

    server_pid = 4711
    boot_epoch = 1

    def __init__(self, error: Exception, *, looks: int = 3, connected: bool = True) -> None:
        super().__init__(*layers())
        self.error, self.looks, self.connected = error, looks, connected
        self.dying = False
        self.kills = 0
        self.late: dict[str, Any] = {}

    def control(self, op: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if op in ("register", "confirm"):
            return {"part_bytes": self.layout.part_bytes}
        if op != "prove_write":
            return super().control(op, args, timeout_s)
        self.late = args
        raise self.error

    def alive(self) -> bool:
        return self.connected and not self.kills

    def kill_server(self) -> bool:
        self.kills += 1
        self.dying = True
        return True

    def server_dead(self) -> bool:
        if self.dying:
            self.looks -= 1
            if self.looks == 0:
                super().control("prove_write", self.late, 0.0)
        return self.dying and self.looks <= 0

    def proof(self) -> LayoutProof:
        return LayoutProof(self.layout)


UNDRAINED = ControlError("undrained", "the device did not end its copies")


@pytest.mark.parametrize("error", [LATE, UNDRAINED, RuntimeError("a bug")], ids=str)
def test_sidecar_that_may_still_write_is_dead_before_the_blocks_go_back(error: Exception) -> None:
    sidecar = Stubborn(error)
    with pytest.raises(type(error), match=str(error)):
        sidecar.proof().run(sidecar)  # type: ignore[arg-type]
    assert sidecar.kills == 1
    assert not sidecar.flat.any(), "a block that vLLM serves now was written late"


@pytest.mark.parametrize("code", ["refused", "expired", "gone", "timeout"])
def test_sidecar_that_says_that_it_did_not_write_lives(code: str) -> None:
    sidecar = Stubborn(ControlError(code, "said so"))
    with pytest.raises(ControlError, match="said so"):
        sidecar.proof().run(sidecar)  # type: ignore[arg-type]
    assert sidecar.kills == 0
    assert not sidecar.flat.any()


def test_sidecar_that_is_about_to_end_is_given_the_time() -> None:
    sidecar = Stubborn(GONE, connected=False)
    sidecar.dying = True
    with pytest.raises(ControlError, match="has gone"):
        sidecar.proof().run(sidecar)  # type: ignore[arg-type]
    assert sidecar.kills == 0
    assert not sidecar.flat.any()


def test_sidecar_that_only_hung_up_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_resort, "PATIENCE_S", 0.05)
    sidecar = Stubborn(GONE, connected=False)
    with pytest.raises(ControlError, match="has gone"):
        sidecar.proof().run(sidecar)  # type: ignore[arg-type]
    assert sidecar.kills == 1
    assert not sidecar.flat.any()


class OneSession:
    """A link whose one session is there."""

    def __init__(self, sidecar: Stubborn) -> None:
        self.sidecar = sidecar

    def wait(self, timeout_s: float) -> Any:
        return self.sidecar

    session = wait


def test_process_that_does_not_die_fails_the_engines_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(last_resort, "DEATH_S", 0.05)
    monkeypatch.setattr("flexkv.registration.allow_tracing_by", lambda pid: None)
    sidecar = Stubborn(LATE, looks=1 << 30)

    def register(caches: Any) -> Any:
        link: Any = OneSession(sidecar)
        return Registration().first(sidecar.layout, NoFences(), link, 5.0)

    hooks = WorkerHooks(register)
    with pytest.raises(MemoryInUseError, match=r"pid 4711.*was killed 0 s ago.*Remedy: "):
        hooks.register_kv_caches({})
    assert issubclass(MemoryInUseError, FlexKVError)
