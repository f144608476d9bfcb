"""Scenes: equal seeds, equal bytes; twins differ in one thing; captions keep their secrets."""

import io
import json
import tarfile
from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.drawing import SIZE, encode, render
from pipelines.scene_shards import write_shards
from pipelines.scenes import (
    CAPTIONED,
    HIDDEN,
    PHRASES,
    TEMPLATES,
    Planted,
    Scene,
    caption,
    draw_scene,
    draw_twin,
    make_scenes,
)


def some_scenes(num, seed=0):
    rng = np.random.default_rng(seed)
    return [draw_scene(rng) for _ in range(num)]


def different_fields(one, other):
    one, other = asdict(one), asdict(other)
    return {name for name in one if one[name] != other[name]}


def largest_block_difference(one, other):
    """Largest difference between blocks of 16 x 16 pixels, after the brightness is evened out."""
    first, second = (np.asarray(image.reduce(16), dtype=float) for image in (one, other))
    second = second * first.mean(axis=(0, 1)) / second.mean(axis=(0, 1))
    return np.abs(first - second).mean(axis=2).max()


def test_equal_scenes_give_equal_bytes():
    scene = some_scenes(1)[0]
    assert encode(render(scene)) == encode(render(Scene(**asdict(scene))))
    assert render(scene).size == (SIZE, SIZE)


def test_equal_seeds_give_equal_corpora():
    assert make_scenes(50, 3) == make_scenes(50, 3)
    assert make_scenes(50, 3) != make_scenes(50, 4)


def test_value_outside_the_list_is_refused():
    values = asdict(some_scenes(1)[0]) | {"colour": "mauve"}
    with pytest.raises(ValueError, match="colour is 'mauve'"):
        Scene(**values)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_twin_share_outside_0_1_is_refused(share):
    with pytest.raises(ValueError, match="twin_share"):
        make_scenes(10, 0, twin_share=share)


@pytest.mark.parametrize("attribute", [*HIDDEN, *CAPTIONED, "nuisance"])
def test_twin_differs_in_that_attribute_alone(attribute):
    rng = np.random.default_rng(1)
    for scene in some_scenes(20):
        assert different_fields(scene, draw_twin(scene, attribute, rng)) == {attribute}


def test_planted_twins_name_each_other_and_take_turns():
    corpus = make_scenes(240, 5, twin_share=0.5)
    assert [entry.number for entry in corpus] == list(range(240))
    twins = [entry for entry in corpus if entry.twin is not None]
    assert len(twins) == 120
    for entry in twins:
        other = corpus[entry.twin]
        assert (other.twin, other.twin_kind) == (entry.number, entry.twin_kind)
        assert different_fields(entry.scene, other.scene) == {entry.twin_attribute}
    kinds = {entry.twin_attribute: entry.twin_kind for entry in twins}
    assert kinds == {
        **dict.fromkeys(HIDDEN, "hidden"),
        **dict.fromkeys(CAPTIONED, "captioned"),
        "nuisance": "nuisance",
    }
    lone = next(entry for entry in corpus if entry.twin is None)
    assert lone == Planted(number=lone.number, scene=lone.scene)


def test_every_value_is_drawn():
    drawn = some_scenes(300)
    for attribute, values in {**CAPTIONED, **HIDDEN}.items():
        assert {getattr(scene, attribute) for scene in drawn} == set(values)


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_caption_names_what_is_captioned_and_nothing_hidden(template):
    secret = {word for phrase in PHRASES.values() for word in phrase.split()}
    secret |= {value for values in HIDDEN.values() for value in values}
    rng = np.random.default_rng(2)
    for scene in some_scenes(40):
        words = caption(scene, template).split()
        assert all(getattr(scene, attribute) in words for attribute in CAPTIONED)
        assert not secret.intersection(words)
        for attribute in HIDDEN:
            assert caption(draw_twin(scene, attribute, rng), template) == caption(scene, template)


def test_captions_tell_all_captioned_values_apart():
    rng = np.random.default_rng(2)
    for scene in some_scenes(20):
        for attribute in CAPTIONED:
            assert caption(draw_twin(scene, attribute, rng)) != caption(scene)


def test_hidden_differences_are_plain_to_see():
    """The least hidden change is above the usual nuisance, the usual one far above it."""
    rng = np.random.default_rng(3)
    drawn = some_scenes(20, seed=4)
    differences = {
        attribute: [
            largest_block_difference(render(scene), render(draw_twin(scene, attribute, rng)))
            for scene in drawn
        ]
        for attribute in (*HIDDEN, "nuisance")
    }
    noise = np.median(differences.pop("nuisance"))
    for attribute, seen in differences.items():
        assert min(seen) > noise, attribute
        assert np.median(seen) > 1.8 * noise, attribute


def test_shards_have_the_layout_of_img2dataset(tmp_path):
    tars = write_shards(tmp_path, num_scenes=30, seed=9, shard_size=20)
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar"]
    corpus = make_scenes(30, 9)
    keys = []
    for tar in tars:
        rows = {row["key"]: row for row in pq.read_table(tar.with_suffix(".parquet")).to_pylist()}
        stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
        assert stats["count"] == stats["successes"] == len(rows)
        with tarfile.open(tar) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        assert len(members) == 3 * len(rows)
        for key, row in rows.items():
            fields = json.loads(members[f"{key}.json"])
            assert fields == row
            entry = corpus[len(keys)]
            keys.append(key)
            assert key == f"{tar.stem}{(len(keys) - 1) % 20:04d}"
            assert {name: fields[name] for name in asdict(entry.scene)} == asdict(entry.scene)
            assert members[f"{key}.txt"].decode() == fields["caption"] == caption(entry.scene)
            assert fields["url"] == f"scene://9/{entry.number}"
            assert (fields["status"], fields["twin_kind"]) == ("success", entry.twin_kind)
            image = Image.open(io.BytesIO(members[f"{key}.jpg"]))
            assert image.size == (fields["width"], fields["height"]) == (SIZE, SIZE)
    numbers = {key: number for number, key in enumerate(keys)}
    rows = [row for tar in tars for row in pq.read_table(tar.with_suffix(".parquet")).to_pylist()]
    assert [numbers.get(row["twin"]) for row in rows] == [entry.twin for entry in corpus]


def test_shards_are_equal_byte_for_byte(tmp_path):
    for folder in ("one", "other"):
        write_shards(tmp_path / folder, num_scenes=6, seed=1)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("size", [0, 10_001])
def test_shard_size_that_keys_cannot_hold_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="four digits"):
        write_shards(tmp_path, num_scenes=1, seed=0, shard_size=size)
