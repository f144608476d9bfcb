"""POST /v1/blind-partners: for every image of a run the answer of its exact join."""

from __future__ import annotations

import base64
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miner.config import JoinSettings, MineSettings, SelectSettings
from miner.join import join
from miner.partner_search import PartnerSearch
from miner.select import select
from miner.store import Store
from pipelines.driver import mine
from pipelines.scene_shards import write_shards
from pipelines.serving import partners
from tests.serving import DEMO, Live, listening, settings_of
from tests.small import jpeg
from tests.test_partner_search import partners_in_raw

RAW = {"content-type": "image/jpeg"}


def said(body: dict[str, Any]) -> list[tuple[str, float, float, bool, int]]:
    return [
        (
            each["image_id"],
            each["clip_cos"],
            each["dino_cos"],
            each["borderline"],
            each["num_duplicates"],
        )
        for each in body["data"]
    ]


def test_every_image_by_id_and_by_bytes_has_the_partners_of_raw(live: Live, index: Store) -> None:
    name = index.last_join()
    assert name is not None
    raw = partners_in_raw(index, name)
    samples = [
        row for shard in index.committed("samples") for row in index.samples(shard).to_pylist()
    ]
    first: dict[str, str] = {}
    for row in sorted(samples, key=lambda row: str(row["image_id"])):
        first.setdefault(row["sha256"], row["image_id"])
    assert len(first) < len(samples)
    assert len(raw) > 30
    with live.client() as client:
        for row in samples:
            wanted = raw.get(first[row["sha256"]], [])
            asked = {"image_id": row["image_id"], "limit": 1000}
            by_id = client.post("/v1/blind-partners", json=asked).json()
            assert said(by_id) == wanted
            assert by_id["num_partners"] == len(wanted)
            data = client.get(f"/v1/images/{row['image_id']}").content
            answer = client.post("/v1/blind-partners?limit=1000", content=data, headers=RAW)
            by_bytes = answer.json()
            assert said(by_bytes) == wanted
            assert by_bytes["image_id"] == first[row["sha256"]]


def test_an_image_from_elsewhere_is_encoded_as_a_run_would(
    live: Live, index: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No image counts as known, so each is encoded: the answer may differ from the join's only
    # where a cosine lies within the rounding of a batch's other shape.
    monkeypatch.setattr(PartnerSearch, "with_bytes", lambda self, sha256: None)
    name = index.last_join()
    assert name is not None
    raw = partners_in_raw(index, name)
    record = index.read_record(f"pairs/{name}/join.json")
    (shard,) = index.committed("samples")[:1]
    with live.client() as client:
        for row in index.samples(shard).to_pylist():
            image_id = row["image_id"]
            data = client.get(f"/v1/images/{image_id}").content
            asked = {"image": base64.b64encode(data).decode(), "limit": 1000}
            body = client.post("/v1/blind-partners", json=asked).json()
            assert body["image_id"] is None
            # To CLIP and DINO alike it is the image of the index itself, which is no partner.
            wanted = {each[0]: each for each in raw.get(image_id, [])}
            found = {each[0]: each for each in said(body)}
            for other in wanted.keys() ^ found.keys():
                _, clip_cos, dino_cos, *_ = (wanted | found)[other]
                distances = (clip_cos - record["clip_above"], dino_cos - record["dino_below"])
                assert min(map(abs, distances)) < 1e-3
            for other in wanted.keys() & found.keys():
                np.testing.assert_allclose(found[other][1:3], wanted[other][1:3], atol=1e-3)


def test_captions_are_text_and_nothing_else(live: Live) -> None:
    with live.client() as client:
        asked = {"image_id": "scenes/00000/000000000", "clip_above": -1, "dino_below": 1}
        body = client.post("/v1/blind-partners", json={**asked, "limit": 1000})
    assert body.headers["content-type"] == "application/json"
    assert body.headers["x-content-type-options"] == "nosniff"
    captions = {each["image_id"]: each["caption"] for each in body.json()["data"]}
    assert captions["scenes/00002/zz"] == "<script>alert(1)</script> =1+1"
    assert body.json()["clip_above"] == -1
    assert body.json()["num_partners"] == len(captions) == 100


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "invalid_request", "image_id"),
        ({"image_id": "a", "image": "b"}, 422, "invalid_request", "image_id"),
        ({"image_id": "a/b/c"}, 404, "no_such_image", "image_id"),
        ({"image_id": "../../etc/passwd"}, 404, "no_such_image", "image_id"),
        ({"image": "a"}, 422, "invalid_base64", "image"),
        ({"image": "PGh0bWw+"}, 422, "format_not_allowed", "image"),
        ({"image": "http://example.org"}, 422, "url_not_fetched", "image"),
        ({"image_id": "a", "clip_above": 2}, 422, "invalid_request", "clip_above"),
        ({"image_id": "a", "clip_above": "0.5"}, 422, "invalid_request", "clip_above"),
        ({"image_id": "a", "dino_below": True}, 422, "invalid_request", "dino_below"),
        ({"image_id": "a", "limit": 0}, 422, "invalid_request", "limit"),
        ({"image_id": "a", "limit": "5"}, 422, "invalid_request", "limit"),
        ({"image_id": "a" * 2000}, 422, "invalid_request", "image_id"),
    ],
)
def test_bodies_that_are_refused(
    live: Live, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    with live.client() as client:
        answer = client.post("/v1/blind-partners", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


def test_parameters_go_with_raw_bytes_alone(live: Live) -> None:
    with live.client() as client:
        answer = client.post("/v1/blind-partners?limit=3", json={"image_id": "a"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "limit")
        answer = client.post("/v1/blind-partners?clip_above=nan", content=jpeg(1), headers=RAW)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "clip_above")


def test_without_an_index_there_is_nothing_to_search() -> None:
    with listening(settings_of()) as alone, alone.client() as client:
        for method, path in (
            ("POST", "/v1/blind-partners"),
            ("GET", "/v1/pairs"),
            ("GET", "/v1/images/a/b/c"),
            ("GET", "/report/index.html"),
        ):
            answer = client.request(method, path, json={"image_id": "a"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_index")
        assert client.get("/").headers["location"] == "docs"


def test_an_index_that_cannot_be_searched_says_why(index: Store, live: Live) -> None:
    service = live.app.state.service
    search, why = service.index.search, service.index.why_not_searchable
    try:
        service.index.search, service.index.why_not_searchable = None, "it is lazy"
        with live.client() as client:
            answer = client.post("/v1/blind-partners", json={"image_id": "a"})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == "it is lazy"
    finally:
        service.index.search, service.index.why_not_searchable = search, why


def test_large_bodies_are_known_by_their_bytes_too(
    live: Live, index: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partners, "INLINE_BYTES", 0)
    (row, *_) = index.samples(index.committed("samples")[0]).to_pylist()
    with live.client() as client:
        data = client.get(f"/v1/images/{row['image_id']}").content
        found = client.post("/v1/blind-partners", content=data, headers=RAW).json()
    assert found["image_id"] == row["image_id"]


def test_whole_numbers_are_thresholds_too(live: Live) -> None:
    with live.client() as client:
        asked = {"image_id": "scenes/00000/000000000", "clip_above": 1, "dino_below": 0}
        body = client.post("/v1/blind-partners", json=asked).json()
    assert (body["clip_above"], body["dino_below"], body["num_partners"]) == (1, 0, 0)


def test_two_runs_whose_shards_have_one_name(index: Store, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(index.root, run)
    write_shards(tmp_path / "more", num_scenes=130, seed=6, shard_size=130)
    # A shard of the same name with the keys that the first run's lacks.
    scenes = tmp_path / "other scenes" / "scenes"
    scenes.mkdir(parents=True)
    with (
        tarfile.open(tmp_path / "more" / "00000.tar") as more,
        tarfile.open(scenes / "00000.tar", "w") as rest,
    ):
        for member in more.getmembers():
            if int(member.name.partition(".")[0]) >= 50:
                rest.addfile(member, more.extractfile(member))
    mine([str(scenes)], other, MineSettings(**DEMO, decoders="thread", device="cpu"))
    settings = JoinSettings(clip_above=0.8, dino_below=0.9, against=str(other))
    own = index.read_record(f"pairs/{index.last_join()}/join.json")
    record = join(Store(run), own["clip"], own["dino"], settings, SelectSettings())
    select(Store(run), record["name"], SelectSettings())
    raw = Store(run).raw(record["name"]).to_pylist()
    assert len(raw) > 10
    assert {row["image_2"].split("/")[1] for row in raw} == {"00000"}
    captions = {
        row["image_id"]: row["caption"] for row in Store(other).samples("scenes.00000").to_pylist()
    }
    served = settings_of(index=str(run), name=record["name"], clip=None, dino=None)
    with listening(served) as found, found.client() as client:
        for row in raw[:20]:
            asked = {"image_id": row["image_1"], "limit": 1000}
            body = client.post("/v1/blind-partners", json=asked)
            assert body.status_code == 200
            (partner,) = [e for e in body.json()["data"] if e["image_id"] == row["image_2"]]
            assert partner["caption"] == captions[row["image_2"]]
