"""The whole node: its parts, in the order in which they start and stop."""

import logging
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedmed_edge.atomic import locked
from fedmed_edge.errors import InputError
from fedmed_edge.listener.answering import Answering
from fedmed_edge.listener.delivery import Delivering
from fedmed_edge.listener.destinations import silence_libraries
from fedmed_edge.listener.incoming import Incoming, Outcome
from fedmed_edge.listener.journal import JOURNAL, Journal
from fedmed_edge.listener.metrics import Metrics, MetricsServer
from fedmed_edge.listener.retention import Retention
from fedmed_edge.listener.storage_scp import StorageScp
from fedmed_edge.listener.worker_process import WorkerProcess
from fedmed_edge.listening import Listen
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

_GB = 1e9

_FAULTS = {
    "room_on_disk": "the disk is full: nothing more is received",
    "answering": "results wait: the model or the journal cannot be used; the log says why",
    "listening": "the DICOM port is closed: nothing more is received",
    "delivering": "results have not arrived at their destination for a long while",
    "fetching": "the DICOMweb server has not answered for a long while",
}

_REFUSED = {
    "address": "`allow` does not name its address",
    "aet": "`allow` does not name its AE title, or it calls another one than `aet`",
    "tls": "it speaks no TLS, or shows no certificate that `authority` signed",
    "limit": "there are as many associations as `associations` allows",
}


class Node:
    """A DICOM node over one folder.

    Args:
        site: Site folder, whose active model answers where the settings name none.
        trust: The server's public key.
        verbose: Let the model's process write to stderr.

    Raises:
        InputError: Another node works on the folder, or the folder or a setting is unusable.
    """

    def __init__(
        self, settings: Listen, site: Path, *, trust: Path | None, device: str = "auto", verbose: bool = False
    ) -> None:
        # The journal holds paths, and the node may be started from elsewhere the next time.
        self.settings = settings = settings.model_copy(update={"folder": settings.folder.absolute()})
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        total = shutil.disk_usage(settings.folder).total
        if settings.watermark_gb * _GB >= total:
            raise InputError(
                f"listen.watermark_gb: has {settings.watermark_gb:g}, expected less than the disk of "
                f"`folder` holds, {total / _GB:.0f}"
            )
        self._lock = ExitStack()  # nobody else works on the folder while it is held
        busy, hint = (
            f"{settings.folder}: another `listen` works here",
            "end it first, or name another `folder`",
        )
        self._lock.enter_context(locked(settings.folder / ".lock", busy=busy, hint=f"{hint} in [listen]"))
        self.journal = Journal(settings.folder / JOURNAL)
        self.incoming = Incoming(settings.folder / "incoming", self.journal, int(settings.watermark_gb * _GB))
        memory = None if settings.memory_gb is None else int(settings.memory_gb * _GB)
        arguments = {
            "site": str(site.absolute()),
            "path": str(settings.model) if settings.model else None,
            "trust": str(trust) if trust else None,
            "device": device,
            "options": {
                "formats": ["json", "seg", "sr", "sc"],
                "seg": settings.segmentation,
                "seg_keep_empty": settings.seg_keep_empty,
                "lenient": settings.lenient,
            },
        }
        self.worker = WorkerProcess(arguments, memory, verbose=verbose)
        self.metrics = Metrics(self.journal, self.incoming)
        self._metrics_server = MetricsServer(self.metrics, self.faults)
        self._retention = Retention(settings, self.journal, self.incoming)
        self._delivering = Delivering(settings, self.journal)
        self._answering = Answering(settings, self.journal, self.incoming, self.worker, self._finished)
        self._scp = StorageScp(settings, self.incoming, self._arrived, self._refused)
        self._polling = None
        if settings.dicomweb.url:
            # Loads an HTTP library: only where a server is named.
            from fedmed_edge.listener.dicomweb import Polling

            self._polling = Polling(settings, self.journal, self.incoming, self._arrived)

    def start(self) -> dict[str, Any]:
        """Go on where the journal stands, then listen.

        Returns:
            Where it listens, and what answers.

        Raises:
            FedmedError: The model is not trusted or not usable, or a port is taken.
        """
        silence_libraries()
        answering = self.worker.start()
        self.incoming.recover()
        metrics_port = self._metrics_server.start(self.settings.metrics_port)
        self._answering.start()
        if self.settings.send:
            moved = self.journal.readdress(self.settings.destination)
            if moved:
                results = counted(moved, "result")
                log.warning("listen: %s waited for a destination that is no longer named", results)
            # also what a node that was killed had just taken up
            self.journal.hurry()
            self._delivering.start()
        self._retention.start()
        port = self._scp.start()
        if not self.settings.bind.is_loopback and self.settings.tls.certificate is None:
            log.warning("listen: images cross the network in the clear: [listen.tls] names no certificate")
        if self._polling is not None:
            self._polling.start()
        return {
            "aet": self.settings.aet,
            "address": str(self.settings.bind),
            "port": port,
            "tls": self.settings.tls.certificate is not None,
            "metrics_port": metrics_port,
            "send": self.settings.send,
            "destination": list(self.settings.destination),
            **answering,
        }

    def stop(self) -> None:
        """End within two seconds: what is under way is taken up again after the next start."""
        if self._polling is not None:
            self._polling.stop()
        self._scp.stop()
        self._answering.stop()
        self._delivering.stop()
        self._retention.stop()
        self._metrics_server.stop()
        self._lock.close()

    def flags(self) -> dict[str, bool]:
        """What the node is to do, and whether it does; for the heartbeat."""
        flags = {
            "room_on_disk": not self.incoming.full,
            "answering": self._answering.well,
            "listening": self._scp.well,
        }
        if self.settings.send:
            flags["delivering"] = self._delivering.well
        if self._polling is not None:
            flags["fetching"] = self._polling.well
        return flags

    def faults(self) -> list[str]:
        """What keeps the node from working, for the health page."""
        return [_FAULTS[name] for name, well in self.flags().items() if not well]

    def _arrived(self, outcome: Outcome, series_uid: str) -> None:
        self.metrics.instances.labels(outcome.value).inc()
        if outcome in (Outcome.STORED, Outcome.DUPLICATE):
            self._answering.arrived(series_uid)
        elif outcome is Outcome.FULL:
            self._retention.hurry()
            log.warning("listen: the disk has less than `watermark_gb` free: an instance was turned away")
        elif outcome in (Outcome.CONFLICT, Outcome.UNREADABLE):
            log.warning("listen: an instance was not kept: %s", outcome.value)

    def _finished(self, seconds: float) -> None:
        self.metrics.seconds.observe(seconds)
        self._delivering.wake()

    def _refused(self, reason: str, peer: str) -> None:
        self.metrics.refused.labels(reason).inc()
        log.warning("listen: %r was refused: %s", peer, _REFUSED[reason])
