"""GET /v1/pairs and /v1/images: the selection page by page, and original bytes."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import Any

import pytest

from miner.fetch import read_image_bytes
from miner.store import Store
from pipelines.serving.errors import HttpError
from pipelines.serving.index import Index
from tests.serving import Live, called, settings_of


def selected(index: Store) -> list[dict[str, Any]]:
    name = index.last_join()
    table = index.read_table(f"pairs/{name}/selected.parquet")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_pages_together_are_the_selection(live: Live, index: Store) -> None:
    found, cursor = [], None
    with live.client() as client:
        while True:
            params = {"limit": 7} if cursor is None else {"limit": 7, "cursor": cursor}
            body = client.get("/v1/pairs", params=params).json()
            found += body["data"]
            cursor = body["next_cursor"]
            if cursor is None:
                break
    assert found == selected(index)
    assert len(found) > 14


def test_filters_and_sorting(live: Live, index: Store) -> None:
    rows = selected(index)
    middle = sorted(row["dino_cos"] for row in rows)[len(rows) // 2]
    params = {"sort": "gap", "order": "desc", "max_dino_cos": middle, "limit": 1000}
    with live.client() as client:
        found = client.get("/v1/pairs", params=params).json()["data"]
    wanted = [row for row in rows if row["dino_cos"] <= middle]
    assert found == sorted(wanted, key=lambda row: (-row["gap"], row["rank"]))


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 10**9}, "limit"),
        ({"sort": "caption_1"}, "sort"),
        ({"min_gap": "nan"}, "min_gap"),
        ({"cursor": "AAAA"}, "cursor"),
        ({"cursor": "A" * 10_000}, "cursor"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_queries_that_are_refused(live: Live, params: dict[str, Any], param: str) -> None:
    with live.client() as client:
        answer = client.get("/v1/pairs", params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_images_are_the_original_bytes(live: Live, index: Store) -> None:
    (shard,) = index.committed("samples")[-1:]
    with live.client() as client:
        for row in index.samples(shard).to_pylist():
            answer = client.get(f"/v1/images/{row['image_id']}")
            place = (row["shard"], row["member"], row["offset"], row["num_bytes"])
            assert answer.content == read_image_bytes(*place)
            assert hashlib.sha256(answer.content).hexdigest() == row["sha256"]
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]
            assert answer.headers["content-disposition"].startswith("inline; filename=")


@pytest.mark.parametrize(
    "image_id",
    ["a", "a/b/c", "scenes/00000/nothing", "..%2f..%2fetc/passwd", "%01", "scenes/0/"],
)
def test_images_that_are_not_there(live: Live, image_id: str) -> None:
    with live.client() as client:
        answer = client.get(f"/v1/images/{image_id}")
    code = "not_found" if image_id == "%01" else "no_such_image"
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_a_browser_asks_whether_an_image_is_still_the_same(live: Live) -> None:
    with live.client() as client:
        first = client.get("/v1/images/scenes/00000/000000000")
        assert first.headers["cache-control"] == "private, no-cache"
        etag = first.headers["etag"]
        again = client.get(first.url, headers={"if-none-match": f'"a", W/{etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        other = client.get(first.url, headers={"if-none-match": '"a"'})
        assert (other.status_code, other.content) == (200, first.content)


def test_a_shard_that_is_not_answered_holds_up_nothing_else(
    index: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def hang(self: Index, image_id: str) -> tuple[dict[str, Any], bytes]:
        assert answered.wait(60)
        raise HttpError(404, "image_gone", "it is gone")

    monkeypatch.setattr(Index, "image", hang)

    async def work() -> None:
        settings = settings_of(index=str(index.root), clip=None, dino=None)
        async with called(settings) as client:
            asked = [asyncio.create_task(client.get(f"/v1/images/{n}")) for n in range(40)]
            await asyncio.sleep(0.05)
            assert (await client.get("/v1/pairs")).status_code == 200
            asked_for = {"image_id": "scenes/00000/000000000"}
            found = await client.post("/v1/blind-partners", json=asked_for)
            assert found.status_code == 200
            assert not any(task.done() for task in asked)
            answered.set()
            assert {(await task).status_code for task in asked} == {404}

    asyncio.run(work())


def test_a_report_that_is_not_answered_takes_no_thread_from_others(
    index: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def hang(self: Index, name: str) -> tuple[bytes, str]:
        assert answered.wait(60)
        return b"read", "text/html"

    monkeypatch.setattr(Index, "report_file", hang)

    async def work() -> None:
        settings = settings_of(index=str(index.root), clip=None, dino=None)
        async with called(settings) as client:
            # More than asyncio has threads of its own.
            asked = [asyncio.create_task(client.get(f"/report/{n}.csv")) for n in range(40)]
            await asyncio.sleep(0.05)
            assert (await client.get("/v1/pairs")).status_code == 200
            assert (await client.get("/v1/images/scenes/00000/000000000")).status_code == 200
            assert not any(task.done() for task in asked)
            answered.set()
            assert {(await task).status_code for task in asked} == {200}

    asyncio.run(work())
