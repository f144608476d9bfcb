"""The images of a report: copied, made smaller, or the reason why they are missing."""

from pathlib import Path

from tests.report_pages import SHOTS, Page, page_of
from tests.report_runs import Shot, encoded, make_run


def test_what_browsers_do_not_show_is_copied_and_said(page: Page) -> None:
    report = page.path.parent
    notes = {image["note"]: image for image in page.rows("images") if image["note"]}
    tiff, turned = (next(i for n, i in notes.items() if word in n) for word in ("TIFF", "EXIF"))
    assert len(notes) == 2
    for image in (tiff, turned):
        assert image["has_view"]
        assert (report / f"images/{image['sha256']}.view.png").read_bytes()[:4] == b"\x89PNG"
        assert (report / f"thumbs/{image['sha256']}.jpg").exists()
    assert (report / f"images/{tiff['sha256']}.tiff").exists()


def test_large_images_have_thumbnails_and_small_ones_are_their_own(page: Page) -> None:
    has_thumb = [image["has_thumb"] for image in page.rows("images")]
    assert has_thumb == [False] * 7 + [True, True, True, False, False]


def test_a_missing_shard_leaves_its_reason(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS)
    (tmp_path / "corpus" / "00000.tar").unlink()
    page = page_of(store, folder)
    assert len(page.rows("pairs")) == 66
    for image in page.rows("images"):
        assert image["extension"] is None
        assert "00000.tar" in image["note"]
    assert not list((page.path.parent / "images").iterdir())


def test_a_shard_with_other_bytes_is_not_shown(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    tar = tmp_path / "corpus" / "00000.tar"
    row = store.samples("set.00000").to_pylist()[1]
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 100] ^= 1
    tar.write_bytes(data)
    images = page_of(store, folder).rows("images")
    assert [image["extension"] for image in images] == ["jpg", None, "jpg"]
    assert "the shard was changed" in images[1]["note"]


def test_a_cut_shard_shows_what_is_left(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(4)])
    tar = tmp_path / "corpus" / "00000.tar"
    offset = store.samples("set.00000")["offset"].to_pylist()[2]
    tar.write_bytes(tar.read_bytes()[: offset + 10])
    images = page_of(store, folder).rows("images")
    assert [image["extension"] for image in images] == ["jpg", "jpg", None, None]


def test_a_moved_shard_is_read_where_it_is_now(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    moved = (tmp_path / "corpus" / "00000.tar").rename(tmp_path / "elsewhere.tar")
    places = {"set.00000": {"url": str(moved), "num_bytes": 0, "modified": "1"}}
    store.update_run(store.run()["reading"], places, {"command": "test"})
    assert all(image["extension"] for image in page_of(store, folder).rows("images"))


def test_bytes_that_are_no_image_leave_a_reason(tmp_path: Path) -> None:
    shots = [Shot(data=encoded(0)), Shot(data=b"<svg onload=alert(1)>" + b" " * 60)]
    images = page_of(*make_run(tmp_path, shots)).rows("images")
    assert [image["extension"] for image in images] == ["jpg", None]
    assert "cannot be decoded" in images[1]["note"]


def test_a_report_with_missing_images_is_tried_again(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    tar = tmp_path / "corpus" / "00000.tar"
    hidden = tar.rename(tmp_path / "hidden.tar")
    assert not any(image["extension"] for image in page_of(store, folder).rows("images"))
    hidden.rename(tar)
    assert all(image["extension"] for image in page_of(store, folder).rows("images"))
