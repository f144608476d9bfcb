"""What the service counts, for Prometheus; a registry for each app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class ServeMetrics:
    """The service's figures."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "blindpairs_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.request_s = Histogram(
            "blindpairs_request_seconds",
            "From a request's last byte to the end of its answer.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "blindpairs_requests_in_flight",
            "Requests that are read or answered.",
            registry=registry,
        )
        self.batch_images = Histogram(
            "blindpairs_batch_images",
            "Images that were encoded together.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "blindpairs_queue_images", "Images in the service.", registry=registry
        )
        self.images = Counter(
            "blindpairs_served_images",
            "Images by what became of them: embedded, cancelled, failed, or why refused.",
            ["outcome"],
            registry=registry,
        )
        self.decode_s = Counter(
            "blindpairs_decode_seconds",
            "Time of the decode workers, added up.",
            registry=registry,
        )
        self.encode_s = Counter(
            "blindpairs_encode_seconds", "Time of an encoder.", ["role"], registry=registry
        )
