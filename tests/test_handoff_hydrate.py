import csv
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import ShardError, StoreError
from miner.handoff.folder import contents
from miner.handoff.hydrate import hydrate
from miner.handoff.registry import FORMATS
from miner.records import Json, read_record, replace_record
from miner.store import Store
from tests.handoff_runs import (
    QUESTION,
    deliver,
    many_shots,
    originals_of,
    review,
    run_of,
    selected_of,
    tree,
)
from tests.small import write_tar
from tests.test_handoff_mmvp_vlm import run_with_patterns

WITH_IMAGES = sorted(name for name, format in FORMATS.items() if format.has_images)


@pytest.fixture(scope="module")
def patterned(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_with_patterns(tmp_path_factory.mktemp("patterned"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = run_of(tmp_path, many_shots(4))
    review(store, selected_of(store), **QUESTION)
    return store


@pytest.mark.parametrize("bake", [False, True])
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_hydrated_ids_are_the_folder_with_images(
    reviewed: Store, patterned: Store, tmp_path: Path, name: str, bake: bool
) -> None:
    store = patterned if name == "mmvp-vlm" else reviewed
    deliver(store, name, tmp_path / "whole", bake_orientation=bake)
    deliver(store, name, tmp_path / "ids", bake_orientation=bake, images="none")
    done = hydrate(tmp_path / "ids", shards=[str(store.root.parent / "corpus")])
    assert not done.missing
    assert done.written is not None
    assert tree(tmp_path / "ids") == tree(tmp_path / "whole")


def test_ids_hold_no_pixels_and_no_folder_of_this_machine(reviewed: Store, tmp_path: Path) -> None:
    deliver(reviewed, "hf", tmp_path / "ids", images="none")
    files = tree(tmp_path / "ids")
    assert set(files) == {
        *("README.md", "handoff.json", "images.parquet", "pairs.parquet", "provenance.csv")
    }
    tables = [
        json.dumps(pq.ParquetFile(tmp_path / "ids" / f"{name}.parquet").read().to_pylist())
        for name in ("images", "pairs")
    ]
    for text in (*tables, *(files[name].decode() for name in files if "parquet" not in name)):
        assert str(reviewed.root.parent) not in text
        assert "secret" not in text
    for data in originals_of(reviewed).values():
        assert not any(data[20:60] in file for file in files.values())


def test_images_are_found_in_shards_of_other_names_and_orders(store: Store, tmp_path: Path) -> None:
    deliver(store, "mmvp", tmp_path / "whole")
    deliver(store, "mmvp", tmp_path / "ids", images="none")
    images = list(originals_of(store).values())
    # The same names and sizes as in the run's shard, with other contents, and the images elsewhere.
    write_tar(tmp_path / "copy" / "00000.tar", [("a.jpg", images[0][::-1]), ("b.jpg", images[1])])
    others = [(f"{number}.jpg", data) for number, data in enumerate(images[::-1])]
    write_tar(tmp_path / "copy" / "part-1.tar", others)
    assert not hydrate(tmp_path / "ids", shards=[str(tmp_path / "copy" / "*.tar")]).missing
    assert tree(tmp_path / "ids") == tree(tmp_path / "whole")


def test_images_are_found_in_a_folder_whatever_their_names(store: Store, tmp_path: Path) -> None:
    deliver(store, "hf", tmp_path / "whole")
    deliver(store, "hf", tmp_path / "ids", images="none")
    folder = tmp_path / "files.tar"
    (folder / "deep").mkdir(parents=True)
    for number, data in enumerate(originals_of(store).values()):
        (folder / "deep" / f"no-extension-{number}").write_bytes(data)
        (folder / f"{number}.jpg").write_bytes(data[:-1] + b"?")
    assert not hydrate(tmp_path / "ids", images_dir=folder).missing
    assert tree(tmp_path / "ids") == tree(tmp_path / "whole")


def test_images_come_from_a_folder_first_and_from_shards_then(store: Store, tmp_path: Path) -> None:
    deliver(store, "hf", tmp_path / "ids", images="none")
    (tmp_path / "files").mkdir()
    first, *rest = originals_of(store).values()
    (tmp_path / "files" / "x").write_bytes(first)
    write_tar(tmp_path / "rest.tar", [(f"{n}.jpg", data) for n, data in enumerate(rest)])
    folder, shards = tmp_path / "files", [str(tmp_path / "rest.tar")]
    assert hydrate(tmp_path / "ids", images_dir=folder, shards=shards).written is not None


def test_missing_images_are_listed_and_nothing_is_changed(store: Store, tmp_path: Path) -> None:
    deliver(store, "webdataset", tmp_path / "whole")
    deliver(store, "webdataset", tmp_path / "ids", images="none")
    before = tree(tmp_path / "ids")
    images = originals_of(store)
    *most, (gone, last) = images.items()
    write_tar(tmp_path / "some.tar", [(f"{n}.jpg", data) for n, (_, data) in enumerate(most)])
    done = hydrate(tmp_path / "ids", shards=[str(tmp_path / "some.tar")])
    assert [image["sha256"] for image in done.missing] == [gone]
    assert done.written is None
    after = tree(tmp_path / "ids")
    listed = after.pop("missing.csv").decode()
    assert after == before
    (row,) = csv.DictReader(listed.splitlines())
    assert (row["sha256"], row["num_bytes"]) == (gone, str(len(last)))
    write_tar(tmp_path / "last.tar", [("x.jpg", last)])
    both = [str(tmp_path / name) for name in ("some.tar", "last.tar")]
    assert not hydrate(tmp_path / "ids", shards=both).missing
    assert tree(tmp_path / "ids") == tree(tmp_path / "whole")


def test_pairs_with_a_missing_image_may_be_left_out(store: Store, tmp_path: Path) -> None:
    deliver(store, "mmvp", tmp_path / "ids", images="none")
    images = list(originals_of(store).values())
    write_tar(tmp_path / "some.tar", [(f"{n}.jpg", data) for n, data in enumerate(images[:3])])
    shards = [str(tmp_path / "some.tar")]
    before = tree(tmp_path / "ids")
    done = hydrate(tmp_path / "ids", shards=shards, skip_missing=True, out=tmp_path / "some")
    assert done.written is not None
    assert (done.written.num_pairs, done.num_left_out, len(done.missing)) == (3, 3, 1)
    assert len(list((tmp_path / "some" / "MMVP Images").iterdir())) == 6
    listed = list(csv.DictReader((tmp_path / "some" / "missing.csv").read_text().splitlines()))
    assert [row["sha256"] for row in listed] == [image["sha256"] for image in done.missing]
    assert tree(tmp_path / "ids") == before
    again = hydrate(tmp_path / "ids", shards=shards, skip_missing=True, out=tmp_path / "some")
    assert again.written is not None
    assert not again.written.is_new
    write_tar(tmp_path / "one.tar", [("0.jpg", images[0])])
    shards, out = [str(tmp_path / "one.tar")], tmp_path / "none"
    assert hydrate(tmp_path / "ids", shards=shards, skip_missing=True, out=out).written is None
    assert not out.exists()


def test_ids_are_never_replaced_by_fewer_pairs(store: Store, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    deliver(store, "mmvp", ids, images="none")
    before = tree(ids)
    for out in (None, ids, tmp_path / "ids" / ".." / "ids"):
        with pytest.raises(ValueError, match=r"are then lost; give --out ANOTHER_FOLDER"):
            hydrate(ids, images_dir=tmp_path, skip_missing=True, out=out)
    assert tree(ids) == before


def test_ids_stay_where_the_images_go_elsewhere(store: Store, tmp_path: Path) -> None:
    deliver(store, "hf", tmp_path / "whole")
    deliver(store, "hf", tmp_path / "ids", images="none")
    before = tree(tmp_path / "ids")
    shards = [str(tmp_path / "corpus")]
    assert not hydrate(tmp_path / "ids", shards=shards, out=tmp_path / "out").missing
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert tree(tmp_path / "ids") == before


def test_ids_that_a_killed_attempt_set_aside_are_named(store: Store, tmp_path: Path) -> None:
    deliver(store, "hf", tmp_path / "ids", images="none")
    (tmp_path / "ids").rename(tmp_path / "ids.0123456789ab.old")
    with pytest.raises(StoreError, match=r"called ids.0123456789ab.old; rename that back to ids"):
        hydrate(tmp_path / "ids", images_dir=tmp_path)


def test_a_whole_hand_off_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    deliver(store, "mmvp", tmp_path / "out")
    assert hydrate(tmp_path / "out", images_dir=tmp_path).was_whole
    (tmp_path / "out" / "Questions.csv").write_text("")
    with pytest.raises(StoreError, match="was changed since it was written"):
        hydrate(tmp_path / "out", images_dir=tmp_path)


def test_somewhere_to_look_is_needed(store: Store, tmp_path: Path) -> None:
    deliver(store, "mmvp", tmp_path / "ids", images="none")
    with pytest.raises(ValueError, match="nowhere to look for images; give --shards"):
        hydrate(tmp_path / "ids")
    with pytest.raises(ShardError, match="nothing found"):
        hydrate(tmp_path / "ids", shards=[str(tmp_path / "nothing*.tar")])


def test_what_is_no_hand_off_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no hand-off \(there is no handoff.json\)"):
        hydrate(tmp_path, images_dir=tmp_path)
    deliver(store, "mmvp", tmp_path / "ids", images="none")
    path = tmp_path / "ids" / "handoff.json"
    good = read_record(path)
    facts = good["facts"] | {"datasets": ["set\n---\nevil"]}
    for bad in ({"format": "pickle"}, {"facts": facts}, {"contents": 1}, {"settings": {"x": 1}}):
        replace_record(path, good | bad)
        with pytest.raises(StoreError, match="is not what this version writes"):
            hydrate(tmp_path / "ids", images_dir=tmp_path)
    for name in sorted(set(FORMATS) - set(WITH_IMAGES)):
        replace_record(path, good | {"format": name})
        with pytest.raises(StoreError, match=f"--images has no effect on {name}"):
            hydrate(tmp_path / "ids", images_dir=tmp_path)


def test_edited_and_damaged_tables_are_refused(store: Store, tmp_path: Path) -> None:
    deliver(store, "mmvp", tmp_path / "ids", images="none")
    ids = tmp_path / "ids"
    (ids / "pairs.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(StoreError, match="was changed since it was written"):
        hydrate(ids, images_dir=tmp_path)
    record = read_record(ids / "handoff.json")
    replace_record(ids / "handoff.json", record | {"contents": contents(ids).model_dump()})
    with pytest.raises(StoreError, match=r"pairs.parquet cannot be read .*get the folder again"):
        hydrate(ids, images_dir=tmp_path)


def test_texts_that_are_no_text_are_refused(store: Store, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    deliver(store, "mmvp", ids, images="none")
    images = pq.ParquetFile(ids / "images.parquet").read()
    bad = pa.array([b"\xff\xfe"] * len(images)).cast(pa.string(), safe=False).view(pa.string())
    place = images.schema.get_field_index("caption")
    pq.write_table(
        images.set_column(place, images.schema.field(place), bad), ids / "images.parquet"
    )
    record = read_record(ids / "handoff.json")
    replace_record(ids / "handoff.json", record | {"contents": contents(ids).model_dump()})
    with pytest.raises(StoreError, match=r"images.parquet cannot be read"):
        hydrate(ids, images_dir=tmp_path)


def test_forged_rows_read_nothing_outside_the_readers_copy(store: Store, tmp_path: Path) -> None:
    """A row that names a file beside the corpus gets nothing of it, whatever its sha256."""
    ids, outside = tmp_path / "ids", tmp_path / "outside.jpg"
    data = next(iter(originals_of(store).values()))
    outside.write_bytes(data)
    deliver(store, "mmvp", ids, images="none")
    images = pq.ParquetFile(ids / "images.parquet").read().to_pylist()
    (forged,) = (row for row in images if row["sha256"] == hashlib.sha256(data).hexdigest())
    forged |= {"shard": "tree", "member": "../outside.jpg", "offset": 0}
    schema = pq.ParquetFile(ids / "images.parquet").schema_arrow
    pq.write_table(pa.Table.from_pylist(images, schema=schema), ids / "images.parquet")
    record = read_record(ids / "handoff.json")
    replace_record(ids / "handoff.json", record | {"contents": contents(ids).model_dump()})
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "other.jpg").write_bytes(data[:-1] + b"?")
    assert len(hydrate(ids, shards=[str(tmp_path / "tree")]).missing) == 4


@pytest.mark.parametrize(
    "forged", [{"num_bytes": 2**40}, {"offset": 2**63 - 1}, {"num_bytes": 0}, {"offset": -1}]
)
def test_places_that_no_file_has_are_refused(store: Store, tmp_path: Path, forged: Json) -> None:
    ids = tmp_path / "ids"
    deliver(store, "mmvp", ids, images="none")
    rows = pq.ParquetFile(ids / "images.parquet").read().to_pylist()
    schema = pq.ParquetFile(ids / "images.parquet").schema_arrow
    rows[0] |= forged
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), ids / "images.parquet")
    record = read_record(ids / "handoff.json")
    replace_record(ids / "handoff.json", record | {"contents": contents(ids).model_dump()})
    with pytest.raises(StoreError, match=r"bytes at -?\d+ .* the tables were edited"):
        hydrate(ids, images_dir=tmp_path)
