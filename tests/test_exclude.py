from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.config import EmbedSettings, ExcludeSettings, ImageLimits, ReadSettings
from miner.embed import reading_fingerprint
from miner.errors import FingerprintError, ResourceError
from miner.exclude import read_ids
from miner.law import Refusal
from miner.records import differences
from miner.samples import Sample, ShardReader
from miner.schema import Reason
from miner.shards import list_shards
from miner.store import Store
from pipelines.embed_work import EmbedShards
from pipelines.loading import Encoders
from tests.laion import Fields, write_laion
from tests.reading import read
from tests.small import jpeg
from tests.tars import END, good_tar, member, sample, shard_of


def excluded(
    folder: Path, ratings: Sequence[Fields], settings: ExcludeSettings, **kwargs: Sequence[Fields]
) -> dict[str, str]:
    """Why samples of a LAION shard are excluded, by the last digit of their keys."""
    write_laion(folder / "laion", ratings, **kwargs)  # type: ignore[arg-type]
    (shard,) = list_shards([str(folder / "laion")])
    refusals = [
        item for item in ShardReader(shard, ImageLimits(), settings) if isinstance(item, Refusal)
    ]
    assert {refusal.reason for refusal in refusals} <= {Reason.EXCLUDED}
    return {refusal.key[-1]: refusal.detail for refusal in refusals}


def test_probabilities_above_the_limit_are_excluded(tmp_path: Path) -> None:
    ratings = [{"punsafe": value} for value in (0, 0.5, 0.50001, 1, "0.9")]
    assert excluded(tmp_path, ratings, ExcludeSettings(max_punsafe=0.5)) == {
        "2": "punsafe: 0.50001, limit 0.5",
        "3": "punsafe: 1, limit 0.5",
        "4": "punsafe: 0.9, limit 0.5",
    }


@pytest.mark.parametrize("name", ["pwatermark", "PWATERMARK", "p_watermark", "pWatermark"])
def test_a_rating_is_known_in_any_spelling(tmp_path: Path, name: str) -> None:
    settings = ExcludeSettings(max_pwatermark=0.8)
    found = excluded(tmp_path, [{name: 0.9}, {name: 0.1}], settings)
    assert found == {"0": "pwatermark: 0.9, limit 0.8"}


def test_the_worse_of_two_ratings_counts(tmp_path: Path) -> None:
    ratings = [{"punsafe": 0.1, "PUNSAFE": 0.9}, {"punsafe": 0.9}, {"punsafe": 0.1}]
    sidecar = [{"PUNSAFE": 0.2}, {"PUNSAFE": 0.2}, {"PUNSAFE": 0.2}]
    found = excluded(tmp_path, ratings, ExcludeSettings(max_punsafe=0.5), sidecar=sidecar)
    assert found.keys() == {"0", "1"}


def test_ratings_come_from_the_sidecar_too(tmp_path: Path) -> None:
    sidecar = [{"punsafe": 0.9}, {"punsafe": 0.1}]
    found = excluded(tmp_path, [{}, {}], ExcludeSettings(max_punsafe=0.5), sidecar=sidecar)
    assert found == {"0": "punsafe: 0.9, limit 0.5"}


def test_words_that_are_allowed(tmp_path: Path) -> None:
    ratings = [{"NSFW": word} for word in ("UNLIKELY", "unsure", "NSFW", "LIKELY")]
    found = excluded(tmp_path, ratings, ExcludeSettings(nsfw="unlikely, UNSURE"))
    assert found == {
        "2": "nsfw: NSFW, allowed UNLIKELY, UNSURE",
        "3": "nsfw: LIKELY, allowed UNLIKELY, UNSURE",
    }


UNRATED: list[Fields] = [
    {},
    {"punsafe": None, "NSFW": None},
    {"punsafe": float("nan"), "NSFW": ""},
    {"punsafe": "?", "NSFW": "None"},
    {"punsafe": True, "NSFW": "null"},
    {"punsafe": 0.1, "NSFW": "UNLIKELY"},
]


def test_what_is_not_rated_is_excluded_unless_it_is_kept(tmp_path: Path) -> None:
    found = excluded(tmp_path, UNRATED, ExcludeSettings(max_punsafe=0.5, nsfw="UNLIKELY"))
    assert found == dict.fromkeys("01234", "unrated: no punsafe, no nsfw")
    keep = ExcludeSettings(max_punsafe=0.5, unrated="keep")
    assert excluded(tmp_path, UNRATED, keep) == {}
    (shard,) = list_shards([str(tmp_path / "laion")])
    samples = [item for item in ShardReader(shard, ImageLimits(), keep) if isinstance(item, Sample)]
    assert [sample.unrated for sample in samples] == [("punsafe",)] * 5 + [()]


def ids_file(folder: Path, *lines: str) -> str:
    path = folder / "ids.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("000000001", "key"),
        ("laion/00000/000000001", "image_id"),
        ("https://example.org/000000001.jpg", "url"),
        (hashlib.sha256(jpeg(1)).hexdigest().upper(), "sha256"),
        ("ab" * 32, "sha256"),
    ],
)
def test_a_list_names_samples_by_any_of_their_ids(tmp_path: Path, line: str, what: str) -> None:
    where = ids_file(tmp_path, "", "  unknown", f" {line} ")
    # img2dataset's own sha256 is that of the bytes before it resized them.
    ratings = [{"sha256": digest * 32} for digest in ("cd", "AB", "ef")]
    found = excluded(tmp_path, ratings, ExcludeSettings(exclude_ids=where))
    assert found == {"1": f"listed: its {what} is in ids.txt"}


def test_a_list_as_parquet(tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    columns = {"URL": ["https://example.org/000000002.jpg", None], "key": ["000000000", None]}
    pq.write_table(pa.table({**columns, "other": [1, 2]}), path)
    found = excluded(tmp_path, [{}, {}, {}], ExcludeSettings(exclude_ids=path))  # type: ignore[arg-type]
    assert found == {
        "0": "listed: its key is in ids.parquet",
        "2": "listed: its url is in ids.parquet",
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"]}, r"none of its columns \(id\) is key, image_id, url or sha256"),
        ({"key": [7]}, "its column key is int64, not text, which would lose zeros"),
        ({"key": ["", None]}, "names no id; fill it, or leave it out"),
    ],
)
def test_tables_that_are_no_lists(
    tmp_path: Path, table: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "ids.parquet")
    with pytest.raises(ResourceError, match=message):
        read_ids(str(tmp_path / "ids.parquet"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "there is no such file; give one that this machine sees"),
        (b"\n \n", "names no id"),
        (b"\xff\xfe", "cannot be read .* give UTF-8 text with one id on each line, or Parquet"),
        (b"PAR1 cut", "cannot be read"),
    ],
)
def test_files_that_are_no_lists(tmp_path: Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / "ids").write_bytes(data)
    with pytest.raises(ResourceError, match=message):
        read_ids(str(tmp_path / "ids"))


def test_the_law_holds_where_samples_are_excluded(tmp_path: Path) -> None:
    """One outcome for each: also for a sample that turns out to be scattered later."""
    tar = good_tar()[: -len(END)] + member("000.png", jpeg(3)) + sample("003") + END
    shard = shard_of(tar, tmp_path)
    settings = ExcludeSettings(exclude_ids=ids_file(tmp_path, "000", "001"))
    reader = ShardReader(shard, ImageLimits(), settings)
    items = list(reader)
    assert [item.key for item in items if isinstance(item, Sample)] == ["002", "003"]
    refused = [(item.key, item.reason) for item in items if isinstance(item, Refusal)]
    assert sorted(refused) == [
        ("000", Reason.DUPLICATE_KEY),
        ("000", Reason.EXCLUDED),
        ("001", Reason.EXCLUDED),
    ]
    assert reader.report.num_samples == len(items)


def test_a_retracted_sample_stays_excluded(tmp_path: Path) -> None:
    tar = good_tar()[: -len(END)] + member("001.cls", b"7") + END
    shard = shard_of(tar, tmp_path)
    _, (retraction,), _ = read(shard)
    assert (retraction.key, retraction.retracts) == ("001", True)
    settings = ExcludeSettings(exclude_ids=ids_file(tmp_path, "001"))
    reader = ShardReader(shard, ImageLimits(), settings)
    items = list(reader)
    assert [item.reason for item in items if isinstance(item, Refusal)] == [Reason.EXCLUDED]
    assert reader.report.num_samples == len(items) == 3
    assert "1 x excluded sample that is damaged too, first '001'" in reader.report.notes


def test_filters_are_part_of_the_reading_fingerprint(tmp_path: Path) -> None:
    plain = reading_fingerprint(ReadSettings())
    older = {k: v for k, v in plain.items() if v is not None}
    assert older.keys().isdisjoint(ExcludeSettings.model_fields)
    assert differences(older, plain) == []
    where = ids_file(tmp_path, "a")
    listed = reading_fingerprint(ReadSettings(exclude_ids=where))
    moved = Path(where).rename(tmp_path / "moved.txt")
    assert reading_fingerprint(ReadSettings(exclude_ids=str(moved))) == listed
    ids_file(tmp_path, "b")
    for settings in (
        ReadSettings(exclude_ids=where),
        ReadSettings(max_punsafe=0.5),
        ReadSettings(max_pwatermark=0.5),
        ReadSettings(nsfw="UNLIKELY"),
    ):
        assert reading_fingerprint(settings) not in (plain, listed)
    keep = ReadSettings(max_punsafe=0.5, unrated="keep")
    assert reading_fingerprint(keep) != reading_fingerprint(ReadSettings(max_punsafe=0.5))


def test_a_worker_with_another_list_is_refused(tmp_path: Path) -> None:
    """Lists of plain paths may differ from node to node."""
    read = ReadSettings(exclude_ids=ids_file(tmp_path, "a"))
    store = Store(tmp_path / "run")
    store.update_run(reading_fingerprint(read), {}, {"command": "test"})
    encode = EmbedSettings(clip="demo-clip", dino="demo-dino", decoders="thread")
    work = EmbedShards(
        root=store.root,
        read=read,
        encode=encode,
        how=None,
        records=Encoders(encode).records,
        wanted=(),
        first_shards=(),
    )
    work.open().close()
    ids_file(tmp_path, "other")
    with pytest.raises(FingerprintError, match="would read other samples than the driver"):
        work.open()
