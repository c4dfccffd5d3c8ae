"""Clients of the sidecar under the original's names.

``KVTPClient`` lends one rank's KV memory to the sidecar; ``KVDPClient`` is what ``KVManager`` is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flexkv.addresses import instance_name, rank_address
from flexkv.client import Link
from flexkv.common.config import CacheConfig, ModelConfig
from flexkv.common.memory_handle import TensorSharedHandle
from flexkv.common.storage import KVCacheLayout
from flexkv.config import Settings
from flexkv.errors import FlexKVError
from flexkv.fences import NoFences
from flexkv.kvmanager import KVManager
from flexkv.log import setup_logging
from flexkv.protocol import ROLE_WORKER, Hello
from flexkv.rank_layout import rank_layout
from flexkv.registration import Registration

__all__ = ["KVDPClient", "KVTPClient"]

logger = logging.getLogger(__name__)


class KVTPClient:
    """One rank: registers its KV tensors, and keeps them registered while it lives.

    Keep the object and the tensors alive; the process needs to do nothing else, a thread attaches
    them again when the sidecar was restarted.  One thread at a time may call it.

    ``gpu_register_port`` is ``KVManager.gpu_register_port``, ``dp_client_id`` that manager's.
    ``intra_client_id`` counts the ranks of one pipeline stage from 0.  With four arguments the
    fourth is that number, as it was before there were stages.  With several stages
    ``ranks_per_stage`` (or the layout's ``tp_size``) says how many ranks each has.
    """

    def __init__(
        self,
        gpu_register_port: str,
        dp_client_id: int = 0,
        device_id: int = 0,
        pp_rank: int = 0,
        intra_client_id: int | None = None,
        *,
        ranks_per_stage: int = 0,
    ) -> None:
        """Reads the settings; connects to nothing.  Raises ``ConfigError``."""
        if intra_client_id is None:
            pp_rank, intra_client_id = 0, pp_rank
        self.gpu_register_port = gpu_register_port
        self.dp_client_id = dp_client_id
        self.device_id = device_id
        self.pp_rank = pp_rank
        self.intra_client_id = intra_client_id
        self._ranks_per_stage = ranks_per_stage
        self._instance = instance_name(gpu_register_port, dp_client_id)
        self._settings = Settings.load({"server_recv_port": rank_address(gpu_register_port)})
        setup_logging(self._settings.log_level, self._settings.logging_prefix)
        self._link: Link | None = None

    def register_to_server(
        self,
        kv_caches: Sequence[Any],
        kv_layout: KVCacheLayout,
        override_device_id: int | None = None,
        layer_groups: Any = None,
        gpu_layouts: Any = None,
        handles_per_group: Any = None,
        resume: bool = False,  # noqa: ARG002
        **swa: Any,
    ) -> None:
        """Lends tensors to the sidecar, after proving that it sees them as this process does.

        ``kv_caches`` are torch tensors on ``device_id`` or on the CPU (or ``TensorSharedHandle``
        of such), laid out as ``kv_layout`` says (``flexkv.rank_layout`` lists the forms).  The
        proof writes into four blocks and gives them their bytes back: nothing else may use them
        meanwhile.  Waits for the sidecar, at most ``FLEXKV_START_TIMEOUT_S``; raises
        ``FlexKVError`` if there is none, or if it does not see the tensors rightly.  ``resume``
        registers tensors that moved, after ``suspend_gpu_mappings``.
        """
        for name, value in {
            "layer_groups": layer_groups, "gpu_layouts": gpu_layouts,
            "handles_per_group": handles_per_group, **swa,
        }.items():  # fmt: skip
            if value is not None:
                raise FlexKVError(f"{name} is not served: one KV group of one layout is")
        if self._link is not None:
            self.suspend_gpu_mappings()
        tensors = [
            cache.get_tensor() if isinstance(cache, TensorSharedHandle) else cache
            for cache in kv_caches
        ]
        layout = rank_layout(tensors, kv_layout)
        rank = self._rank(kv_layout)
        registration = Registration(keep=True)
        hello = Hello(
            role=ROLE_WORKER,
            pid=os.getpid(),
            instance=self._instance,
            rank=rank,
            world_size=0,  # the manager's to say, as is the namespace
            block_tokens=kv_layout.tokens_per_block,
        )
        link = Link(self._settings, lambda: hello, on_attach=registration.again, launch=False)
        link.start()
        device = self.device_id if override_device_id is None else override_device_id
        try:
            with _on_device(tensors[0], device):
                if not registration.first(
                    layout, NoFences(), link, self._settings.start_timeout_s,
                    # Latent attention: one copy serves every rank of a stage, and the sidecar
                    # stores it once where there is one stage; ranks of another have layers of
                    # their own.
                    same_on_all_ranks=kv_layout.kv_dim == 1 and self.pp_rank == 0,
                ):  # fmt: skip
                    raise FlexKVError(
                        f"rank {rank} is not registered at {self.gpu_register_port}: see the log; "
                        "the KVManager with this gpu_register_port must have been started"
                    )
        except BaseException:
            link.close()
            raise
        self._link = link

    def _rank(self, kv_layout: KVCacheLayout) -> int:
        stage = self._ranks_per_stage or kv_layout.tp_size
        if self.pp_rank == 0:
            return self.intra_client_id
        if self.intra_client_id >= stage:
            raise FlexKVError(
                f"intra_client_id is {self.intra_client_id} and a stage has {stage} ranks: say "
                "ranks_per_stage, or tp_size in the KVCacheLayout"
            )
        return self.pp_rank * stage + self.intra_client_id

    def suspend_gpu_mappings(self) -> None:
        """Takes the tensors back: the sidecar lets go of the memory.  Bounded by two seconds."""
        if self._link is not None:
            self._link.close()
            self._link = None

    shutdown = suspend_gpu_mappings

    def set_slot_mapping(self, task_id: int, slot_mapping: Any) -> None:  # noqa: ARG002
        """The original's call for ranks on another host, which must have a sidecar of their own."""
        raise FlexKVError(
            f"task {task_id}: ranks on another host are not served; run a KVManager there"
        )


def _on_device(tensor: Any, device_id: int) -> AbstractContextManager[Any]:
    """Makes a GPU's context current, with everything that was submitted to it complete."""
    if tensor.device.type != "cuda":
        return nullcontext()
    import torch

    if tensor.device.index != device_id:
        raise FlexKVError(f"the tensors are on {tensor.device}, must be on cuda:{device_id}")
    torch.cuda.synchronize(device_id)
    context: AbstractContextManager[Any] = torch.cuda.device(device_id)
    return context


class KVDPClient(KVManager):
    """The original's client of a server process, with the arguments in its order."""

    def __init__(
        self,
        server_recv_port: str,
        dp_client_id: int = 0,
        model_config: ModelConfig | None = None,
        cache_config: CacheConfig | None = None,
        **kwargs: Any,
    ) -> None:
        """As ``KVManager``; ``model_config`` must be given."""
        if model_config is None:
            raise ValueError("model_config is None: it says what a token's KV is")
        super().__init__(
            model_config, cache_config or CacheConfig(), dp_client_id, server_recv_port, **kwargs
        )

    def start_server_and_register(self) -> None:
        """``KVManager.start``."""
        self.start()

    register_to_server = start_server_and_register

    def launch_tasks(self, *args: Any, **kwargs: Any) -> list[int]:
        """``KVManager.launch``."""
        return self.launch(*args, **kwargs)

    def cancel_tasks(self, task_ids: int | Sequence[int]) -> None:
        """``KVManager.cancel``."""
        self.cancel(task_ids)

    cancel_task = cancel_tasks

    def unregister(self) -> None:
        """``KVManager.shutdown``."""
        self.shutdown()
