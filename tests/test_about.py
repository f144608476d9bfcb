from pathlib import Path

import numpy as np
import pytest

from miner.config import SelectSettings
from miner.encoders import load_encoder
from miner.errors import ResourceError, StoreError
from miner.records import replace_record
from miner.select import select
from miner.selecting.about import text_vector
from miner.store import Store
from miner.text import load_text_tower
from miner.vectors import vectors_record
from miner.why import explain
from tests.blind_runs import blind_run, image, name_of, selected, selected_with
from tests.runs import CLIP


def test_the_tower_is_that_of_the_vectors(tmp_path: Path) -> None:
    encoder = load_encoder("demo-clip")
    store = blind_run(tmp_path, [{}, {}])
    path = store.commit_path(f"vectors/{CLIP}", "set.00000")
    told = vectors_record(encoder, deviation=0, batch_size=1, num_quarantined=0, samples_sha256="")
    record = store.read_record(path)
    replace_record(Path(store.root) / path, record | {"encoder": told["encoder"]})
    text = "a red circle"
    with pytest.raises(ResourceError, match=f"is that of {encoder.encoder_id}, and the vectors"):
        text_vector(Store(tmp_path), CLIP, text, None)
    other = told["encoder"] | {"weights_sha256": "0" * 64}
    replace_record(Path(store.root) / path, record | {"encoder": other})
    with pytest.raises(ResourceError, match="the record wants 0000"):
        text_vector(Store(tmp_path), CLIP, text, None)


def test_the_text_is_what_its_tower_sees(tmp_path: Path) -> None:
    encoder = load_encoder("demo-clip")
    store = blind_run(tmp_path, [{}, {}])
    told = vectors_record(encoder, deviation=0, batch_size=1, num_quarantined=0, samples_sha256="")
    assert store.commit(f"vectors/{encoder.encoder_id}", "set.00000", [], told)
    found = text_vector(store, encoder.encoder_id, "a red circle", None)
    assert np.array_equal(found, load_text_tower("demo-clip")(["a red circle"])[0].numpy())


def test_vectors_without_a_past(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}, {}])
    with pytest.raises(StoreError, match="do not say by which weights they were made"):
        selected_with(store, about="a dog")


def test_pairs_closest_to_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = blind_run(tmp_path, [{}] * 5)
    # In the direction in which image 3 alone goes.
    text_D = np.zeros(6, np.float32)
    text_D[4] = 1
    monkeypatch.setattr("miner.select.text_vector", lambda *_: text_D)
    assert selected_with(store, about="3", about_share=0.35) == {"kept": 4, "not_about": 6}
    rows = selected(store)
    assert all(image(3) in (row["image_1"], row["image_2"]) for row in rows)
    _, clip_ND = store.vectors(CLIP, "set.00000")
    unit_ND = clip_ND.astype(float) / np.linalg.norm(clip_ND.astype(float), axis=1)[:, None]
    for row in rows:
        both = [unit_ND[int(row[name][-6:])] @ text_D for name in ("image_1", "image_2")]
        assert row["about_cos"] == pytest.approx(np.mean(both), abs=1e-6)
    # The text need not be read again, nor the weights.
    monkeypatch.setattr("miner.select.text_vector", None)
    what = explain(store, name_of(store), image(0), image(1)).verdict
    assert what.endswith("with the text is 0.0000, which is not among the highest 35%")
    assert explain(store, name_of(store), image(0), image(3)).verdict.endswith("; selected")


def test_the_share_is_of_what_the_filters_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = blind_run(tmp_path, [{"label": label} for label in "aaab"])
    monkeypatch.setattr("miner.select.text_vector", lambda *_: np.ones(5, np.float32))
    counts = selected_with(store, about="x", labels="same", about_share=0.5)
    assert counts == {"different_labels": 3, "kept": 2, "not_about": 1}
    assert "about_cos" in selected(store)[0]
    assert selected_with(store, labels="same") == {"different_labels": 3, "kept": 3}
    assert "about_cos" not in selected(store)[0]


def test_where_the_weights_lie_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = blind_run(tmp_path, [{}, {}])
    monkeypatch.setattr("miner.select.text_vector", lambda *_: np.ones(3, np.float32))
    settings = SelectSettings(about="x", clip_weights="https://h/w?sig=secret#sha256=" + "0" * 64)
    first = select(store, name_of(store), settings)["selection"]
    assert "secret" not in str(first)
    moved = settings.model_copy(update={"clip_weights": None})
    assert select(store, name_of(store), moved)["selection"] == first
