"""Figures for Prometheus: their names and units, and ranges that hold what may come."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.metrics import BATCH_BUCKETS, SECONDS_BUCKETS, ServeMetrics
from pipelines.serving.settings import ServeSettings


def test_names_are_those_that_dashboards_know() -> None:
    metrics = ServeMetrics()
    metrics.requests.labels("/v1/embeddings", "200").inc()
    metrics.images.labels("embedded").inc(2)
    metrics.encode_s.labels("clip").inc(0.5)
    metrics.batch_images.observe(2)
    text = generate_latest(metrics.registry).decode()
    kinds = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }
    assert {name: kind for name, (kind, _) in kinds.items()} == {
        "blindpairs_requests": "counter",
        "blindpairs_request_seconds": "histogram",
        "blindpairs_requests_in_flight": "gauge",
        "blindpairs_batch_images": "histogram",
        "blindpairs_queue_images": "gauge",
        "blindpairs_served_images": "counter",
        "blindpairs_decode_seconds": "counter",
        "blindpairs_encode_seconds": "counter",
    }
    for name, (_, said) in kinds.items():
        assert said.endswith("."), name
    assert 'blindpairs_batch_images_bucket{le="1.0"} 0.0' in text
    assert 'blindpairs_batch_images_bucket{le="2.0"} 1.0' in text
    assert 'blindpairs_encode_seconds_total{role="clip"} 0.5' in text


def test_ranges_hold_what_the_settings_allow_by_default() -> None:
    settings = ServeSettings()
    assert list(BATCH_BUCKETS) == sorted(set(BATCH_BUCKETS))
    assert list(SECONDS_BUCKETS) == sorted(set(SECONDS_BUCKETS))
    # A full batch has a bucket of its own, and a request that ends in time is in one.
    assert settings.max_batch in BATCH_BUCKETS
    assert SECONDS_BUCKETS[-1] >= settings.request_timeout_s
