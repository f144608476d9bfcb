import hashlib
import io
import os
from pathlib import Path

import imagehash
import pytest
from PIL import Image

from miner.config import ImageLimits
from miner.errors import ResourceError
from miner.selecting.image_lists import check_is_there, contents_of, read_list, run_at
from tests.blind_runs import blind_run
from tests.runs import CLIP, DINO
from tests.small import jpeg


def test_a_folder_names_its_images(tmp_path: Path) -> None:
    data = jpeg(3, (64, 64))
    for name, content in {
        "b/1.jpg": data,
        "a.png": data[: len(data) // 2],
        "Questions.csv": b"Index,Question\n",
        "c.heic": b"a format that is not known",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.symlink("/", tmp_path / "all")
    found = read_list(str(tmp_path))
    assert (found.num_images, found.num_unread) == (3, 2)
    assert found.sha256[hashlib.sha256(data).hexdigest()] == os.path.join("b", "1.jpg")
    assert "c.heic" in found.sha256.values()
    ((phash, name),) = found.phash.items()
    picture = Image.open(io.BytesIO(data))
    assert (phash, name) == (int(str(imagehash.phash(picture)), 16), os.path.join("b", "1.jpg"))
    before = contents_of(str(tmp_path), ())
    (tmp_path / "Questions.csv").write_bytes(b"")
    assert contents_of(str(tmp_path), ()) != before


def test_a_run_names_its_samples_but_not_those_without_bytes(tmp_path: Path) -> None:
    fields: list[dict[str, object]] = [
        {"phash": 7, "meta": '{"sha256_of":"metadata"}'},
        {"phash": 0},
        {"meta": '{"sha256_of": "image_id"}', "phash": 9},
    ]
    store = blind_run(tmp_path, fields)
    found = read_list(str(tmp_path))
    assert (found.num_images, found.num_without_bytes) == (3, 1)
    assert found.phash == {7: "set/00000/000000"}
    assert sorted(found.sha256.values()) == ["set/00000/000000", "set/00000/000001"]
    assert run_at(str(tmp_path)) is not None
    alone = contents_of(str(tmp_path), (CLIP,))
    assert (
        contents_of(str(tmp_path), (CLIP, DINO)) != alone == contents_of(str(store.root), (CLIP,))
    )


def test_what_is_not_there(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for ask in (check_is_there, read_list, lambda where: contents_of(where, ())):
        with pytest.raises(ResourceError, match="gone: there is no such file or folder; give im"):
            ask(gone)
    (tmp_path / "empty").mkdir()
    check_is_there(str(tmp_path / "empty"))
    with pytest.raises(ResourceError, match="empty names no image; fill it, or leave it out"):
        read_list(str(tmp_path / "empty"))


def test_a_bucket_without_a_run(s3: str) -> None:
    with pytest.raises(ResourceError, match="nowhere: there is no run; mend the URL"):
        check_is_there(f"{s3}/nowhere")


def test_a_file_too_large_to_be_an_image(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(ImageLimits().max_member_bytes + 1)
    with pytest.raises(ResourceError, match="large has 268435457 bytes, limit 268435456; take it"):
        read_list(str(tmp_path))
