"""The hostile corpus: every bad image and shard ends as designed, alone and in one run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from miner.audit import verify
from miner.config import ImageLimits
from miner.errors import ImageError
from miner.images import decode
from miner.schema import Reason
from miner.store import Store
from tests.hostile.corpus import NUM_EMPTY, Watched, outcomes, watch, write_clean, write_hostile
from tests.hostile.images import IMAGES, HostileImage
from tests.hostile.shards import SHARDS, HostileShard
from tests.reading import read, rows_of
from tests.tars import shard_of

MORE_BYTES = 1.5e9
"""Memory that a process may take beyond what it takes over clean shards."""

LIMIT_S = 600.0
"""Nothing hangs: the run takes less than a minute on two idle cores."""

OPTIONS = (
    *("--clip", "demo-clip", "--dino", "demo-dino", "--clip-above", "-0.9", "--dino-below", "0.99"),
    # One image to a batch: what is beside an image in its batch moves its vector by a rounding.
    *("--batch-size", "1", "--num-decoders", "2"),
)


def test_the_corpus_is_large() -> None:
    assert len({case.name for case in IMAGES}) == len(IMAGES) >= 120
    assert len({case.name for case in SHARDS}) == len(SHARDS) >= 120
    assert {Reason(each) for each in outcomes().values() if each in set(Reason)} >= {
        *(Reason.EMPTY, Reason.UNKNOWN_FORMAT, Reason.FORMAT_NOT_ALLOWED, Reason.TOO_MANY_PIXELS),
        *(Reason.TOO_ELONGATED, Reason.TRUNCATED_IMAGE, Reason.UNDECODABLE),
    }


@pytest.mark.parametrize("case", IMAGES, ids=lambda case: case.name)
@pytest.mark.parametrize("reference", [False, True], ids=["", "reference"])
def test_an_image_ends_as_designed(case: HostileImage, reference: bool) -> None:
    if case.outcome in set(Reason):
        with pytest.raises(ImageError, match=f"^{case.outcome}: ") as caught:
            decode(case.data, ImageLimits(), reference=reference)
        assert len(caught.value.detail) <= 300
        return
    decoded = decode(case.data, ImageLimits(), reference=reference)
    assert decoded.format == case.outcome
    assert decoded.pixels_HWC.shape == (decoded.height, decoded.width, 3)


@pytest.mark.parametrize("case", SHARDS, ids=lambda case: case.name)
def test_a_shard_ends_as_designed(case: HostileShard, tmp_path: Path) -> None:
    if case.sidecar is not None:
        (tmp_path / "00000.parquet").write_bytes(case.sidecar)
    kept, refusals, report = read(shard_of(case.tar, tmp_path), ImageLimits())
    assert tuple(kept) == case.kept
    assert rows_of(refusals) == sorted(case.rows)
    is_damage = {Reason.DAMAGED_HEADER, Reason.TRUNCATED_SHARD, Reason.TRAILING_BYTES}
    assert report.damaged == any(reason in is_damage for _, reason in case.rows)
    for key, columns in case.says.items():
        for column, text in columns.items():
            found = getattr(kept[key], column)
            assert text in found if column == "meta" else text == found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watched, Watched]:
    """The folder of a run over the corpus and of one over its good images; how both went."""
    folder = tmp_path_factory.mktemp("hostile")
    ran = []
    for name, write in (("clean", write_clean), ("bad", write_hostile)):
        (folder / name).mkdir()
        write(folder / name)
        words = ("mine", folder / name, "--out", folder / f"{name}-run", *OPTIONS)
        ran.append(watch(*words, limit_s=LIMIT_S))
    return folder, ran[0], ran[1]


def columns(folder: Path, *names: str) -> list[tuple]:
    """Rows of all the tables in a folder."""
    table = pq.read_table(folder).select(list(names)).to_pydict()
    return list(zip(*table.values(), strict=True))


def test_the_run_ends_partial_and_says_so_in_words(runs: tuple[Path, Watched, Watched]) -> None:
    _, clean, bad = runs
    assert (clean.code, bad.code) == (0, 3), bad.err
    assert "Traceback" not in clean.err + bad.err


def test_no_sample_is_lost(runs: tuple[Path, Watched, Watched]) -> None:
    run = runs[0] / "bad-run"
    kept, rows = Counter(), Counter()
    formats = {}
    for shard, key, format in columns(run / "samples", "shard", "key", "format"):
        kept[Path(shard).stem, key] += 1
        formats[key] = format
    for shard, key, reason in columns(run / "quarantine", "shard", "key", "reason"):
        rows[Path(shard).stem, key, reason] += 1
    for case in SHARDS:
        assert {key for stem, key in kept if stem == case.name} == set(case.kept), case.name
        found = {(key, reason): n for (stem, key, reason), n in rows.items() if stem == case.name}
        assert found == Counter(case.rows), case.name
    reasons = {key: reason for stem, key, reason in rows if stem.startswith("images-")}
    images = {key: formats[key] for stem, key in kept if stem.startswith("images-")}
    goods = {key for key in images if key.startswith("good")}
    assert {**images, **reasons} == outcomes() | dict.fromkeys(goods, "JPEG")
    assert max(kept.values()) == 1
    no_image = [stem for stem, _, reason in rows if reason == Reason.NO_IMAGE]
    assert no_image.count("empty-members") == NUM_EMPTY


def test_good_images_have_the_vectors_of_a_clean_run(runs: tuple[Path, Watched, Watched]) -> None:
    def vectors(run: Path, encoder: Path) -> dict[str, np.ndarray]:
        hashes = dict(columns(run / "samples", "image_id", "sha256"))
        found = columns(run / "vectors" / encoder.name, "image_id", "vector")
        return {hashes[image_id]: np.asarray(vector) for image_id, vector in found}

    encoders = list((runs[0] / "clean-run" / "vectors").iterdir())
    assert len(encoders) == 2
    for encoder in encoders:
        clean, bad = (vectors(runs[0] / f"{name}-run", encoder) for name in ("clean", "bad"))
        assert len(clean) >= 40
        for sha256, vector in clean.items():
            assert np.array_equal(bad[sha256], vector)


def test_memory_is_bounded(runs: tuple[Path, Watched, Watched]) -> None:
    _, clean, bad = runs
    assert bad.main_bytes - clean.main_bytes < MORE_BYTES
    assert bad.other_bytes - clean.other_bytes < MORE_BYTES
    # It has seen the large images, or the bound says nothing.
    assert bad.other_bytes - clean.other_bytes > 3e8


def test_the_store_is_sound_and_captions_are_text(runs: tuple[Path, Watched, Watched]) -> None:
    store = Store(runs[0] / "bad-run")
    assert verify(store) == []
    assert store.leftovers() == []
    (page,) = store.root.glob("pairs/*/report/index.html")
    html = page.read_text("utf-8")
    assert "alert(1)" in html
    assert "<script>alert" not in html
