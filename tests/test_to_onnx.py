"""Exported graphs compute what TorchEncoder computes, as whole nodes, and are the same every time.

B images, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

import export.to_onnx
from export.to_onnx import GRAPH_FILE, WEIGHTS_FILE, OnnxFiles, check_whole, export_onnx
from miner.encoders import TorchEncoder, load_encoder
from miner.engine_onnx import OnnxEncoder
from miner.errors import EngineError
from miner.records import canonical, file_sha256
from tests import towers
from tests.exports import DEMO, Export, LargeWeights, loss, pixels_of, spread

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-6

EXPORTER = """
import sys
from pathlib import Path
from export.to_onnx import export_onnx
from miner.encoders import load_encoder
print(export_onnx(load_encoder("demo-dino"), Path(sys.argv[1])).sha256)
"""


def by_runtime(encoder: TorchEncoder, files: OnnxFiles) -> OnnxEncoder:
    return OnnxEncoder(
        encoder.record,
        files.graph,
        device=torch.device("cpu"),
        precision=encoder.precision,
        deviation=0.0,
    )


@pytest.mark.parametrize("name", DEMO)
def test_graph_computes_what_torch_computes(exported: Export, name: str) -> None:
    encoder, files = exported(name, "fp32")
    pixels_BCHW = pixels_of(encoder, 24)
    truth_BD = encoder(pixels_BCHW)
    assert spread(truth_BD) > 0.5
    vectors_BD = by_runtime(encoder, files)(pixels_BCHW)
    assert loss(vectors_BD, truth_BD) <= TOLERANCE
    assert (vectors_BD.norm(dim=-1) - 1).abs().max() <= TOLERANCE


@pytest.mark.parametrize("number", [1, 2, 7])
def test_any_batch_is_taken(exported: Export, number: int) -> None:
    encoder, files = exported("demo-clip", "fp32")
    pixels_BCHW = pixels_of(encoder, number)
    assert loss(by_runtime(encoder, files)(pixels_BCHW), encoder(pixels_BCHW)) <= TOLERANCE


@pytest.mark.parametrize("name", DEMO)
def test_half_precision_graph_is_that_of_the_half_precision_module(
    exported: Export, name: str
) -> None:
    encoder, files = exported(name, "fp16")
    pixels_BCHW = pixels_of(encoder, 12)
    # Both round to float16, at other places.
    assert loss(by_runtime(encoder, files)(pixels_BCHW), encoder(pixels_BCHW)) <= 1e-5


@pytest.mark.parametrize("name", DEMO)
@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        ("fp32", onnx.TensorProto.FLOAT),
        ("fp16", onnx.TensorProto.FLOAT16),
        ("bf16", onnx.TensorProto.BFLOAT16),
    ],
)
def test_precision_lies_in_the_graph(
    exported: Export, name: str, precision: str, wanted: int
) -> None:
    _, files = exported(name, precision)
    model = onnx.load(files.graph, load_external_data=False)
    types = Counter(tensor.data_type for tensor in model.graph.initializer if tensor.dims)
    # Mean and deviation of the pixels stay float32 in any case.
    types[onnx.TensorProto.FLOAT] -= 0 if precision == "fp32" else 2
    assert {kind for kind, number in types.items() if number} - {onnx.TensorProto.INT64} == {wanted}
    ends = [*model.graph.input, *model.graph.output]
    assert [(end.name, end.type.tensor_type.elem_type) for end in ends] == [
        ("pixels", onnx.TensorProto.UINT8),
        ("vectors", onnx.TensorProto.FLOAT),
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", DEMO)
def test_lengths_are_computed_in_float32(exported: Export, name: str, precision: str) -> None:
    _, files = exported(name, precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(files.graph, load_external_data=False))
    (norm,) = [node for node in model.graph.node if node.op_type == "ReduceL2"]
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert types[norm.input[0]] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("name", DEMO)
def test_shapes_are_static_but_for_the_batch(exported: Export, name: str) -> None:
    encoder, files = exported(name, "fp32")
    graph = onnx.load(files.graph, load_external_data=False).graph
    size = encoder.record.image_size
    dims = [
        [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        for end in (*graph.input, *graph.output)
    ]
    assert dims == [["batch", 3, size, size], ["batch", encoder.dim]]


@pytest.mark.parametrize("name", DEMO)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_attention_and_normalisation_are_whole(exported: Export, name: str, precision: str) -> None:
    encoder, files = exported(name, precision)
    norms = [m for m in encoder.module.modules() if isinstance(m, torch.nn.LayerNorm)]
    blocks = encoder.record.config or {}
    depth = blocks["vision_cfg"]["layers"] if name == "demo-clip" else blocks["depth"]
    assert files.nodes == {"Attention": depth, "LayerNormalization": len(norms)}
    model = onnx.load(files.graph, load_external_data=False)
    found = Counter(node.op_type for node in model.graph.node)
    assert {kind: found[kind] for kind in files.nodes} == files.nodes
    assert found["Softmax"] == found["ReduceMean"] == 0
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]


def test_an_attention_in_parts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before opset 23 there is no such node, so the exporter takes it apart."""
    monkeypatch.setattr(export.to_onnx, "OPSET", 22)
    with pytest.raises(EngineError, match=r"demo-dino-.* exported 0 of 3 as Attention, the others"):
        export_onnx(load_encoder("demo-dino"), tmp_path)


def test_a_normalisation_in_parts_is_refused() -> None:
    wanted = Counter({"Attention": 3, "LayerNormalization": 7})
    check_whole("e", wanted, {"Attention": 3, "LayerNormalization": 7})
    with pytest.raises(EngineError, match=r"exported 6 of 7 as LayerNormalization, the others"):
        check_whole("e", wanted, {"Attention": 3, "LayerNormalization": 6})


def test_graph_is_the_same_in_every_process(exported: Export, tmp_path: Path) -> None:
    _, files = exported("demo-dino", "fp32")
    words = [sys.executable, "-c", EXPORTER, str(tmp_path)]
    # Another order of hashes, another folder, another process.
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    ran = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [files.sha256]
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        assert file_sha256(tmp_path / name) == file_sha256(files.graph.with_name(name))


def test_graph_stands_for_its_weights(exported: Export, tmp_path: Path) -> None:
    """Other weights of the same shapes give another hash of the graph."""
    paths = [
        towers.write_clip_weights(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)
    ]
    record = towers.clip_record()
    made = []
    for path in paths:
        folder = tmp_path / path.stem
        folder.mkdir()
        # The record without its hash, so that nothing but the weights differs.
        encoder = load_encoder(record, weights=path)
        encoder.record, encoder.encoder_id = record, "small-clip"
        made.append(export_onnx(encoder, folder))
    assert made[0].sha256 != made[1].sha256
    named = onnx.load(made[0].graph, load_external_data=False).metadata_props
    sha256 = {entry.key: entry.value for entry in named}["weights_sha256"]
    assert sha256 == file_sha256(made[0].graph.with_name(WEIGHTS_FILE))


def test_graph_names_its_encoder_and_no_path(exported: Export) -> None:
    encoder, files = exported("demo-clip", "fp16")
    named = onnx.load(files.graph, load_external_data=False).metadata_props
    facts = {entry.key: entry.value for entry in named}
    assert facts["encoder_id"] == encoder.encoder_id
    assert facts["precision"] == "fp16"
    assert facts["record"] == canonical(encoder.record.model_dump(mode="json"))
    content = files.graph.read_bytes()
    assert b"site-packages" not in content
    assert str(ROOT).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-vit-l-14", "dinov2-vit-l-14"])
def test_full_size_graph_computes_what_torch_computes(
    name: str, large_weights: LargeWeights, tmp_path: Path
) -> None:
    encoder = load_encoder(name, weights=large_weights(name))
    files = export_onnx(encoder, tmp_path)
    norms = [m for m in encoder.module.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert files.nodes == {"Attention": 24, "LayerNormalization": len(norms)}
    pixels_BCHW = pixels_of(encoder, 4)
    truth_BD = encoder(pixels_BCHW)
    assert spread(truth_BD) > 0.5
    assert loss(by_runtime(encoder, files)(pixels_BCHW), truth_BD) <= TOLERANCE
