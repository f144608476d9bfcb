"""The layouts of other tools: parts, their names and partners."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from miner.errors import StoreError
from miner.importing.sources import open_source
from tests.foreign import some_vectors, write_clip_retrieval


def two_parts(folder: Path) -> Path:
    parts = [(some_vectors(3, seed=n), {"key": [f"{n}{row}" for row in range(3)]}) for n in (0, 1)]
    return write_clip_retrieval(folder, parts)


def test_clip_retrieval_parts_by_number(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    # Padded differently, which is one number all the same.
    (source / "metadata/metadata_1.parquet").rename(source / "metadata/metadata_001.parquet")
    (source / "img_emb/.img_emb_7.npy").write_bytes(b"")
    parts = open_source("clip-retrieval", source)
    assert [part.name for part in parts] == ["00000", "00001"]
    assert parts[1].ids() == ["10", "11", "12"]
    assert [path.name for path in parts[1].files] == ["img_emb_1.npy", "metadata_001.parquet"]
    assert next(iter(parts[0].fields())) == {"key": "00"}


def test_clip_retrieval_without_partners(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    (source / "metadata/metadata_1.parquet").unlink()
    with pytest.raises(StoreError, match=r"part 1 has no metadata/metadata_1 \(1 parts"):
        open_source("clip-retrieval", source)
    (source / "img_emb/img_emb_1.npy").rename(source / "img_emb/img_emb_00.npy")
    with pytest.raises(StoreError, match="have one number"):
        open_source("clip-retrieval", source)
    with pytest.raises(StoreError, match="holds no img_emb/img_emb_0"):
        open_source("clip-retrieval", tmp_path / "img_emb")


def test_clip_retrieval_with_other_rows(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    np.save(source / "img_emb/img_emb_1.npy", some_vectors(4))
    with pytest.raises(StoreError, match=r"has 3 rows and .* 4; they are aligned"):
        open_source("clip-retrieval", source)


def test_widths_have_to_agree(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    np.save(source / "img_emb/img_emb_1.npy", some_vectors(3, 5))
    with pytest.raises(StoreError, match=r"vectors of 8 numbers and .* of 5"):
        open_source("clip-retrieval", source)


def test_parts_without_rows_are_left_out(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    np.save(source / "img_emb/img_emb_1.npy", some_vectors(0))
    pd.DataFrame({"key": np.array([], str)}).to_parquet(source / "metadata/metadata_1.parquet")
    assert [part.name for part in open_source("clip-retrieval", source)] == ["00000"]
    np.save(tmp_path / "a.npy", some_vectors(0))
    with pytest.raises(StoreError, match="holds no vector"):
        open_source("npy", tmp_path / "a.npy", by_position=True)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["anything.npy"], ["00000"]),
        (["e_3.npy"], ["00003"]),
        (["e_10.npy", "e_9.npy", "_hidden_1.npy"], ["00009", "00010"]),
        (["train.npy", "val.npy"], ["train", "val"]),
        (["a_1.npy", "b_1.npy"], ["a_1", "b_1"]),
    ],
)
def test_names_of_npy_parts(tmp_path: Path, files: list[str], names: list[str]) -> None:
    for name in files:
        np.save(tmp_path / name, some_vectors(2))
    assert [p.name for p in open_source("npy", tmp_path, by_position=True)] == names


def test_ids_of_npy_go_by_the_files_numbers(tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    for number, rows in ((2, 1), (10, 2)):
        np.save(tmp_path / "npy" / f"e_{number}.npy", some_vectors(rows))
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf007\r\n8\r\n9\r\n")
    parts = open_source("npy", tmp_path / "npy", ids=tmp_path / "ids.txt")
    assert [part.ids() for part in parts] == [["007"], ["8", "9"]]
    assert [part.ids() for part in open_source("npy", tmp_path / "npy", by_position=True)] == [
        ["000000000"],
        ["000000000", "000000001"],
    ]
    (tmp_path / "ids.txt").write_text("7\n")
    with pytest.raises(StoreError, match="names 1 ids for 3 vectors"):
        open_source("npy", tmp_path / "npy", ids=tmp_path / "ids.txt")


def test_what_does_not_go_together(tmp_path: Path) -> None:
    source = two_parts(tmp_path)
    with pytest.raises(ValueError, match="--by-position has no effect with --ids or --id-column"):
        open_source("clip-retrieval", source, by_position=True, id_column="key")
    with pytest.raises(ValueError, match="--ids is for npy"):
        open_source("clip-retrieval", source, ids=tmp_path / "x")
    with pytest.raises(ValueError, match="--vector-column is for parquet"):
        open_source("clip-retrieval", source, vector_column="x")
    with pytest.raises(ValueError, match="npy files hold no ids; give --ids"):
        open_source("npy", source / "img_emb")
    with pytest.raises(StoreError, match="does not exist"):
        open_source("npy", tmp_path / "nowhere", by_position=True)
    with pytest.raises(StoreError, match=r"holds no \*\.parquet"):
        open_source("parquet", source)
