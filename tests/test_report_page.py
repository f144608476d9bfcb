"""What the page of a report says, and that nothing on it acts."""

import dataclasses
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.config import SelectSettings
from miner.reporting.page import ReportTable, content_security_policy
from miner.select import select
from miner.store import Store
from tests.report_pages import HOSTILE, SHOTS, Page, page_of
from tests.report_runs import Shot, encoded, make_run


def test_pairs_come_by_rank_with_their_numbers(page_run: tuple[Store, Path], page: Page) -> None:
    _, folder = page_run
    selected = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()
    images = page.rows("images")
    assert len(page.rows("pairs")) == len(selected) == 66
    for shown, row in zip(page.rows("pairs"), selected, strict=True):
        for name in ("rank", "pair_id", "borderline", "duplicates_1", "duplicates_2"):
            assert shown[name] == row[name]
        for name in ("clip_cos", "dino_cos", "gap"):
            assert shown[name] == pytest.approx(row[name], abs=1e-6)
        for name in ("image_1", "image_2"):
            assert images[shown[name]]["image_id"] == row[name]


def test_every_image_can_be_traced(page_run: tuple[Store, Path], page: Page) -> None:
    store, _ = page_run
    shards = json.loads(page.inside["data"])["shards"]
    by_id = {row["image_id"]: row for row in store.samples("set.00000").to_pylist()}
    assert len(page.rows("images")) == len(SHOTS)
    for image, shot in zip(page.rows("images"), SHOTS, strict=True):
        row = by_id[image["image_id"]]
        assert shards[image["shard"]] == row["shard"]
        for name in ("sha256", "member", "offset", "num_bytes", "format", "url", "label"):
            assert image[name] == row[name]
        original = page.path.parent / "images" / f"{image['sha256']}.{image['extension']}"
        assert original.read_bytes() == shot.data


def test_captions_stay_data(page: Page) -> None:
    text = page.path.read_text("utf-8")
    assert [image["caption"] for image in page.rows("images")][: len(HOSTILE)] == list(HOSTILE)
    assert [a.get("id") for a in page.named("script")] == [None, "plots-data", "data"]
    assert not [a for a in page.named("img") if a["src"] == "x"]
    for raw in ("<script>alert", "</script><img", "<!-- <script", "\x00", "49 &"):
        assert raw not in text


def test_nothing_on_the_page_acts_by_attribute(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            address = attributes.get(name) or ""
            assert not re.match(r"[a-z]+:", address) or address.startswith("data:image/svg"), (
                address
            )


def test_only_web_addresses_become_links(page: Page) -> None:
    links = {image["url"]: image["is_link"] for image in page.rows("images")}
    assert links == {
        None: False,
        "https://example.org/a.jpg": True,
        "javascript:alert(1)": False,
        "HTTPS://example.org/ <b>": False,
    }


def test_the_policy_names_the_hashes_of_style_and_script(page: Page) -> None:
    first = page.named("meta")[1]
    assert first["http-equiv"] == "Content-Security-Policy"
    policy = first["content"]
    assert policy == content_security_policy(page.inside["style"], page.inside["script"])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_no_selected_pair_is_a_page_too(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(0))])
    page = page_of(store, folder)
    assert page.rows("pairs") == []
    assert (page.path.parent / "cosines-light.svg").exists()
    assert "source,clip_from" in (page.path.parent / "cosines.csv").read_text()


def test_steps_are_counted(tmp_path: Path) -> None:
    refused = ["empty", "empty", "unknown_format"]
    twice = [*SHOTS, dataclasses.replace(SHOTS[0], caption="a copy")]
    store, folder = make_run(tmp_path, twice, refused)
    select(store, folder.name, SelectSettings(max_per_image=1))
    text = page_of(store, folder).path.read_text("utf-8")
    steps = {
        name: int(count.replace(",", ""))
        for count, name in re.findall(
            r"<strong>([\d,]+)</strong>\s*<span class=\"step-name\">(\w+)", text
        )
    }
    assert steps == {
        "shards": 1,
        "samples": 16,
        "decodable": 13,
        "images": 13,
        "distinct": 12,
        "pairs": 66,
        "candidates": 66,
        "blind": 66,
        "selected": 6,
    }
    for dropped in ("2 empty", "1 unknown_format", "1 copies with equal", "60 an image has better"):
        assert f"&minus;{dropped}" in text


def test_the_plot_has_its_numbers_beside_it(page: Page) -> None:
    report = page.path.parent
    lines = (report / "cosines.csv").read_text().splitlines()
    counts = {"candidates": 0, "random": 0}
    for line in lines[1:]:
        source, clip_from, clip_to, *_, count = line.split(",")
        assert float(clip_to) - float(clip_from) == pytest.approx(0.01)
        counts[source] += int(count)
    assert lines[0] == "source,clip_from,clip_to,dino_from,dino_to,count"
    assert counts == {"candidates": 66, "random": 66}
    for name in ("light", "dark"):
        svg = (report / f"cosines-{name}.svg").read_text()
        assert "blind: CLIP &gt; 0.95 and DINO &lt; 0.6" in svg
        assert "<script" not in svg


def test_tables_of_the_caller_are_shown_and_escaped(tmp_path: Path) -> None:
    table = ReportTable(
        title="Found <b>",
        columns=("attribute", "planted", "share"),
        rows=[("<script>alert(1)</script>", 1200, "80.0 %"), ("count", 0.5, "0.953")],
        note="A & B",
    )
    shots = [Shot(data=encoded(n)) for n in range(2)]
    text = page_of(*make_run(tmp_path, shots), tables=[table]).path.read_text("utf-8")
    assert "Found &lt;b&gt;" in text
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in text
    for said in ("1,200", "0.5", "0.953"):
        assert f'<td class="figure">{said}</td>' in text
    assert '<th scope="col">attribute</th><th scope="col" class="figure">planted</th>' in text
    assert '<rect class="fill" width="80.0" height="6"/>' in text
    assert "A &amp; B" in text


def test_a_table_with_ragged_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, there are 2 columns"):
        ReportTable(title="t", columns=("a", "b"), rows=[("x",)])
