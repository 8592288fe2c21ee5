"""Metrics in Prometheus' text form and a health page, at the loopback address alone."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from fedmed_edge.errors import InputError
from fedmed_edge.listener.incoming import Incoming
from fedmed_edge.listener.journal import Journal

_LOOPBACK = "127.0.0.1"


class Metrics:
    """What the node counts; states are read from the journal when they are asked for."""

    def __init__(self, journal: Journal, incoming: Incoming) -> None:
        self._journal, self._incoming = journal, incoming
        self.registry = CollectorRegistry()
        self.instances = Counter(
            "fedmed_instances",
            "Instances that arrived, by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self.refused = Counter(
            "fedmed_refused", "Peers that were refused, by why", ["reason"], registry=self.registry
        )
        self.seconds = Histogram(
            "fedmed_answer_seconds",
            "Time that a series took to be answered",
            registry=self.registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at every scrape."""
        jobs = GaugeMetricFamily("fedmed_jobs", "Series by state", labels=["state"])
        for state, count in self._journal.jobs_by_state().items():
            jobs.add_metric([state], count)
        yield jobs
        deliveries = GaugeMetricFamily("fedmed_deliveries", "Objects by state", labels=["state"])
        for state, count in self._journal.deliveries_by_state().items():
            deliveries.add_metric([state], count)
        yield deliveries
        count, size = self._journal.stored()
        yield GaugeMetricFamily("fedmed_stored_instances", "Instances on the disk", value=count)
        yield GaugeMetricFamily("fedmed_stored_bytes", "Bytes of these", value=size)
        yield GaugeMetricFamily("fedmed_disk_free_bytes", "Free space", value=self._incoming.free_bytes)


class MetricsServer:
    """`/metrics`, and `/health`: 200 while the node can work, 503 with the faults otherwise.

    Args:
        faults: What is wrong now, one line each.
    """

    def __init__(self, metrics: Metrics, faults: Callable[[], list[str]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path == "/health":
                    found = faults()
                    document: dict[str, Any] = {"healthy": not found, "faults": found}
                    self._answer(503 if found else 200, "application/json", json.dumps(document).encode())
                else:
                    self._answer(404, "text/plain", b"/metrics and /health\n")

            def _answer(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self._server: ThreadingHTTPServer | None = None

    def start(self, port: int) -> int:
        """Answer from now on; returns the port.

        Raises:
            InputError: The port is taken.
        """
        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, port), self._handler)
        except OSError as error:
            raise InputError(
                f"listen: `metrics_port` {port} cannot be listened at: {(error.strerror or '').lower()}",
                hint="choose another `metrics_port` in [listen]",
            ) from None
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
