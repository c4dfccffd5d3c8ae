"""A reset of the Python API that the sidecar cannot make durable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexkv import protocol as p
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.kvmanager import KVManager


class Refusing:
    """A session whose sidecar answers resets with one status, and every lookup with a hit."""

    session_id = 1

    def __init__(self, status: int) -> None:
        self.boot_epoch = id(self)
        self.status = status
        self.resets = 0
        self._queue: list[p.Record] = []

    def alive(self) -> bool:
        return True

    def send(self, *records: p.Record) -> bool:
        for record in records:
            if isinstance(record, p.Reset):
                self.resets += 1
                self._queue.append(p.ResetAnswer(record.query_id, 2, self.status))
        return True

    def poll(self) -> list[p.Record]:
        queue, self._queue = self._queue, []
        return queue

    def wait_for(self, query: Any, spin_us: float) -> Any:
        return p.LookupAnswer(query, 1, 9, 2, 1, 1, 1, 0, 0, p.LOOKUP_OK)


def manager_on(session: Refusing, folder: Path, monkeypatch: pytest.MonkeyPatch) -> KVManager:
    monkeypatch.setattr("flexkv.kvmanager.RESET_WAIT_S", 0.1)
    manager = KVManager(ModelConfig(), CacheConfig(), server_recv_port=f"ipc://{folder}/s")
    monkeypatch.setattr(manager._link, "session", lambda: session)
    return manager


def test_reset_not_durable_matches_nothing_until_another_sidecar_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Refusing(p.STATUS_FAILED)
    manager = manager_on(refusing, tmp_path, monkeypatch)
    tokens = list(range(16))
    assert manager.get_match(tokens)[1].all()
    manager.reset()
    assert not manager.get_match(tokens)[1].any(), "after a restart it could be served again"
    assert refusing.resets == 1, "it is not asked for over and over"
    assert "durable" in caplog.text
    taking = Refusing(p.STATUS_OK)
    monkeypatch.setattr(manager._link, "session", lambda: taking)
    manager.get_match(tokens)
    assert manager.get_match(tokens)[1].all()
    assert taking.resets == 1
