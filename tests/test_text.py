"""Text towers give what open_clip's `encode_text` gives, and belong to their image towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from miner.encoders import find_record, load_encoder
from miner.errors import ResourceError
from miner.registry import BUNDLED
from miner.text import TextTower, load_text_tower
from pipelines.demo_training import WORDS, tokenize
from pipelines.drawing import render
from pipelines.scenes import caption, draw_scene
from tests import towers

TEXTS = ["a red circle on the meadow", "Two dogs, and a sign that reads: “K”", "", "x"]
CONFIG: dict[str, Any] = {
    **towers.CLIP_CONFIG,
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def reference(path: Path, config: dict[str, Any], texts: list[str]) -> torch.Tensor:
    """What open_clip itself makes of these texts."""
    model = open_clip.CLIP(**config)
    state = safetensors.torch.load_file(path)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    tokens = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])(texts)
    with torch.inference_mode():
        vectors: torch.Tensor = model.eval().encode_text(tokens, normalize=True)
    return vectors


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "clip.safetensors"
    return towers.write_clip_weights(path, CONFIG)


@pytest.fixture(scope="module")
def tower(weights: Path) -> TextTower:
    return load_text_tower(towers.clip_record(config=CONFIG), weights=weights)


@pytest.fixture(scope="module")
def demo() -> TextTower:
    return load_text_tower("demo-clip")


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_equals_open_clip(tmp_path: Path, quick_gelu: bool) -> None:
    config = {**CONFIG, "quick_gelu": quick_gelu}
    path = towers.write_clip_weights(tmp_path / "clip.safetensors", config)
    activation = "quick_gelu" if quick_gelu else "gelu"
    record = towers.clip_record(config=config, activation=activation)
    vectors_BD = load_text_tower(record, weights=path)(TEXTS)
    expected_BD = reference(path, config, TEXTS)
    torch.testing.assert_close(vectors_BD, expected_BD, atol=1e-6, rtol=0)
    other_BD = reference(path, {**config, "quick_gelu": not quick_gelu}, TEXTS)
    assert (vectors_BD - other_BD).abs().max() > 1e-3


def test_a_text_layout_of_its_own_gives_the_same(weights: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(weights)
    image = ("visual.", "logit_scale")
    renamed = {k if k.startswith(image) else f"text.{k}": v for k, v in state.items()}
    path = tmp_path / "custom.safetensors"
    safetensors.torch.save_file(renamed, path)
    record = towers.clip_record(config=CONFIG)
    one_BD, other_BD = (load_text_tower(record, weights=p)(TEXTS) for p in (weights, path))
    assert torch.equal(one_BD, other_BD)


def test_attributes_and_rows(tower: TextTower, weights: Path) -> None:
    image_side = load_encoder(towers.clip_record(config=CONFIG), weights=weights)
    assert tower.encoder_id == image_side.encoder_id
    assert (tower.dim, tower.context_length) == (48, 20)
    vectors_BD = tower(TEXTS)
    assert vectors_BD.dtype == torch.float32
    assert vectors_BD.device.type == "cpu"
    torch.testing.assert_close(vectors_BD.norm(dim=1), torch.ones(len(TEXTS)))
    assert tower([]).shape == (0, 48)


def test_many_texts_go_by_batches(tower: TextTower) -> None:
    texts = [f"number {number}" for number in range(600)]
    vectors_BD = tower(texts)
    assert vectors_BD.shape == (600, 48)
    torch.testing.assert_close(vectors_BD[599:], tower(texts[599:]), atol=1e-6, rtol=0)


def test_bfloat16_is_near(weights: Path, tower: TextTower) -> None:
    record = towers.clip_record(config=CONFIG)
    low = load_text_tower(record, weights=weights, dtype="bf16")
    assert low.dtype == torch.bfloat16
    cosines_B = (low(TEXTS) * tower(TEXTS)).sum(1)
    assert 0.99 < cosines_B.min() < 1 - 1e-7


def test_one_string_is_refused(tower: TextTower) -> None:
    with pytest.raises(ValueError, match="texts is the string 'a red'; give a list"):
        tower("a red")


def test_no_text_tower() -> None:
    with pytest.raises(ValueError, match="demo-dino was trained on images alone"):
        load_text_tower("demo-dino")
    other = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "hf_model_name": "some/bert"}}
    with pytest.raises(ValueError, match="its text tower is some/bert of transformers"):
        load_text_tower(towers.clip_record(config=other))


def test_an_image_tower_alone_is_refused(tmp_path: Path) -> None:
    path = towers.write_clip_weights(tmp_path / "visual.safetensors", CONFIG, layout="visual")
    with pytest.raises(ResourceError, match="has no text tower: none of its"):
        load_text_tower(towers.clip_record(config=CONFIG), weights=path)


def test_every_tensor_must_find_its_place(weights: Path, tmp_path: Path) -> None:
    state = safetensors.torch.load_file(weights)
    state["text_projection.bias"] = torch.zeros(48)
    del state["ln_final.bias"]
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file(state, path)
    told = r"1 \(ln_final.bias\) missing, 1 \(text_projection.bias\) not expected"
    with pytest.raises(ResourceError, match=told):
        load_text_tower(towers.clip_record(config=CONFIG), weights=path)


def test_demo_clip_finds_the_caption_of_a_scene(demo: TextTower) -> None:
    """Zero-shot among the captions of other scenes, through both towers."""
    rng = np.random.default_rng(5)
    drawn = [draw_scene(rng) for _ in range(24)]
    captions = [caption(scene) for scene in drawn]
    assert len(set(captions)) == len(captions)
    encoder = load_encoder("demo-clip")
    pixels = torch.stack([encoder.preprocess(render(scene)) for scene in drawn])
    cosines_BB = encoder(pixels) @ demo(captions).T
    hits = (cosines_BB.argmax(1) == torch.arange(len(drawn))).double().mean()
    assert hits >= 0.9


def test_demo_clip_reads_as_it_was_trained(demo: TextTower) -> None:
    record = find_record("demo-clip")
    assert record.config is not None
    model = open_clip.CLIP(**record.config)
    state = safetensors.torch.load_file(BUNDLED / "demo-clip.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    texts = ["a red circle on the meadow by day", "with two balloons"]
    with torch.inference_mode():
        expected_BD = model.eval().encode_text(tokenize(texts, WORDS, 16), normalize=True)
    torch.testing.assert_close(demo(texts), expected_BD, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_full_size_text_tower(large_clip: Path) -> None:
    config = open_clip.get_model_config("ViT-L-14-quickgelu")
    vectors_BD = load_text_tower("clip-vit-l-14", weights=large_clip)(TEXTS)
    expected_BD = reference(large_clip, config, TEXTS)
    torch.testing.assert_close(vectors_BD, expected_BD, atol=1e-5, rtol=0)
