import json
from collections.abc import Callable

import pyarrow as pa
import pytest

from miner.errors import StoreError
from miner.handoff.pairs import IMAGES, PAIRS, Handoff, handoff_of, tables_of
from miner.records import Json
from miner.store import Store
from tests.handoff_runs import deliver

Edit = Callable[[list[Json], list[Json]], object]


@pytest.fixture(scope="module")
def handoff(reviewed: Store, tmp_path_factory: pytest.TempPathFactory) -> Handoff:
    out = tmp_path_factory.mktemp("pairs") / "out"
    return deliver(reviewed, "csv", out).source.handoff


def test_tables_give_back_the_same_hand_off(handoff: Handoff) -> None:
    tables = tables_of(handoff)
    again = handoff_of(tables["pairs"], tables["images"], handoff.facts, "there")
    assert json.dumps(list(again.pairs)) == json.dumps(list(handoff.pairs))
    assert again.images == handoff.images
    assert again.facts == handoff.facts


def test_some_pairs_keep_their_images_alone(handoff: Handoff) -> None:
    few = handoff.only(handoff.pairs[:1])
    pair = handoff.pairs[0]
    assert set(few.images) == {pair["image_1"], pair["image_2"]}
    assert few.flat(pair)["sha256_2"] == few.both(pair)[1]["sha256"] == pair["sha256_2"]


def test_local_folders_are_nobodys_business(handoff: Handoff) -> None:
    assert {image["shard"] for image in handoff.images.values()} == {"00000.tar"}


def change(table: str, **values: object) -> Edit:
    def edit(pairs: list[Json], images: list[Json]) -> None:
        (pairs if table == "pairs" else images)[0].update(values)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda pairs, images: images.append(images[0]), "names an image twice"),
        (change("images", sha256="../../x"), "has the sha256 '../../x', format 'JPEG'"),
        (change("images", format="SVG"), "format 'SVG'"),
        (change("images", offset=-1), "bytes at -1"),
        (change("images", num_bytes=0), "has 0 bytes"),
        (lambda pairs, images: pairs.append(pairs[0]), "names a pair twice"),
        (change("pairs", image_1="no/such/image"), "is not in images.parquet"),
        (change("pairs", pair_id="../../../../../x"), "is not that of its images"),
        (change("pairs", sha256_1="0" * 64), "is not that of its images"),
        (change("pairs", pattern=10), "has pattern 10, 'accept'"),
        (change("pairs", decision="<script>"), "'<script>'"),
        (change("pairs", clip_cos=float("nan")), "has a cosine that is no number"),
    ],
)
def test_edited_tables_are_refused(handoff: Handoff, edit: Edit, message: str) -> None:
    tables = tables_of(handoff)
    pairs, images = tables["pairs"].to_pylist(), tables["images"].to_pylist()
    edit(pairs, images)
    with pytest.raises(StoreError, match=message):
        handoff_of(
            pa.Table.from_pylist(pairs, schema=PAIRS),
            pa.Table.from_pylist(images, schema=IMAGES),
            handoff.facts,
            "there",
        )


def test_tables_with_other_columns_are_refused(handoff: Handoff) -> None:
    tables = tables_of(handoff)
    with pytest.raises(StoreError, match=r"images\.parquet has other columns"):
        handoff_of(tables["pairs"], tables["images"].drop("key"), handoff.facts, "there")
