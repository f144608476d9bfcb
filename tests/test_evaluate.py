"""Both towers of a real small encoder on scenes whose difference it can, or cannot, see."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import scipy.stats
import torch
from PIL import Image

from miner.encoders import TorchEncoder, load_encoder
from miner.errors import LabelError
from miner.evaluate import Evaluation, evaluate, figures
from miner.measuring.labelled import ImageSource, Item, Question
from miner.measuring.layouts import read_labelled
from miner.registry import BUNDLED
from miner.text import TextTower, load_text_tower
from pipelines.demo_training import WORDS, tokenize
from tests import towers
from tests.labelled_sets import twins, write_jsonl, write_whatsup
from tests.test_text import CONFIG


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    return load_encoder("demo-clip")


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return load_text_tower("demo-clip")


@pytest.fixture(scope="module")
def hidden(
    tmp_path_factory: pytest.TempPathFactory, encoder: TorchEncoder, tower: TextTower
) -> Evaluation:
    path = write_jsonl(tmp_path_factory.mktemp("hidden"), twins(42, "hidden"))
    return evaluate(read_labelled(path, "jsonl"), encoder, tower)


def share(found: Evaluation, subset: str, measure: str, ways: int | None = None) -> float:
    figure = found.figure(subset, measure, ways)
    assert figure is not None
    return figure.estimate.value


def test_what_captions_name_is_seen(
    tmp_path: Path, encoder: TorchEncoder, tower: TextTower
) -> None:
    labelled = read_labelled(write_jsonl(tmp_path, twins(20)), "jsonl")
    found = evaluate(labelled, encoder, tower)
    for measure in ("individual", "pair", "pair_by_statement", "both", "relaxed"):
        assert share(found, "all", measure) >= 0.9, measure
    assert share(found, "all", "cosine") < 0.9
    assert found.model == "demo-clip-8b8084e8" == encoder.encoder_id


def test_what_they_do_not_name_is_not(hidden: Evaluation) -> None:
    assert share(hidden, "all", "pair") <= 0.3
    assert share(hidden, "all", "both") <= 0.3
    assert 0.35 <= share(hidden, "all", "individual") <= 0.65
    assert share(hidden, "all", "cosine") > 0.97
    assert share(hidden, "all", "spearman") > 0.95


def test_subsets_add_up(hidden: Evaluation) -> None:
    subsets = [f.subset for f in hidden.figures if f.measure == "pair"]
    assert subsets[-1] == "all"
    assert len(subsets) == 8
    pairs = [hidden.figure(subset, "pair") for subset in subsets]
    hits = [round(f.estimate.value * f.estimate.num) for f in pairs if f is not None]
    assert sum(hits[:-1]) == hits[-1]
    of_all = hidden.figure("all", "individual")
    assert of_all is not None
    assert of_all.estimate.num == 2 * len(hidden.outcomes)
    assert hidden.figure("nothing", "pair") is None


def test_equals_an_evaluation_by_other_means(hidden: Evaluation) -> None:
    """open_clip's model as a whole, torchless figures by numpy and scipy."""
    pairs = twins(42, "hidden")
    record = load_encoder("demo-clip").record
    assert record.config is not None
    model = open_clip.CLIP(**record.config).eval()
    state = safetensors.torch.load_file(BUNDLED / "demo-clip.safetensors")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    images = [
        Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
        for pair in pairs
        for data in pair.images
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    inputs = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    texts = [text for pair in pairs for text in pair.statements]
    with torch.inference_mode():
        image_ND = model.encode_image(inputs, normalize=True).double().numpy()
        text_ND = model.encode_text(tokenize(texts, WORDS, 16), normalize=True).double().numpy()
    scores = np.einsum("pid,psd->pis", image_ND.reshape(42, 2, -1), text_ND.reshape(42, 2, -1))
    margin = (scores[:, [0, 1], [0, 1]] - scores[:, [0, 1], [1, 0]]) > 0
    ours = np.array([outcome["individual", 2] for outcome in hidden.outcomes])
    clear = np.abs(scores[:, [0, 1], [0, 1]] - scores[:, [0, 1], [1, 0]]) > 1e-4
    assert clear.mean() > 0.9
    assert (margin == ours)[clear].all()
    rho = [scipy.stats.spearmanr(*pair).statistic for pair in image_ND.reshape(42, 2, -1)]
    ours_rho = [outcome["spearman", 0][0] for outcome in hidden.outcomes]
    assert np.allclose(rho, ours_rho, atol=2e-3)


def test_sets_of_four(tmp_path: Path, encoder: TorchEncoder, tower: TextTower) -> None:
    labelled = read_labelled(write_whatsup(tmp_path, twins(8)), "whatsup")
    found = evaluate(labelled, encoder, tower)
    assert labelled.num_statements == 4
    four = found.figure("all", "set_of_4", 4)
    assert four is not None
    assert (four.estimate.num, four.chance) == (4, 0.25**4)
    right = [
        all(outcome["pair", 4][0] for outcome in found.outcomes[first : first + 2])
        for first in (0, 2, 4, 6)
    ]
    assert four.estimate.value == np.mean(right)
    assert four.estimate.value > 0.5
    assert share(found, "A left/right", "individual", 4) <= share(
        found, "A left/right", "individual", 2
    )
    chances = {(f.measure, f.num_statements): f.chance for f in found.figures}
    assert chances["individual", 4] == 0.25
    assert chances["pair", 4] == 0.0625
    assert chances["pair", 2] == 0.25
    assert chances["both", 2] == pytest.approx(4 / 24)


def test_half_a_set_of_four_is_none() -> None:
    source = ImageSource(name="none", read=bytes)
    question = Question(id="1", options=("x", "y"), right=0)
    items = [
        Item(
            name=str(number),
            subset="s",
            images=(source, source),
            statements=("a", "b", "c", "d"),
            questions=(question, question),
            group=group,
        )
        for number, group in enumerate(["g", "g", "h", "i", "i"])
    ]
    outcomes = [{("pair", 4): [right]} for right in (True, True, True, True, False)]
    (four,) = [figure for figure in figures(items, outcomes) if figure.measure == "set_of_4"]
    assert (four.estimate.value, four.estimate.num) == (0.5, 2)


def test_the_prompt_goes_around_each_statement(
    tmp_path: Path, encoder: TorchEncoder, tower: TextTower
) -> None:
    labelled = read_labelled(write_jsonl(tmp_path, twins(3)), "jsonl")
    found = evaluate(labelled, encoder, tower, prompt="there is {}")
    assert "a statement is read as 'there is {}'" in found.notes
    ours = tower([f"there is {pair.statements[0]}" for pair in twins(3)]).double()
    plain = tower([pair.statements[0] for pair in twins(3)]).double()
    assert (ours - plain).abs().max() > 0.01
    with pytest.raises(ValueError, match="does not know the word 'unheard'"):
        evaluate(labelled, encoder, tower, prompt="unheard {}")
    with pytest.raises(ValueError, match=r"the prompt 'a photo' has no \{\} where"):
        evaluate(labelled, encoder, tower, prompt="a photo")


def test_towers_of_two_encoders(hidden: Evaluation, encoder: TorchEncoder, tmp_path: Path) -> None:
    path = towers.write_clip_weights(tmp_path / "clip.safetensors", CONFIG)
    other = load_text_tower(towers.clip_record(config=CONFIG), weights=path)
    with pytest.raises(ValueError, match="the towers are of demo-clip-8b8084e8 and small-clip-"):
        evaluate(hidden.labelled, encoder, other)


def test_a_bad_image_is_named(tmp_path: Path, encoder: TorchEncoder, tower: TextTower) -> None:
    path = write_jsonl(tmp_path, twins(2))
    labelled = read_labelled(path, "jsonl")
    (tmp_path / "1_2.jpg").write_bytes(b"<html>")
    with pytest.raises(LabelError, match=r"the image 1_2.jpg cannot be read \(.*format"):
        evaluate(labelled, encoder, tower)
    (tmp_path / "1_2.jpg").unlink()
    with pytest.raises(LabelError, match=r"the image 1_2.jpg cannot be read \(.*No such file"):
        evaluate(labelled, encoder, tower)


def test_relaxed_leaves_out_what_is_not_positive(
    tmp_path: Path, encoder: TorchEncoder, tower: TextTower
) -> None:
    """demo-clip gives a scene and a sentence about quite another one a negative cosine."""
    pairs = twins(6)
    path = write_jsonl(tmp_path, pairs)
    pixels = encoder.preprocess(Image.open(io.BytesIO(pairs[0].images[0])))[None]
    far = [text for pair in twins(20) for text in pair.statements]
    cosines = (encoder(pixels) @ tower(far).T)[0].tolist()
    assert min(cosines) < 0
    text = path.read_text().replace(pairs[0].statements[1], far[int(np.argmin(cosines))], 1)
    path.write_text(text)
    found = evaluate(read_labelled(path, "jsonl"), encoder, tower)
    assert [len(outcome["relaxed", 2]) for outcome in found.outcomes] == [0, 1, 1, 1, 1, 1]
    figure = found.figure("all", "relaxed")
    assert figure is not None
    assert figure.estimate.num == 5
    assert any(note.startswith("relaxed is of 5 of 6 pairs") for note in found.notes)
