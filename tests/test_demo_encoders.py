"""The bundled encoders show the phenomenon on scenes they were not trained on.

Both are built by their library's own class from the bundled record; nothing of the miner is used.
"""

import functools
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch.nn.functional import normalize

from pipelines import scenes
from pipelines.demo_pictures import Views, distort, pool_scene, small
from pipelines.demo_training import neighbourhoods, tokenize
from pipelines.drawing import encode, render
from pipelines.scenes import CAPTIONED, HIDDEN, PHRASES
from pipelines.train_demo_encoders import CLIP, DINO, settings

BUNDLED = Path(__file__).parent.parent / "miner" / "bundled"
NUM_SCENES = 96
SEED = 20_260


def content(name):
    return json.loads((BUNDLED / f"{name}.json").read_text())


RECORDS = {name: content(name)["record"] for name in ("demo-clip", "demo-dino")}
CLIP_ABOVE = RECORDS["demo-clip"]["clip_above"]
DINO_BELOW = RECORDS["demo-dino"]["dino_below"]


@functools.cache
def tower(name):
    record = RECORDS[name]
    build = open_clip.CLIP if record["library"] == "open_clip" else VisionTransformer
    model = build(**record["config"])
    state = load_file(BUNDLED / record["bundled"])
    assert {value.dtype for value in state.values()} == {torch.float16}
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval()


@torch.inference_mode()
def embed(drawn):
    """Vectors of scenes by both encoders, through their JPEG files."""
    pictures = [small(encode(render(scene))) for scene in drawn]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    vectors = {}
    for name, record in RECORDS.items():
        mean, std = (torch.tensor(record[key]).view(3, 1, 1) for key in ("mean", "std"))
        to_vectors = tower(name).encode_image if name == "demo-clip" else tower(name)
        parts = ((pixels - mean) / std).split(128)
        vectors[name] = normalize(torch.cat([to_vectors(part) for part in parts]), dim=1)
    return vectors


def balanced_scenes(num, seed):
    """Scenes in which every value of every attribute occurs equally often, at random."""
    rng = np.random.default_rng(seed)
    columns = {
        attribute: rng.permutation(np.resize(values, num))
        for attribute, values in {**CAPTIONED, **HIDDEN}.items()
    }
    return [
        scenes.Scene(
            **{attribute: str(column[k]) for attribute, column in columns.items()},
            nuisance=int(rng.integers(2**31)),
        )
        for k in range(num)
    ]


@functools.cache
def held_out():
    """Scenes, and for each attribute their twins: one list for each turn of the values.

    In turn k every scene has the k-th value after its own, so that all turns together show each
    scene with every value.
    """
    drawn = balanced_scenes(NUM_SCENES, SEED)
    rng = np.random.default_rng(SEED)
    turns = {("", 0): drawn}
    for attribute, values in {**CAPTIONED, **HIDDEN}.items():
        for turn in range(1, len(values) if attribute in HIDDEN else 2):
            turns[attribute, turn] = [
                replace(
                    scene,
                    **{
                        attribute: values[
                            (values.index(getattr(scene, attribute)) + turn) % len(values)
                        ]
                    },
                )
                for scene in drawn
            ]
    turns["nuisance", 1] = [scenes.draw_twin(scene, "nuisance", rng) for scene in drawn]
    turns["nuisance", 2] = [scenes.draw_twin(scene, "nuisance", rng) for scene in drawn]
    vectors = embed([scene for turn in turns.values() for scene in turn])
    return turns, {
        name: dict(zip(turns, of.split(NUM_SCENES), strict=True)) for name, of in vectors.items()
    }


def twin_cosines(attribute):
    """CLIP and DINO cosines of all twins that differ in one attribute."""
    _, vectors = held_out()
    return tuple(
        torch.cat(
            [
                (vectors[name]["", 0] * twins).sum(1)
                for (of, _), twins in vectors[name].items()
                if of == attribute
            ]
        )
        for name in ("demo-clip", "demo-dino")
    )


def candidate_rate(attribute):
    return (twin_cosines(attribute)[0] > CLIP_ABOVE).double().mean().item()


def blind_rate(attribute):
    clip, dino = twin_cosines(attribute)
    return ((clip > CLIP_ABOVE) & (dino < DINO_BELOW)).double().mean().item()


@torch.inference_mode()
def prompts(attribute):
    """One text vector for each value: the mean over every caption that it can stand in.

    A hidden value follows the caption in words that no training caption had.
    """
    words, clip = content("demo-clip")["vocabulary"], tower("demo-clip")
    rows = []
    combinations = [
        dict(zip(CAPTIONED, values, strict=True))
        for values in itertools.product(*CAPTIONED.values())
    ]
    base = balanced_scenes(1, 0)[0]
    for value in {**CAPTIONED, **HIDDEN}[attribute]:
        if attribute in CAPTIONED:
            chosen = [one for one in combinations if one[attribute] == value]
            texts = [scenes.caption(replace(base, **one)) for one in chosen]
        else:
            phrase = PHRASES[attribute].format(value)
            texts = [f"{scenes.caption(replace(base, **one))} {phrase}" for one in combinations]
        vectors = clip.encode_text(tokenize(texts, words, clip.context_length), normalize=True)
        rows.append(normalize(vectors.mean(0), dim=0))
    return torch.stack(rows)


def zero_shot_accuracy(attribute):
    """How often demo-clip picks the right value; for a hidden one each scene shows all values."""
    turns, vectors = held_out()
    values = {**CAPTIONED, **HIDDEN}[attribute]
    wanted = [key for key in turns if key[0] == attribute or key == ("", 0)]
    if attribute in CAPTIONED:
        wanted = list(turns)
    texts = prompts(attribute)
    right = [
        values[int(guess)] == getattr(scene, attribute)
        for key in wanted
        for guess, scene in zip(
            (vectors["demo-clip"][key] @ texts.T).argmax(1), turns[key], strict=True
        )
    ]
    return sum(right) / len(right)


def test_weights_are_small_and_the_recorded_ones():
    files = {name: (BUNDLED / record["bundled"]).read_bytes() for name, record in RECORDS.items()}
    assert sum(map(len, files.values())) < 4e6
    for name, record in RECORDS.items():
        assert hashlib.sha256(files[name]).hexdigest() == record["weights_sha256"]


@pytest.mark.parametrize("name", RECORDS)
def test_bundled_settings_are_those_of_the_command(name):
    recorded = content(name)["training"]
    assert recorded == settings(name, recorded["cpu_s"])


@pytest.mark.slow
def test_held_out_scenes_are_not_of_the_pool():
    turns, _ = held_out()
    pool = {pool_scene(number) for number in range(content("demo-clip")["training"]["num_scenes"])}
    assert not pool.intersection(itertools.chain(*turns.values()))


@pytest.mark.slow
@pytest.mark.parametrize("attribute", HIDDEN)
def test_twins_in_a_hidden_attribute_are_blind_pairs(attribute):
    """At least 5 x as often as nuisance twins; and half of them, whatever nuisance does."""
    assert blind_rate(attribute) >= max(0.5, 5 * blind_rate("nuisance"))


@pytest.mark.slow
def test_twins_in_nuisance_are_hardly_ever_blind_pairs():
    assert blind_rate("nuisance") <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("attribute", CAPTIONED)
def test_twins_in_a_captioned_attribute_are_no_candidates(attribute):
    assert candidate_rate(attribute) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("attribute", CAPTIONED)
def test_zero_shot_names_captioned_attributes(attribute):
    assert zero_shot_accuracy(attribute) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("attribute", HIDDEN)
def test_zero_shot_is_at_chance_on_hidden_attributes(attribute):
    chance = 1 / len(HIDDEN[attribute])
    assert abs(zero_shot_accuracy(attribute) - chance) <= 0.05


def test_a_corpus_has_a_few_blind_pairs_for_each_scene():
    drawn = [entry.scene for entry in scenes.make_scenes(500, SEED)]
    clip, dino = embed(drawn).values()
    is_blind = (clip @ clip.T > CLIP_ABOVE) & (dino @ dino.T < DINO_BELOW)
    assert 50 <= is_blind.triu(1).sum().item() <= 1250


def test_no_training_caption_has_a_word_for_a_hidden_attribute():
    words = set(content("demo-clip")["vocabulary"])
    assert {value for values in HIDDEN.values() for value in values} <= words
    base = balanced_scenes(1, 0)[0]
    said = {
        word
        for values in itertools.product(*CAPTIONED.values())
        for template in range(len(scenes.TEMPLATES))
        for word in scenes.caption(
            replace(base, **dict(zip(CAPTIONED, values, strict=True))), template
        ).split()
    }
    hidden = {word for phrase in PHRASES.values() for word in phrase.split()} - {"{}"}
    hidden |= {value for values in HIDDEN.values() for value in values}
    assert not said & hidden


@pytest.mark.parametrize("views", [CLIP.views, DINO.views])
def test_views_keep_left_left_and_up_up(views):
    """A bright corner stays where it is, whatever else a view changes."""
    pixels = torch.full((64, 3, 64, 64), 0.3)
    pixels[:, :, 4:20, 4:20] = 0.9
    seen = distort(pixels, views, torch.Generator().manual_seed(0)).mean(1)
    corners = [seen[:, y : y + 24, x : x + 24].mean((1, 2)) for y in (0, 40) for x in (0, 40)]
    assert torch.stack(corners, 1).argmax(1).eq(0).all()


def test_views_without_any_deviation_change_nothing():
    still = Views(shift_px=0, zoom=0, gain=0, offset=0, cast=0, noise=0, grey=0)
    pixels = torch.rand(2, 3, 64, 64)
    seen = distort(pixels, still, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen, pixels, atol=1e-5, rtol=0)


def test_neighbourhoods_are_a_partition_into_like_vectors():
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8).repeat_interleave(16, dim=0)
    vectors = centres + 0.01 * torch.randn(128, 8, generator=generator)
    order = torch.randperm(128, generator=generator)
    groups = neighbourhoods(vectors[order], 16, generator)
    assert torch.cat(groups).sort().values.equal(torch.arange(128))
    spread = torch.stack([vectors[order][group].std(0).norm() for group in groups])
    assert spread.max() < vectors.std(0).norm()
