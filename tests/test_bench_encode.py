"""The benchmark of the encoders: a tower's work, eight-bit layers, and the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from matplotlib import image

from bench import encode, encode_rows, plot_encode
from bench.attention import attend, use_attend
from bench.fp8 import Float8Linear, quantised, use_float8
from bench.rows import append_rows, blank_row, read_rows
from bench.towers import TOWERS, load_seeded, seeded, work_of
from miner.encoders import find_record
from miner.engine_compile import inference_module
from miner.fused import Linear
from miner.libraries import build_tower
from miner.vit_parts import LinearParts
from pipelines.estimates import flops_per_image
from tests.towers import scenes


@pytest.mark.parametrize(
    "name", [*TOWERS, "clip-vit-l-14-336", "dinov2-vit-l-14-reg", "demo-clip", "demo-dino"]
)
def test_a_towers_work_is_what_torch_counts(name: str) -> None:
    record = find_record(name)
    with torch.device("meta"):
        tower = build_tower(record)
    assert work_of(record, tower).flops == flops_per_image(record)


def test_a_tower_that_is_no_vit_is_refused() -> None:
    record = find_record("demo-clip")
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Conv2d(4, 4, 2))
    with pytest.raises(ValueError, match="demo-clip has 2 convolutions; a ViT has one"):
        work_of(record, tower)


def test_eight_bit_layers_are_near_and_count_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 7, 64, generator=generator).bfloat16()
    weight = torch.randn(32, 64, generator=generator) / 8
    layer = Linear(LinearParts(weight=weight, bias=torch.randn(32)), torch.bfloat16)
    truth = layer(inputs).float()
    outputs = Float8Linear(layer)(inputs)
    assert outputs.shape == (5, 7, 32)
    assert outputs.dtype == torch.bfloat16
    # e4m3 keeps 4 bits: 64 products of about 6 % each, at random.
    assert (outputs.float() - truth).norm() / truth.norm() < 0.06
    assert not torch.equal(outputs.float(), truth)


def test_experiments_change_a_fused_encoder_but_not_what_it_computes(tmp_path: Path) -> None:
    truth = load_seeded("demo-dino", "cpu", "fp32", seeded("demo-dino", tmp_path))
    pixels_BCHW = torch.stack([truth.preprocess(image) for image in scenes(6)])
    encoders = [inference_module(truth, torch.float32) for _ in range(3)]
    assert use_attend(encoders[1]) == 2
    assert all(block.attention is attend for block in encoders[1].blocks[:-1])
    assert use_float8(encoders[2].to(torch.bfloat16)) == 8
    # Attention over 17 tokens is not for the kernel, and it says so.
    with pytest.raises(ValueError, match="attention over 17 tokens"):
        encoders[1](pixels_BCHW)


def test_rows_of_zeros_stay_zeros() -> None:
    rows, scales = quantised(torch.tensor([[0.0, 0.0], [3.0, -6.0]]))
    assert rows.float().tolist() == [[0.0, 0.0], [224.0, -448.0]]
    assert scales.isfinite().all()


def run(*words: object) -> str:
    done = CliRunner().invoke(encode.main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_measures_refuses_wrong_encoders_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "encode.csv"
    for module in (encode, encode_rows):
        monkeypatch.setattr(module, "TOWERS", ("demo-clip", "demo-dino"))
    words = ("--towers", "demo-clip,demo-dino", "--batch-size", 4, "--repeats", 2, "--out", out)
    run("--providers", "stock-fp32,onnx-fp32", *words)
    rows = read_rows(out)
    rates = {(row.data, row.provider): row.median for row in rows if row.metric == "images/s"}
    for data in ("demo-clip", "demo-dino", "both towers"):
        for provider in ("stock-fp32", "onnx-fp32", "bound"):
            assert rates[data, provider], (data, provider)
    deviations = [row.median for row in rows if row.metric == "pair deviation"]
    assert len(deviations) == 4
    assert all(value is not None and value < 1e-5 for value in deviations)
    assert {"time / stock-fp32", "share of the bound", "matmul", "attention"} <= {
        row.metric for row in rows
    }
    picture = tmp_path / "encode.png"
    drawn = CliRunner().invoke(plot_encode.main, [str(out), str(picture)])
    assert drawn.exit_code == 0, drawn.output
    assert len(set(image.imread(picture)[:, :, 0].ravel().tolist())) > 20
    # The file has all of that.
    run("--providers", "stock-fp32,onnx-fp32", *words)
    assert len(read_rows(out)) == len(rows)
    # An encoder whose cosines are wrong gets a row without a figure.
    monkeypatch.setattr(encode, "deviation", lambda *arguments: 0.5)
    run("--providers", "stock-bf16", *words)
    (wrong, _) = [row for row in read_rows(out) if row.provider == "stock-bf16"]
    assert (wrong.median, wrong.note) == (None, "pair cosines are off by 5.00e-01, limit 5e-03")


def test_nothing_to_draw(tmp_path: Path) -> None:
    append_rows(tmp_path / "other.csv", [blank_row("encode")])
    words = [str(tmp_path / "other.csv"), str(tmp_path / "no.png")]
    drawn = CliRunner().invoke(plot_encode.main, words)
    assert drawn.exit_code == 1
    assert "no images/s of both towers; run bench.encode first" in drawn.output


def test_words_that_are_no_provider_or_none_here() -> None:
    for words, message in (
        (["--providers", "nobody"], "provider 'nobody' is unknown; there are stock-fp32"),
        (["--providers", "tensorrt-fp16"], "tensorrt-fp16 cannot run on cpu: needs cuda"),
        (["--device", "cuda"], "there is no CUDA device here; give --device cpu"),
    ):
        if words[0] == "--device" and torch.cuda.is_available():
            continue
        done = CliRunner().invoke(encode.main, words)
        assert done.exit_code == 2
        assert message in done.output


def test_seeded_weights_are_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = (seeded("demo-dino", tmp_path / folder) for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
