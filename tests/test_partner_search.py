"""Blind partners of one image are those that the exact join found."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from miner import packs, partner_search
from miner.config import JoinSettings, SelectSettings
from miner.errors import StoreError
from miner.join import join
from miner.partner_search import PartnerSearch, Query, SearchStopped
from miner.records import Json
from miner.search_sides import why_not_searchable
from miner.store import Store
from tests.runs import CLIP, DINO, commit_shard, make_store, unit

Found = dict[str, list[tuple[str, float, float, bool, int]]]

EVERYTHING = JoinSettings(clip_above=0.8, dino_below=0.3)


def joined(store: Store, settings: JoinSettings, near: SelectSettings | None = None) -> Json:
    return join(store, CLIP, DINO, settings, near or SelectSettings())


def partners_in_raw(store: Store, name: str) -> Found:
    """By image, its partners in `raw` in the order that a search gives."""
    found: Found = defaultdict(list)
    for row in store.raw(name).to_pylist():
        for own, other in ((1, 2), (2, 1)):
            found[row[f"image_{own}"]].append(
                (
                    row[f"image_{other}"],
                    row["clip_cos"],
                    row["dino_cos"],
                    row["borderline"],
                    row[f"duplicates_{other}"],
                )
            )
    return {name: sorted(rows, key=lambda row: (-row[1], row[0])) for name, rows in found.items()}


def searched(
    search: PartnerSearch, query: Query | None
) -> list[tuple[str, float, float, bool, int]]:
    assert query is not None
    partners, number = search.partners(query, limit=10_000)
    assert number == len(partners)
    return [
        (
            each.image_id,
            float(np.float32(each.clip_cos)),
            float(np.float32(each.dino_cos)),
            each.borderline,
            each.num_duplicates,
        )
        for each in partners
    ]


def all_ids(store: Store) -> list[str]:
    ids = [store.samples(shard)["image_id"].to_pylist() for shard in store.committed("samples")]
    return [image_id for part in ids for image_id in part]


def with_copies(root: Path) -> Store:
    """A run whose third shard has copies of images of the first, and near-copies among them."""
    store = make_store(root)
    ids, clip = store.vectors(CLIP, "set.00000")
    _, dino = store.vectors(DINO, "set.00000")
    contents = [f"{image_id} bytes".encode() for image_id in ids[:9]]
    contents += [f"near {image_id}".encode() for image_id in ids[9:20]]
    commit_shard(store, "00002", clip[:20], dino[:20], contents=contents)
    return store


@pytest.mark.parametrize("chunk_rows", [7, 16_384])
@pytest.mark.parametrize("collapse", ["exact", "none", "near"])
def test_every_image_has_the_partners_of_raw(
    tmp_path: Path, collapse: str, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partner_search, "CHUNK_ROWS", chunk_rows)
    store = with_copies(tmp_path / "run")
    settings = EVERYTHING.model_copy(update={"collapse": collapse})
    record = joined(store, settings)
    raw = partners_in_raw(store, record["name"])
    search = PartnerSearch(store, record, tmp_path / "scratch")
    stands_for = {image_id: image_id for image_id in all_ids(store)}
    if collapse != "none":
        ids = store.vector_ids(CLIP, "set.00000")
        same = 20 if collapse == "near" else 9
        stands_for |= {f"set/00002/{n:06d}": ids[n] for n in range(same)}
    assert len(search) == len(set(stands_for.values()))
    assert len(raw) > 50
    for image_id, first in stands_for.items():
        assert searched(search, search.stored(image_id)) == raw.get(first, []), image_id


def test_two_runs_are_partners_of_each_other_alone(tmp_path: Path) -> None:
    first = make_store(tmp_path / "first", num_shards=1)
    other = Store(tmp_path / "other")
    other.update_run({"stem_depth": 1}, {}, {"command": "test", "encoders": [CLIP, DINO]})
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 32, generator=generator)
    clip = centres[torch.randint(0, 8, (40,), generator=generator)]
    noise = 0.15 * torch.randn(40, 32, generator=generator)
    commit_shard(other, "90000", unit(clip + noise), unit(torch.randn(40, 24, generator=generator)))
    settings = EVERYTHING.model_copy(update={"against": str(other.root)})
    record = joined(first, settings)
    raw = partners_in_raw(first, record["name"])
    assert len(raw) > 20
    search = PartnerSearch(first, record, tmp_path / "scratch")
    for image_id in [*all_ids(first), *all_ids(other)]:
        assert searched(search, search.stored(image_id)) == raw.get(image_id, [])
    # An image from elsewhere is compared with both.
    query = search.stored(all_ids(first)[0])
    assert query is not None
    stranger = Query(clip_D=query.clip_D, dino_E=-query.dino_E)
    places = {each.image_id.split("/")[1] for each in search.partners(stranger)[0]}
    assert places == {"00000", "90000"}


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Json, PartnerSearch]:
    folder = tmp_path_factory.mktemp("searching")
    store = with_copies(folder / "run")
    record = joined(store, EVERYTHING)
    return store, record, PartnerSearch(store, record, folder / "scratch")


def test_other_thresholds_and_a_limit(searching: tuple[Store, Json, PartnerSearch]) -> None:
    store, _, search = searching
    record = joined(store, JoinSettings(clip_above=0.5, dino_below=0.1))
    raw = partners_in_raw(store, record["name"])
    image_id = max(raw, key=lambda name: len(raw[name]))
    query = search.stored(image_id)
    assert query is not None
    found, number = search.partners(query, clip_above=0.5, dino_below=0.1, limit=3)
    assert number == len(raw[image_id]) > 3
    assert [each.image_id for each in found] == [row[0] for row in raw[image_id][:3]]


def test_an_image_is_found_by_its_bytes(searching: tuple[Store, Json, PartnerSearch]) -> None:
    store, _, search = searching
    rows = store.samples("set.00002").to_pylist()
    known = search.with_bytes(rows[0]["sha256"])
    assert known is not None
    # The first copy, in the first shard.
    assert known[0] == "set/00000/000000"
    copy = search.stored("set/00002/000000")
    assert copy is not None
    assert known[1].place == copy.place
    assert search.with_bytes("0" * 64) is None
    assert search.with_bytes("f" * 64) is None
    assert search.stored("set/00000/nothing") is None
    assert search.stored("") is None
    assert search.stored("zzz") is None


def test_near_thresholds_float64_decides(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", num_shards=1)
    _, clip = store.vectors(CLIP, "set.00000")
    truth = clip.astype(np.float64) / np.linalg.norm(clip.astype(np.float64), axis=1)[:, None]
    cosines = np.sort((truth @ truth[0])[1:])[::-1]
    record = joined(store, JoinSettings(clip_above=0.5, dino_below=1.0))
    search = PartnerSearch(store, record, tmp_path / "scratch")
    query = search.stored("set/00000/000000")
    assert query is not None
    for rank in range(1, 6):
        above = float(cosines[rank])
        number = search.partners(query, clip_above=above - 1e-12, dino_below=1.0)[1]
        assert number == rank + 1
        assert search.partners(query, clip_above=above + 1e-12, dino_below=1.0)[1] == rank


def test_a_search_that_nobody_wants_stops(searching: tuple[Store, Json, PartnerSearch]) -> None:
    _, _, search = searching
    query = search.stored("set/00000/000000")
    assert query is not None
    with pytest.raises(SearchStopped):
        search.partners(query, is_stopped=lambda: True)


def test_images_that_came_after_the_join_are_not_looked_at(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", num_shards=1)
    record = joined(store, EVERYTHING)
    _, clip = store.vectors(CLIP, "set.00000")
    _, dino = store.vectors(DINO, "set.00000")
    commit_shard(store, "00001", clip, -dino)
    search = PartnerSearch(store, record, tmp_path / "scratch")
    assert len(search) == 60
    assert search.stored("set/00001/000000") is None
    assert search.with_bytes(store.samples("set.00001")["sha256"][0].as_py()) is None


def test_shards_that_are_gone_are_named(searching: tuple[Store, Json, PartnerSearch]) -> None:
    store, record, _ = searching
    other = {**record, "shards": [[*record["shards"][0], "set.99999"]]}
    with pytest.raises(StoreError, match=r"lacks 1 shards .*\(set\.99999, \.\.\.\)"):
        PartnerSearch(store, other, Path("never"))


@pytest.mark.parametrize(
    ("field", "said"), [("lazy", "--dino-mode eager"), ("rechecked", "without --recheck")]
)
def test_joins_that_stored_vectors_do_not_explain_are_refused(
    searching: tuple[Store, Json, PartnerSearch], field: str, said: str
) -> None:
    store, record, _ = searching
    assert why_not_searchable(record) is None
    with pytest.raises(StoreError, match=said):
        PartnerSearch(store, {**record, field: {}}, Path("never"))


def test_rows_that_lie_in_another_order_than_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A segment to a shard; `set/a-b/...` comes before `set/a/...`, the shard set.a before set.a-b.
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 10)
    store = make_store(tmp_path / "run", num_shards=1)
    _, clip = store.vectors(CLIP, "set.00000")
    _, dino = store.vectors(DINO, "set.00000")
    other = np.ascontiguousarray(-dino)
    commit_shard(store, "a", clip, other)
    commit_shard(store, "a-b", clip[:25], other[:25])
    record = joined(store, EVERYTHING.model_copy(update={"collapse": "near"}))
    raw = partners_in_raw(store, record["name"])
    search = PartnerSearch(store, record, tmp_path / "scratch")
    assert len(search) == 120
    for number in range(60):
        # Of near-copies the one with the smaller image_id stands for both.
        first = f"set/a-b/{number:06d}" if number < 25 else f"set/a/{number:06d}"
        assert searched(search, search.stored(f"set/a/{number:06d}")) == raw.get(first, [])


def test_an_image_that_both_runs_have_is_that_of_the_first(tmp_path: Path) -> None:
    first = make_store(tmp_path / "first", num_shards=1)
    other = Store(tmp_path / "other")
    other.update_run({"stem_depth": 1}, {}, {"command": "test", "encoders": [CLIP, DINO]})
    ids, clip = first.vectors(CLIP, "set.00000")
    _, dino = first.vectors(DINO, "set.00000")
    contents = [f"{image_id} bytes".encode() for image_id in ids[:10]]
    commit_shard(other, "00001", clip[:10], dino[:10], contents=contents)
    commit_shard(other, "00002", clip, np.ascontiguousarray(-dino))
    settings = EVERYTHING.model_copy(update={"against": str(other.root)})
    record = joined(first, settings)
    raw = partners_in_raw(first, record["name"])
    search = PartnerSearch(first, record, tmp_path / "scratch")
    assert len(search) == 120
    assert sum(ids[number] in raw for number in range(10)) > 3
    for number in range(10):
        found = searched(search, search.stored(f"set/00001/{number:06d}"))
        assert found == raw.get(ids[number], [])
        assert {each[0].split("/")[1] for each in found} <= {"00002"}


def test_encoders_that_err_more_widen_what_is_borderline(
    searching: tuple[Store, Json, PartnerSearch],
) -> None:
    _, _, search = searching
    query = search.stored("set/00000/000000")
    assert query is not None
    stranger = replace(query, place=None, dino_E=-query.dino_E)
    partners, _ = search.partners(stranger)
    distances = sorted(each.clip_cos - EVERYTHING.clip_above for each in partners)
    assert not any(each.borderline for each in partners)
    wide = replace(stranger, deviations=(distances[2] + 1e-9, 0.0))
    assert sum(each.borderline for each in search.partners(wide)[0]) == 3
    low = max(each.dino_cos for each in partners)
    wide = replace(stranger, deviations=(0.0, EVERYTHING.dino_below - low + 1e-9))
    assert sum(each.borderline for each in search.partners(wide)[0]) == 1
