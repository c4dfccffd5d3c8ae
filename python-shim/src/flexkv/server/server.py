"""The sidecar under the name that the original's server has."""

from __future__ import annotations

import logging
import time
from typing import Any

from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.config import Settings
from flexkv.launcher import start_or_join
from flexkv.log import setup_logging
from flexkv.protocol import ROLE_TOOL, Hello
from flexkv.session import Session, open_session

__all__ = ["KVServer"]

logger = logging.getLogger(__name__)

_POLL_S = 0.2


class KVServer:
    """Starts a sidecar of the configured size, or joins the one that serves the address.

    ``KVManager`` does that by itself; this is for programs that were written to start a server
    first.  ``flexkv serve`` runs one in the foreground.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        cache_config: CacheConfig,
        gpu_register_port: str = "",
        server_recv_port: str = "",
    ) -> None:
        block_bytes = model_config.token_size_in_bytes * cache_config.tokens_per_block
        extra: dict[str, Any] = dict(cache_config.sidecar_options(block_bytes))
        if server_recv_port:
            extra["server_recv_port"] = server_recv_port
        self._settings = Settings.load(extra)
        setup_logging(self._settings.log_level, self._settings.logging_prefix)
        self._session: Session | None = None
        if gpu_register_port:
            logger.info("gpu_register_port has no effect here: ranks find it by their KVManager")

    @classmethod
    def create_server(cls, *args: Any, **kwargs: Any) -> KVServer:
        """Makes one and starts it; ``child_env`` and ``inherit_env`` have no effect here."""
        for name in ("child_env", "inherit_env"):
            kwargs.pop(name, None)
        server = cls(*args, **kwargs)
        server.start()
        return server

    def start(self) -> None:
        """Starts or joins; raises ``FlexKVError`` with the sidecar's last lines if it fails."""
        hello = Hello(role=ROLE_TOOL, pid=0)
        path = self._settings.socket_path
        self._session = start_or_join(
            self._settings, lambda: open_session(path, hello, None), lambda: False
        )

    def run(self) -> None:
        """Returns when the sidecar has ended."""
        while self._session is not None and self._session.alive():
            time.sleep(_POLL_S)

    def shutdown(self) -> None:
        """Lets go of the sidecar, which ends when nobody uses it any more."""
        if self._session is not None:
            self._session.close()
            self._session = None
