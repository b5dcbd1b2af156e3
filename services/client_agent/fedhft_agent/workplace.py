"""The torch side of an agent: the base model, kept across jobs that can share it, and the worker of each job."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from fedhft.datasets.client_data import ClientData
from fedhft.job import JobSpec
from fedhft.process.signals import StopSignal
from fedhft.training.base import LoadedBase, load_base, model_folder, network_key, use_threads
from fedhft.training.device.choice import description, usable_device
from fedhft.training.device.failure import device_failures
from fedhft.training.device.state import gpu_uuid
from fedhft.training.network import Network
from fedhft.training.prefix.cache import KEPT_AS
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.stored_weights import stored_values
from fedhft.training.worker import ClientWorker
from fedhft_agent.connection import Connection
from fedhft_agent.energy import machine_meter
from fedhft_agent.session import Enlistment, Session
from fedhft_agent.settings import AgentSettings
from fedhft_agent.streaming import streams_model

log = logging.getLogger(__name__)


class Workplace:
    """Builds sessions; holds at most one base model."""

    def __init__(self, settings: AgentSettings, device: str | None = None) -> None:
        """device: the one in use so far, instead of what the settings say. Raises what `usable_device` raises."""
        self._settings = settings
        self._base: LoadedBase | None = None
        self.device = usable_device(device or settings.device)
        log.info("device", extra={"device": description(self.device)})
        self._energy = machine_meter(gpu_uuid(self.device))
        folder = settings.cache_folder
        self._prefixes = PrefixFolder.open(folder, settings.cache_size) if folder and settings.cache_size else None
        if settings.memory:
            log.info("budget of memory", extra={"bytes": settings.memory})
        if settings.threads:
            use_threads(settings.threads)

    def failures(self) -> AbstractContextManager[None]:
        """See `device_failures`."""
        return device_failures(self.device)

    def session(
        self, connection: Connection, stop: StopSignal, spec: JobSpec, data: ClientData, state_dir: Path
    ) -> Session:
        """Everything a job needs, ready to join it. Raises FedhftError(INVALID_MODEL)."""
        settings = self._settings
        base = self._base_of(spec)
        if self._prefixes is not None:
            Network.on(base, spec).cache_prefix(self._prefixes, KEPT_AS[settings.cache_dtype])
        worker = ClientWorker(spec, settings.client, base, data, state_dir, settings.memory)
        enlistment = Enlistment(tier=settings.tier)
        return Session(connection, stop, spec, worker, enlistment, settings.rules, energy=self._energy)

    def _base_of(self, spec: JobSpec) -> LoadedBase:
        """The base model with this job's adapters: the one held when its network is the same, else a fresh one."""
        if self._base is None or self._base.key != network_key(spec):
            self._base = None  # release the old one before the new one is read
            folder = model_folder(self._settings.model or spec.model.name, spec.model.revision)
            streamed = self._prefixes is not None and streams_model(self._settings, stored_values(folder))
            self._base = load_base(spec, self._settings.model, device=self.device, streamed=streamed)
            log.info(
                "base model loaded",
                extra={
                    "model": str(self._base.path),
                    "digest": self._base.digest[:12],
                    "device": str(self._base.device),
                    "dtype": str(self._base.dtype).removeprefix("torch."),
                    "streamed": self._base.streamed is not None,
                },
            )
        return self._base
