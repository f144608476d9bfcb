"""The app as a whole: its own description holds, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from miner.store import Store
from pipelines.serving.metrics import ServeMetrics
from tests.serving import Live, listening, settings_of
from tests.small import jpeg

EXAMPLES = 30

WITH_MEANING = ("/v1/embeddings", "/v1/blind-partners", "/v1/pairs")


def test_health_and_readiness(live: Live) -> None:
    with live.client() as client:
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_decoders_that_stopped_are_seen_from_outside() -> None:
    with listening(settings_of()) as alone, alone.client() as client:
        alone.app.state.service.batcher._fail("decoders", RuntimeError("killed"))
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"status": "broken"})
        headers = {"content-type": "image/jpeg"}
        answer = client.post("/v1/embeddings", content=jpeg(1), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


def test_unknown_paths_and_methods(live: Live) -> None:
    with live.client() as client:
        answer = client.get("/nothing")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "/docs says what there is" in answer.json()["error"]["message"]
        for path in ("/healthz/", "/v1/pairs/", "/docs%0a", "/report/index.html%0A"):
            assert client.get(path).status_code == 404
        answer = client.get("/v1/embeddings")
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"


def test_encoders_are_listed(live: Live) -> None:
    with live.client() as client:
        models = client.get("/v1/models").json()
        body = client.post(
            "/v1/embeddings", content=jpeg(1), headers={"content-type": "image/jpeg"}
        ).json()
    assert {each["id"]: each["record"] for each in models["data"]} == body["encoders"]
    assert [each["role"] for each in models["data"]] == ["clip", "dino"]


def test_head_is_get_without_a_body(live: Live) -> None:
    with live.client() as client:
        for path in ("/healthz", "/v1/pairs", "/docs"):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-length"] == str(len(get.content))
        assert client.head("/v1/embeddings").status_code == 405


def test_metrics_count_what_was_done() -> None:
    with listening(settings_of()) as alone, alone.client() as client:
        headers = {"content-type": "image/jpeg"}
        for seed in range(3):
            client.post("/v1/embeddings?encoders=clip", content=jpeg(seed), headers=headers)
        client.post("/v1/embeddings", content=b"<html>", headers=headers)
        text = client.get("/metrics").text
    # The service's own first image is one of the four.
    assert 'blindpairs_served_images_total{outcome="embedded"} 4.0' in text
    assert 'blindpairs_served_images_total{outcome="format_not_allowed"} 1.0' in text
    assert "blindpairs_batch_images_sum 4.0" in text
    assert 'blindpairs_requests_total{route="/v1/embeddings",status="200"} 3.0' in text
    assert 'blindpairs_requests_total{route="/v1/embeddings",status="422"} 1.0' in text
    assert 'blindpairs_request_seconds_count{route="/v1/embeddings"} 4.0' in text
    (clip_s,) = re.findall(r'encode_seconds_total\{role="clip"\} (\S+)', text)
    (dino_s,) = re.findall(r'encode_seconds_total\{role="dino"\} (\S+)', text)
    assert float(clip_s) > 0 < float(dino_s)


def test_a_process_of_its_own_is_tuned_and_no_other_one() -> None:
    code = (
        "import asyncio, gc, sys; from pipelines.serve import create_app\n"
        "from tests.serving import settings_of\n"
        "async def run(owns):\n"
        "    app = create_app(settings_of(), owns_process=owns)\n"
        "    async with app.router.lifespan_context(app):\n"
        "        print(gc.get_freeze_count() > 10_000, sys.getswitchinterval())\n"
        "for owns in (False, True): asyncio.run(run(owns))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "0.005", "True", "0.0005"]


def test_metrics_of_two_apps_are_apart() -> None:
    first, second = ServeMetrics(), ServeMetrics()
    first.images.labels("embedded").inc()
    assert first.registry.get_sample_value(
        "blindpairs_served_images_total", {"outcome": "embedded"}
    )
    assert not second.registry.get_sample_value(
        "blindpairs_served_images_total", {"outcome": "embedded"}
    )


def test_pages_load_nothing_from_elsewhere(live: Live, index: Store) -> None:
    with live.client(follow_redirects=True) as client:
        docs, report = client.get("/docs"), client.get("/")
        assert str(report.url).endswith("/report/index.html")
        for page in (docs, report):
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text)
        assert "<script" not in docs.text
        assert "POST /v1/embeddings" in docs.text
        for name in ("cosines-light.svg", "cosines.csv"):
            assert client.get(f"/report/{name}").status_code == 200
        found = client.get("/report/cosines-light.svg").headers["content-security-policy"]
        assert "sandbox" in found
        folder = index.root / "pairs" / str(index.last_join()) / "report"  # type: ignore[operator]
        image = next((folder / "images").iterdir())
        answer = client.get(f"/report/images/{image.name}")
        assert answer.content == image.read_bytes()
        assert answer.headers["content-type"] == "image/jpeg"


def test_the_service_keeps_to_its_own_description(live: Live) -> None:
    document = live.app.openapi()
    assert {"/v1/embeddings", "/v1/blind-partners", "/v1/pairs"} < document["paths"].keys()
    schema = schemathesis.openapi.from_dict(document)

    for found in schema.get_all_operations():
        # What a schema cannot say: that base64 is of an image, and a cursor one of ours.
        operation = found.ok()
        excluded = [positive_data_acceptance] if operation.path in WITH_MEANING else []
        check_operation(operation, live.url, excluded)


def check_operation(operation: Any, url: str, excluded: list[Any]) -> None:
    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def keeps_to_it(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=url, excluded_checks=excluded)

    keeps_to_it()
