"""The client against a real server that says what a service would, and what none should."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from miner import client_images
from miner.client import Client
from miner.errors import ServiceError
from miner.store import Store
from tests.http_scripts import Script, Step, hangs_up, playing, says
from tests.serving import Live

UNIT = base64.b64encode(np.array([0.6, 0.8], "<f4").tobytes()).decode()


@contextmanager
def speaking(*steps: Step) -> Iterator[tuple[Script, Client]]:
    """A server that takes the steps in turn, and a client of it."""
    with playing(*steps) as script, Client(script.url, "secret") as client:
        yield script, client


def embedding(index: int, model: str = "clip-1") -> dict[str, Any]:
    return {"object": "embedding", "index": index, "model": model, "embedding": UNIT}


def refusal(index: int) -> dict[str, Any]:
    return {"object": "error", "index": index, "error": {"message": "no image", "code": "x"}}


def items(*data: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(data), "encoders": {"clip-1": {"name": "clip"}}}


def picture(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((7, 5)).convert(mode)


def test_one_image_is_sent_by_bytes_path_or_pixels(tmp_path: Path) -> None:
    image = picture("RGBA")
    path = tmp_path / "a.png"
    image.save(path)
    with speaking(says(200, items(embedding(0)))) as (script, client):
        for each in (path.read_bytes(), path, image):
            found = client.embed(each, model="clip")
            assert (found.indexes, found.errors) == ([0], {})
            assert found.vectors["clip-1"].tolist() == [[0.6000000238418579, 0.800000011920929]]
            assert found.encoders == {"clip-1": {"name": "clip"}}
    for method, path_asked, _, body in script.asked:
        assert (method, path_asked) == ("POST", "/v1/embeddings")
        assert (body["model"], body["encoding_format"]) == ("clip", "base64")
        got = Image.open(io.BytesIO(base64.b64decode(body["input"])))
        assert got.mode == "RGBA"
        assert got.tobytes() == image.tobytes()


def test_several_images_go_in_several_requests() -> None:
    two = says(200, items(refusal(1), embedding(0)))
    with speaking(two, two, says(200, items(embedding(0)))) as (script, client):
        found = client.embed([b"0", b"1", b"2", b"3", b"4"], request_images=2)
    assert [[base64.b64decode(each) for each in body["input"]] for *_, body in script.asked] == [
        [b"0", b"1"],
        [b"2", b"3"],
        [b"4"],
    ]
    assert found.indexes == [0, 2, 4]
    assert sorted(found.errors) == [1, 3]
    assert found.vectors["clip-1"].shape == (3, 2)


def test_requests_are_no_larger_than_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_images, "REQUEST_BYTES", 9)
    one = says(200, items(embedding(0)))
    with speaking(says(200, items(embedding(0), embedding(1))), one, one) as (script, client):
        assert client.embed([b"123", b"456", b"1234567", b"x" * 90]).indexes == [0, 1, 2, 3]
    assert [len(body["input"]) for *_, body in script.asked] == [2, 1, 1]


def test_no_images_are_no_request() -> None:
    with speaking(says(500)) as (script, client):
        assert client.embed([]).indexes == []
    assert script.asked == []


def test_a_list_without_a_good_image_is_errors_and_a_single_one_is_raised() -> None:
    body = {**items(refusal(0)), "error": {"message": "none of 1 images is good", "code": "c"}}
    with speaking(says(422, body)) as (_, client):
        assert client.embed([b"x"]).errors[0].code == "x"
        with pytest.raises(ServiceError, match=r"422 .c.: none of 1 images is good") as info:
            client.embed(b"x")
    assert (info.value.status, info.value.code) == (422, "c")


@pytest.mark.parametrize(("status", "code"), [(422, "unknown_format"), (413, "body_too_large")])
def test_a_refused_image_that_goes_alone_costs_nothing_else(status: int, code: str) -> None:
    refused = says(status, {"error": {"message": "what is it?", "code": code}})
    with speaking(says(200, items(embedding(0))), refused) as (_, client):
        found = client.embed([b"0", b"1"], request_images=1)
        assert (found.indexes, found.vectors["clip-1"].shape) == ([0], (1, 2))
        assert (found.errors[1].code, found.errors[1].message) == (code, "what is it?")
        with pytest.raises(ServiceError, match=rf"{status} .{code}.: what is it"):
            client.embed(b"1")
    another = says(422, {"error": {"message": "no", "code": "another"}})
    with speaking(another) as (_, client):
        for images in ([b"0"], [b"0", b"1"]):
            with pytest.raises(ServiceError, match=r"422 .another.: no"):
                client.embed(images)


@pytest.mark.parametrize(("status", "code"), [(422, "too_many_images"), (413, "body_too_large")])
def test_a_list_that_is_too_much_goes_in_halves(status: int, code: str) -> None:
    refused = says(status, {"error": {"message": "too much", "code": code}})
    one = says(200, items(embedding(0)))
    two = says(200, items(embedding(0), embedding(1)))
    with speaking(refused, one, two) as (script, client):
        found = client.embed([b"0", b"1", b"2"])
    assert found.indexes == [0, 1, 2]
    sent = [[base64.b64decode(each) for each in body["input"]] for *_, body in script.asked]
    assert sent == [[b"0", b"1", b"2"], [b"0"], [b"1", b"2"]]


def test_what_is_no_image_is_refused_with_what_would_be() -> None:
    with speaking(says(500)) as (script, client):
        for images in ("a.jpg", ["a.jpg"]):
            with pytest.raises(TypeError, match=r"given as str; .*Path\(\.\.\.\)"):
                client.embed(images)  # type: ignore[arg-type]
        pixels = np.zeros((4, 4, 3), np.uint8)
        for arrays in (pixels, [pixels]):
            with pytest.raises(TypeError, match=r"given as ndarray; .*Image\.fromarray"):
                client.embed(arrays)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="given as str"):
            client.blind_partners("a.jpg")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit is no filter: page_size"):
            next(client.pairs(limit=3))
    assert script.asked == []


def test_another_422_is_raised() -> None:
    with (
        speaking(says(422, {"error": {"message": "no such model"}})) as (_, client),
        pytest.raises(ServiceError, match="no such model"),
    ):
        client.embed([b"x"], model="nothing")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "no answer of this service: body: Invalid JSON"),
        ({"items": []}, "no answer of this service: data: Field required"),
        (items(), r"no answer of this service: images \[0\] have neither"),
        (items(embedding(5)), "index 5"),
    ],
)
def test_what_is_no_list_of_embeddings_is_refused(body: Any, said: str) -> None:
    with speaking(says(200, body)) as (_, client), pytest.raises(ServiceError, match=said):
        client.embed(b"x")


def test_encoders_that_change_between_requests_are_refused() -> None:
    steps = says(200, items(embedding(0))), says(200, items(embedding(0, "other-1")))
    with (
        speaking(*steps) as (_, client),
        pytest.raises(ServiceError, match="answered by different encoders"),
    ):
        client.embed([b"0", b"1"], request_images=1)


def test_encoders_that_change_between_halves_are_refused() -> None:
    refused = says(413, {"error": {"message": "too much", "code": "body_too_large"}})
    steps = says(200, items(embedding(0))), says(200, items(embedding(0, "other-1")))
    with (
        speaking(refused, *steps) as (_, client),
        pytest.raises(ServiceError, match="answered by different encoders"),
    ):
        client.embed([b"0", b"1"])


def test_pixels_that_png_would_change_are_refused() -> None:
    with speaking(says(500)) as (script, client):
        for mode in ("CMYK", "F", "I", "YCbCr"):
            with pytest.raises(ValueError, match=f"mode {mode}, which PNG does not hold"):
                client.embed(picture(mode))
        with pytest.raises(ValueError, match="request_images is 0"):
            client.embed([picture()], request_images=0)
    assert script.asked == []


PARTNERS = {
    "object": "list",
    "data": [
        {
            "image_id": "d/s/k",
            "clip_cos": 0.97,
            "dino_cos": 0.3,
            "gap": 0.67,
            "borderline": False,
            "caption": "a cat",
        }
    ],
    "clip_above": 0.95,
    "dino_below": 0.6,
    "num_partners": 1,
    "exact": True,
}


def test_blind_partners_of_an_image_or_an_id() -> None:
    with speaking(says(200, PARTNERS)) as (script, client):
        found = client.blind_partners(image_id="d/s/k", clip_above=0.9, limit=3)
        assert (found.num_partners, found.exact, found.clip_above) == (1, True, 0.95)
        (partner,) = found.data
        assert (partner.image_id, partner.clip_cos) == ("d/s/k", 0.97)
        assert partner.caption == "a cat"  # type: ignore[attr-defined]
        client.blind_partners(b"bytes", dino_below=0.5)
        with pytest.raises(ValueError, match="either an image or an image_id"):
            client.blind_partners()
        with pytest.raises(ValueError, match="either an image or an image_id"):
            client.blind_partners(b"", image_id="x")
    assert [body for *_, body in script.asked] == [
        {"image_id": "d/s/k", "clip_above": 0.9, "limit": 3},
        {"image": base64.b64encode(b"bytes").decode(), "dino_below": 0.5},
    ]
    assert script.asked[0][2]["Authorization"] == "Bearer secret"


def page(*names: str, cursor: str | None) -> dict[str, Any]:
    rows = [
        {"pair_id": each, "image_1": "a", "image_2": "b", "clip_cos": 1, "dino_cos": 0, "rank": 3}
        for each in names
    ]
    return {"object": "list", "data": rows, "next_cursor": cursor}


def test_pairs_come_page_by_page() -> None:
    steps = [page("1", "2", cursor="c&1"), page("3", cursor="c2"), page(cursor=None)]
    with speaking(*(says(200, each) for each in steps)) as (script, client):
        pairs = client.pairs(page_size=2, sort="gap", order="desc", text="a b", min_gap=0.5)
        assert next(pairs).pair_id == "1"
        assert len(script.asked) == 1
        rest = list(pairs)
    assert [pair.pair_id for pair in rest] == ["2", "3"]
    assert rest[0].rank == 3  # type: ignore[attr-defined]
    asked = "/v1/pairs?limit=2&sort=gap&order=desc&text=a+b&min_gap=0.5"
    paths = [path.replace("%20", "+") for _, path, _, _ in script.asked]
    assert paths == [asked, asked + "&cursor=c%261", asked + "&cursor=c2"]


def test_pages_in_a_circle_are_refused() -> None:
    with (
        speaking(says(200, page("1", cursor="c"))) as (_, client),
        pytest.raises(ServiceError, match="go round in a circle"),
    ):
        list(client.pairs())


@pytest.mark.parametrize(
    ("image_id", "path"),
    [
        ("d/s/k", "/v1/images/d/s/k"),
        ("d/s/a?b#c%d e", "/v1/images/d/s/a%3Fb%23c%25d%20e"),
        ("d/../k/.", "/v1/images/d/%2E%2E/k/%2E"),
        ("ä", "/v1/images/%C3%A4"),
    ],
)
def test_images_are_asked_for_by_their_very_id(image_id: str, path: str) -> None:
    with speaking(says(200, b"\xff\xd8")) as (script, client):
        assert client.image(image_id) == b"\xff\xd8"
    assert script.asked[0][:2] == ("GET", path)


def test_a_missing_image_is_an_error() -> None:
    with (
        speaking(says(404, {"error": {"message": "no such image"}})) as (_, client),
        pytest.raises(ServiceError, match="no such image"),
    ):
        client.image("x")


def test_readiness_is_asked_once() -> None:
    steps = [says(503), hangs_up, says(200, {"status": "ready"}), says(404, b"what?")]
    with speaking(*steps) as (script, client):
        assert [client.ready() for _ in range(3)] == [False, False, True]
        assert len(script.asked) == 3
        with pytest.raises(ServiceError, match=r"/readyz answered 404: what"):
            client.ready()


def test_the_client_and_the_service_understand_each_other(live: Live, index: Store) -> None:
    name = index.last_join()
    assert name is not None
    with Client(live.url) as client:
        assert client.ready()
        pairs = list(client.pairs(page_size=7))
        selected = index.read_table(f"pairs/{name}/selected.parquet").to_pylist()
        assert [pair.pair_id for pair in pairs] == [row["pair_id"] for row in selected]
        assert len(pairs) > 7
        one = pairs[0]
        assert one.rank == 1  # type: ignore[attr-defined]
        data = client.image(one.image_1)
        assert hashlib.sha256(data).hexdigest() == selected[0]["sha256_1"]
        by_id = client.blind_partners(image_id=one.image_1)
        assert by_id.image_id == one.image_1
        assert one.image_2 in [partner.image_id for partner in by_id.data]
        assert by_id.exact
        assert by_id == client.blind_partners(data)
        few = client.blind_partners(data, clip_above=0.99, limit=1)
        assert len(few.data) <= min(1, few.num_partners)
        assert few.num_partners <= by_id.num_partners
        found = client.embed([data, b"no image", data], request_images=2)
        assert found.indexes == [0, 2]
        assert found.errors[1].code == "unknown_format"
        assert found.vectors.keys() == found.encoders.keys()
        assert found.vectors_of("clip") is found.vectors_of("demo-clip")
        assert {vectors_ND.shape for vectors_ND in found.vectors.values()} == {(2, 64), (2, 128)}
        assert sorted(client.embed([b"no", b"image"]).errors) == [0, 1]
        found = client.embed([data, b"no image"], request_images=1)
        assert (found.indexes, found.errors[1].code) == ([0], "unknown_format")
        with pytest.raises(ServiceError, match=r"422 .unknown_format."):
            client.embed(b"no image")
        with pytest.raises(ServiceError, match="404"):
            client.image("no/such/image")
        with pytest.raises(ServiceError, match="422"):
            list(client.pairs(sort="no such column"))
