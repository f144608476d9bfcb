from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner import packs
from miner.packs import build_pack, group_shards
from miner.rows import Rows, inputs, joined_shards, load_rows
from tests.runs import CLIP, DINO, make_store


def rows_of(sizes: list[int]) -> Rows:
    number = sum(sizes)
    return Rows(
        image_ids=[f"d/s/{row:03d}" for row in range(number)],
        sha256=[str(row) for row in range(number)],
        shard=np.repeat(np.arange(len(sizes)), sizes),
        duplicates=np.zeros(number, np.int64),
        shard_ids=[f"d.{shard}" for shard in range(len(sizes))],
    )


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_every_shard_is_in_one_group(sizes: list[int]) -> None:
    rows = rows_of(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "SEGMENT_ROWS", 10)
        groups = group_shards(rows, [])
    assert [shard for group in groups for shard in group] == rows.shard_ids
    assert all(sum(sizes[int(s[2:])] for s in group) >= 10 for group in groups[:-1])


def test_known_groups_stay_while_their_shards_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 10)
    rows = rows_of([6, 6, 6, 6, 6])
    known = [("d.1", "d.3"), ("d.4", "d.9"), ("d.3", "d.0")]
    # The second lost a shard, and the third shares one with the first.
    assert group_shards(rows, known) == [("d.1", "d.3"), ("d.0", "d.2"), ("d.4",)]


def test_there_are_no_more_segments_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 1)
    monkeypatch.setattr(packs, "MOST_SEGMENTS", 4)
    assert len(group_shards(rows_of([5] * 40), [])) == 4


def test_pack_holds_the_stored_vectors_and_is_built_once(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", num_shards=5)
    rows = load_rows(store, CLIP, DINO)
    groups = [("set.00003", "set.00001"), ("set.00000", "set.00002", "set.00004")]
    hashes = inputs(store, (CLIP, DINO), joined_shards(store, CLIP, DINO))
    pack = build_pack(store, tmp_path / "pack", (CLIP, DINO), rows, groups, hashes)
    stored = {
        encoder: {
            image_id: vector
            for shard in store.committed("samples")
            for image_id, vector in zip(*store.vectors(encoder, shard), strict=True)
        }
        for encoder in (CLIP, DINO)
    }
    for row, place in enumerate(pack.places):
        image_id = rows.image_ids[place]
        assert (pack.clip_ND[row].numpy() == stored[CLIP][image_id]).all()
        assert (pack.dino_NE[row].numpy() == stored[DINO][image_id]).all()
    assert [rows.image_ids[place] for place in pack.places[:120]] == sorted(
        image_id for image_id in rows.image_ids if image_id.split("/")[1] in ("00001", "00003")
    )
    assert (pack.places[pack.by_id] == np.arange(len(rows))).all()
    assert [(s.start, s.stop, s.shards) for s in pack.segments] == [
        (0, 120, groups[0]),
        (120, 300, groups[1]),
    ]
    before = (tmp_path / "pack" / "clip.npy").stat().st_mtime_ns
    build_pack(store, tmp_path / "pack", (CLIP, DINO), rows, groups, hashes)
    assert (tmp_path / "pack" / "clip.npy").stat().st_mtime_ns == before


def test_segments_are_named_by_their_rows_and_files(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", num_shards=2)
    rows, hashes = (
        load_rows(store, CLIP, DINO),
        inputs(store, (CLIP, DINO), joined_shards(store, CLIP, DINO)),
    )
    groups = [("set.00000",), ("set.00001",)]

    def names(rows: Rows, hashes: dict[str, str]) -> list[str]:
        pack = build_pack(store, tmp_path / "pack", (CLIP, DINO), rows, groups, hashes)
        return [segment.name for segment in pack.segments]

    before = names(rows, hashes)
    other_file = names(rows, hashes | {"set.00001": "another"})
    assert (other_file[0], other_file[1] != before[1]) == (before[0], True)
    fewer = names(rows.take(np.arange(1, len(rows)), rows.duplicates[1:]), hashes)
    assert (fewer[0] != before[0], fewer[1]) == (True, before[1])


def test_pack_that_was_cut_is_built_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "run", num_shards=2)
    rows, hashes = (
        load_rows(store, CLIP, DINO),
        inputs(store, (CLIP, DINO), joined_shards(store, CLIP, DINO)),
    )
    groups = group_shards(rows, [])
    folder = tmp_path / "pack"
    whole = build_pack(store, folder, (CLIP, DINO), rows, groups, hashes).clip_ND.numpy().copy()
    # As a kill leaves it: vectors half written, and nothing that says they are whole.
    (folder / "pack.json").unlink()
    (folder / "clip.npy").write_bytes(b"half")
    again = build_pack(store, folder, (CLIP, DINO), rows, groups, hashes)
    assert (again.clip_ND.numpy() == whole).all()


def test_many_small_groups_are_gathered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "SEGMENT_ROWS", 10)
    rows = rows_of([12, *[2] * 9])
    large, *small = [(name,) for name in rows.shard_ids]
    assert group_shards(rows, [large, *small[:8]])[:9] == [large, *small[:8]]
    gathered = group_shards(rows, [large, *small])
    assert [len(group) for group in gathered] == [1, 5, 4]
