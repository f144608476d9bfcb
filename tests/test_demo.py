"""The demo shows the phenomenon, on held-out scenes, with known answers."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from miner.audit import verify
from miner.config import JoinSettings, SelectSettings
from miner.join import join
from miner.partner_search import PartnerSearch
from miner.records import Json
from miner.store import Store
from pipelines.demo import (
    SETTINGS,
    PlantedRow,
    found_of_planted,
    planted_rows,
    planted_table,
    run_demo,
    tables_of,
)
from pipelines.driver import mine
from pipelines.scenes import CAPTIONED, HIDDEN
from tests.commands import Commands
from tests.small import jpeg, write_tar
from tests.test_join import brute_force
from tests.test_partner_search import all_ids, partners_in_raw, searched


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str, Json]:
    """The whole demo, as `blindpairs demo` runs it."""
    out = tmp_path_factory.mktemp("demo")
    embedded, record = run_demo(out)
    assert not embedded.partial
    return Store(out), record["name"], record


@pytest.fixture(scope="module")
def planted(demo: tuple[Store, str, Json]) -> dict[str, PlantedRow]:
    """What became of the twins, by attribute."""
    return {row.attribute: row for row in planted_rows(*demo)}


def test_raw_is_the_float64_truth_of_at_least_200_pairs(demo: tuple[Store, str, Json]) -> None:
    store, name, record = demo
    stored = {
        name: [store.vectors(record[name], shard_id) for shard_id in store.committed("samples")]
        for name in ("clip", "dino")
    }
    image_ids = [image_id for ids, _ in stored["clip"] for image_id in ids]
    clip, dino = (np.concatenate([v for _, v in stored[name]]) for name in ("clip", "dino"))
    truth = {
        tuple(sorted((image_ids[i], image_ids[j])))
        for i, j in brute_force(clip, dino, record["clip_above"], record["dino_below"])
    }
    parts = (store.root / "pairs" / name / "raw").glob("*.parquet")
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert {(row["image_1"], row["image_2"]) for row in rows} == truth
    assert len(truth) >= 200
    assert verify(store) == []


def test_a_search_for_every_image_finds_its_partners_of_raw(
    demo: tuple[Store, str, Json], tmp_path: Path
) -> None:
    store, name, record = demo
    raw = partners_in_raw(store, name)
    search = PartnerSearch(store, record, tmp_path)
    image_ids = all_ids(store)
    assert len(image_ids) == len(search)
    for image_id in image_ids:
        assert searched(search, search.stored(image_id)) == raw.get(image_id, []), image_id


def test_hidden_twins_are_blind_pairs_and_nuisance_twins_are_not(
    planted: dict[str, PlantedRow],
) -> None:
    rates = {name: row.blind / row.planted for name, row in planted.items()}
    shown = [name for name in HIDDEN if rates[name] >= max(5 * rates["nuisance"], 0.5)]
    assert len(shown) >= 5, rates
    assert all(row.planted >= 40 for row in planted.values())


def test_captioned_twins_are_no_candidates(planted: dict[str, PlantedRow]) -> None:
    for name in CAPTIONED:
        assert planted[name].candidates <= 0.02 * planted[name].planted, name


def test_table_of_the_report_has_a_row_for_each_attribute(
    demo: tuple[Store, str, Json], planted: dict[str, PlantedRow]
) -> None:
    store, name, _ = demo
    (table,) = tables_of(store, name)
    assert table == planted_table([*planted.values()])
    assert [row[0] for row in table.rows] == [*HIDDEN, "nuisance", *CAPTIONED]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_demo_is_not_done_twice(demo: tuple[Store, str, Json]) -> None:
    store, _, record = demo
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.parquet")}
    start_s = time.monotonic()
    _, again = run_demo(store.root)
    assert again == record
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert time.monotonic() - start_s < 20


def test_scenes_that_were_cut_short_are_rendered_again(tmp_path: Path) -> None:
    run_demo(tmp_path, num_scenes=40)
    shards = {path.name: path.read_bytes() for path in (tmp_path / "scenes").glob("*.tar")}
    (tmp_path / "scenes" / "done.json").unlink()
    first = next((tmp_path / "scenes").glob("*.tar"))
    first.write_bytes(first.read_bytes()[:1000])
    run_demo(tmp_path, num_scenes=40)
    assert {p.name: p.read_bytes() for p in (tmp_path / "scenes").glob("*.tar")} == shards


@pytest.mark.parametrize("damage", ["empty marker", "no marker", "lost tar"])
def test_scenes_that_are_not_whole_are_rendered_again(tmp_path: Path, damage: str) -> None:
    run_demo(tmp_path, num_scenes=12)
    (tar,) = (tmp_path / "scenes").glob("*.tar")
    data = tar.read_bytes()
    if damage == "lost tar":
        tar.unlink()
    elif damage == "no marker":
        (tmp_path / "scenes" / "done.json").unlink()
    else:
        (tmp_path / "scenes" / "done.json").write_text("")
    run_demo(tmp_path, num_scenes=12)
    assert tar.read_bytes() == data


def test_planted_pairs_beyond_the_thresholds_are_not_found(demo: tuple[Store, str, Json]) -> None:
    store, name, record = demo
    wide = JoinSettings(**{n: record[n] for n in ("clip_above", "dino_below")}, keep_dino=1.0)
    kept = join(store, record["clip"], record["dino"], wide, SelectSettings())
    rows = planted_rows(store, kept["name"], kept)
    assert rows == planted_rows(store, name, record)
    assert all(row.blind <= row.candidates for row in rows)


def test_hostile_truths_of_another_corpus_are_left_out(tmp_path: Path) -> None:
    truths = [{"twin": {"a": 1}}, {"twin": "k2"}, {"twin": "k1", "twin_kind": "zzz"}, {"twin": 3}]
    members = []
    for number, truth in enumerate(truths):
        members += [
            (f"k{number}.jpg", jpeg(number)),
            (f"k{number}.json", json.dumps(truth).encode()),
        ]
    write_tar(tmp_path / "corpus" / "00000.tar", members)
    _, record = mine([str(tmp_path / "corpus")], tmp_path / "run", SETTINGS)
    store = Store(tmp_path / "run")
    assert tables_of(store, record["name"]) == []


def test_run_of_other_encoders_has_no_planted_table(commands: Commands, tmp_path: Path) -> None:
    from tests.small import write_corpus

    write_corpus(tmp_path / "corpus", num_shards=1)
    commands.mine(tmp_path / "corpus", "--out", tmp_path / "run")
    (folder,) = (tmp_path / "run" / "pairs").iterdir()
    assert tables_of(Store(tmp_path / "run"), folder.name) == []


def test_readme_tells_the_demos_own_figures(
    demo: tuple[Store, str, Json], planted: dict[str, PlantedRow]
) -> None:
    # Within the few pairs that lie so near a threshold that another processor decides otherwise.
    counts = demo[2]["counts"]
    text = " ".join((Path(__file__).parents[1] / "README.md").read_text("utf-8").split())
    (told,) = re.findall(r"finds ([\d,]+) blind pairs among ([\d,]+)", text)
    assert abs(int(told[0].replace(",", "")) - counts["blind"]) <= 2 * counts["borderline"]
    assert int(told[1].replace(",", "")) == counts["pairs"]
    for name in HIDDEN:
        (figure,) = re.findall(rf"[:,] {name} (\d+)", text)
        assert abs(int(figure) - planted[name].blind) <= 1, name
    assert all(planted[name].blind == 0 for name in [*CAPTIONED, "nuisance"])


def test_a_line_says_how_many_twins_were_found(demo: tuple[Store, str, Json]) -> None:
    row = planted_rows(*demo)[0]
    rows = [
        replace(row, attribute="direction", planted=50, blind=50),
        replace(row, attribute="count", planted=50, blind=47),
        replace(row, attribute="nuisance", planted=49, blind=0),
    ]
    assert found_of_planted(rows) == (
        "of 50 planted twins: direction 50, count 47; of 49 planted twins: nuisance 0"
    )
