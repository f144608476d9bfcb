"""POST /v1/embeddings: the vectors of a run, one bad image failing alone."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miner.encoders import Encoder
from miner.schema import Reason
from miner.store import Store
from pipelines.serving.settings import ServeSettings
from tests.hostile.images import IMAGES
from tests.serving import Live, called, settings_of, until
from tests.small import jpeg

LARGEST = ServeSettings().max_body_bytes

RAW = {"content-type": "application/octet-stream"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def vectors_of(body: dict[str, Any]) -> dict[str, np.ndarray]:
    """By encoder, the vectors of the good images, in order."""
    found: dict[str, list[list[float]]] = {name: [] for name in body["encoders"]}
    for item in body["data"]:
        found[item["model"]].append(item["embedding"])
    return {name: np.array(rows, np.float32) for name, rows in found.items()}


def test_vectors_are_those_of_the_run(live: Live, index: Store) -> None:
    (shard,) = index.committed("samples")[:1]
    rows = index.samples(shard).to_pylist()[:40]
    with live.client() as client:
        images = [client.get(f"/v1/images/{row['image_id']}").content for row in rows]
        body = client.post("/v1/embeddings", json={"input": [b64(i) for i in images]}).json()
    assert body["usage"] == {"num_images": 40}
    assert [item["index"] for item in body["data"]] == [n for n in range(40) for _ in range(2)]
    for name, found in vectors_of(body).items():
        ids, stored = index.vectors(name, shard)
        place = {image_id: row for row, image_id in enumerate(ids)}
        wanted = stored[[place[row["image_id"]] for row in rows]].astype(np.float32)
        # Other images beside one in a batch move a float32's last bit, and so a float16 by a step.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2**-11)
        assert (found == wanted).mean() > 0.9
        assert (found.astype(np.float16).astype(np.float32) == found).all()
        assert body["encoders"][name]["weights_sha256"]


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "application/octet-stream", "IMAGE/PNG; a=b"]
)
def test_raw_bytes_and_json_give_the_same(live: Live, content_type: str) -> None:
    data = jpeg(3)
    with live.client() as client:
        raw = client.post("/v1/embeddings", content=data, headers={"content-type": content_type})
        as_json = client.post("/v1/embeddings", json={"input": b64(data)})
    assert raw.status_code == as_json.status_code == 200
    assert raw.json() == as_json.json()


def test_one_encoder_and_base64(live: Live) -> None:
    data = jpeg(4)
    with live.client() as client:
        both = client.post("/v1/embeddings", json={"input": b64(data)}).json()
        (dino,) = [item for item in both["data"] if item["model"].startswith("demo-dino")]
        for name in ("dino", "demo-dino", dino["model"]):
            asked = {"input": [b64(data)], "model": name, "encoding_format": "base64"}
            (item,) = client.post("/v1/embeddings", json=asked).json()["data"]
            found = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
            assert found.tolist() == dino["embedding"]
        raw = client.post("/v1/embeddings?encoders=dino", content=data, headers=RAW).json()
        assert raw["data"] == [dino]
        short = client.post(
            "/v1/embeddings?encoders=dino&encoding_format=base64", content=data, headers=RAW
        )
        assert short.json()["data"] == [item]


def test_one_bad_image_fails_only_itself(live: Live) -> None:
    images = [b64(jpeg(1)), b64(b"<html>"), "no base64!", "http://example.org/a.jpg", b64(jpeg(2))]
    with live.client() as client:
        answer = client.post("/v1/embeddings", json={"input": images, "model": "clip"})
    assert answer.status_code == 200
    items = answer.json()["data"]
    codes = [item["error"]["code"] if "error" in item else "good" for item in items]
    assert [item["index"] for item in items] == list(range(5))
    assert codes == ["good", "format_not_allowed", "invalid_base64", "url_not_fetched", "good"]


def test_no_good_image_is_a_refusal(live: Live) -> None:
    with live.client() as client:
        several = client.post("/v1/embeddings", json={"input": [b64(b"x"), b64(b"<html>")]})
        one = client.post("/v1/embeddings", content=b"<html>", headers=RAW)
    assert several.status_code == one.status_code == 422
    assert several.json()["error"]["code"] == "no_good_image"
    assert len(several.json()["data"]) == 2
    assert one.json()["error"]["code"] == "format_not_allowed"


def test_a_list_of_one_is_answered_as_a_list(live: Live) -> None:
    with live.client() as client:
        answer = client.post("/v1/embeddings", json={"input": ["bm8="]})
        alone = client.post("/v1/embeddings", json={"input": "bm8="})
    assert (answer.status_code, alone.status_code) == (422, 422)
    (item,) = answer.json()["data"]
    assert (item["object"], item["index"]) == ("error", 0)
    assert item["error"] == alone.json()["error"]
    assert answer.json()["error"]["code"] == "no_good_image"
    assert "data" not in alone.json()


class Picky:
    """An encoder that fails at dark images."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        if (pixels_BCHW.amax(dim=(1, 2, 3)) == 0).any():
            raise RuntimeError("dark")
        return self._encoder(pixels_BCHW)


def test_encoders_that_fail_cost_the_image_and_in_the_end_the_service() -> None:
    async def work() -> None:
        async with called(settings_of(max_wait_ms=1)) as client:
            service = client.app.state.service  # type: ignore[attr-defined]
            service.encoders["dino"] = Picky(service.encoders["dino"])
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64)).save(buffer, "PNG")
            dark, light = b64(buffer.getvalue()), b64(jpeg(1))
            answer = await client.post("/v1/embeddings", json={"input": [light, dark, light]})
            assert answer.status_code == 200
            kinds = [(item["object"], item["index"]) for item in answer.json()["data"]]
            assert kinds == [("embedding", n) if n != 1 else ("error", 1) for n in (0, 0, 1, 2, 2)]
            assert answer.json()["data"][2]["error"]["code"] == "encoding_failed"
            for asked in (dark, [dark, dark], dark):
                assert (await client.get("/healthz")).status_code == 200
                answer = await client.post("/v1/embeddings", json={"input": asked})
                assert (answer.status_code, answer.json()["error"]["code"]) == (
                    500,
                    "encoding_failed",
                )
            await until(lambda: service.batcher.error is not None)
            health = await client.get("/healthz")
            assert (health.status_code, health.json()) == (503, {"status": "broken"})
            answer = await client.post("/v1/embeddings", json={"input": light})
            assert answer.status_code == 503

    asyncio.run(work())


def test_hostile_images_are_refused_with_a_reason(live: Live) -> None:
    with live.client() as client:
        for case in IMAGES:
            answer = client.post("/v1/embeddings", content=case.data, headers=RAW)
            if len(case.data) > LARGEST:
                assert answer.json()["error"]["code"] == "body_too_large", case.name
            elif case.outcome in set(Reason):
                assert answer.status_code == 422, case.name
                assert answer.json()["error"]["code"] == case.outcome, case.name
                assert answer.json()["error"]["message"].startswith(case.outcome), case.name
            else:
                assert answer.status_code == 200, case.name
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b'{"input": "' + b"\xff" * 4 + b'"}', 400, "invalid_json", None),
        (b"[" * 8000, 400, "invalid_json", None),
        (b'{"input": ' + b"[" * 8000, 400, "invalid_json", None),
        (b"[" * 100_000, 422, "too_many_values", None),
        (b"[]", 422, "invalid_request", None),
        (b"{}", 422, "invalid_request", "input"),
        (b'{"input": 3}', 422, "invalid_request", "input.str"),
        (b'{"input": []}', 422, "no_image", "input"),
        (b'{"input": [' + b",".join([b'"a"'] * 65) + b"]}", 422, "too_many_images", "input"),
        (b'{"input": "", "model": "resnet"}', 422, "unknown_encoder", "model"),
        (b'{"input": "", "colour": 1}', 422, "invalid_request", "colour"),
        (b'{"input": "", "image_url": "http://a"}', 422, "url_not_fetched", "image_url"),
        (b'{"input": "https://a/b.jpg"}', 422, "url_not_fetched", "input"),
        (b'{"input": "\\u00e4"}', 422, "invalid_base64", "input"),
        (b'{"input": ""}', 422, "empty", "input"),
        (b'{"input": "' + b"A" * 100_001 + b'"}', 422, "invalid_base64", "input"),
    ],
)
def test_bodies_that_are_refused(
    live: Live, body: bytes, status: int, code: str, param: str | None
) -> None:
    with live.client() as client:
        headers = {"content-type": "application/json"}
        answer = client.post("/v1/embeddings", content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert len(error["message"]) < 500


def test_parameters_without_effect_are_refused(live: Live) -> None:
    with live.client() as client:
        for param, value in (("encoders", "clip"), ("encoding_format", "float")):
            answer = client.post(f"/v1/embeddings?{param}={value}", json={"input": b64(jpeg(1))})
            assert answer.status_code == 422
            assert answer.json()["error"]["param"] == param
        answer = client.post("/v1/embeddings?encoders=clip,x", content=jpeg(1), headers=RAW)
        assert answer.status_code == 422
        assert "demo-clip-" in answer.json()["error"]["message"]
        for headers in ({"content-type": "text/html"}, {**RAW, "content-encoding": "gzip"}):
            answer = client.post("/v1/embeddings", content=b"a", headers=headers)
            assert answer.status_code == 415
            assert answer.json()["error"]["param"] == list(headers)[-1]
