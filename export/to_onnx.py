"""Checkpoint to ONNX: one graph from uint8 pixels to unit vectors, with its weights beside it.

    vectors.onnx        the graph; names the record, the precision and the weights' sha256
    vectors.onnx.data   the weights

The weights always lie apart: a protobuf ends at 2 GB, and a file that is not parsed can be mapped
into memory. Since the graph names their hash, the graph's own hash stands for both files, and it
depends on nothing but the record, the precision and the versions of torch and its exporter.

    B images; C, H, W channels, rows, columns
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from miner.encoders import TorchEncoder
from miner.engine_onnx import INPUT, OUTPUT
from miner.errors import EngineError
from miner.records import canonical, file_sha256

OPSET = 23
"""The first with `Attention` as a node of its own."""

GRAPH_FILE = "vectors.onnx"

WEIGHTS_FILE = f"{GRAPH_FILE}.data"

_WHOLE = {
    "aten.scaled_dot_product_attention.default": "Attention",
    "aten.layer_norm.default": "LayerNormalization",
}
"""What torch computes as a whole, and the node that has to come of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFiles:
    """An encoder as ONNX.

    Attributes:
        graph: path of the graph; the weights lie beside it.
        sha256: of the graph, which stands for the weights too.
        nodes: number of `Attention` and of `LayerNormalization` nodes.
    """

    graph: Path
    sha256: str
    nodes: dict[str, int]


def export_onnx(encoder: TorchEncoder, folder: Path) -> OnnxFiles:
    """Write an encoder's graph and weights, and check that attention and normalisation are whole.

    Args:
        encoder: on the CPU; its dtype becomes the graph's precision.
        folder: gets both files; has to be there.

    Raises:
        EngineError: the exporter took an attention or a normalisation apart.
    """
    import onnx

    graph = folder / GRAPH_FILE
    wanted = _write(encoder, graph)
    # The protobuf that torch wrote tells where each node comes from, with paths of this machine.
    model = onnx.load(graph, load_external_data=False)
    found = _whole_nodes(model.graph)
    check_whole(encoder.encoder_id, wanted, found)
    _strip(model.graph)
    onnx.helper.set_model_props(
        model,
        {
            "encoder_id": encoder.encoder_id,
            "record": canonical(encoder.record.model_dump(mode="json")),
            "precision": encoder.precision,
            "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        },
    )
    graph.write_bytes(model.SerializeToString(deterministic=True))
    # By its path, since the weights lie beside it.
    onnx.checker.check_model(graph)
    return OnnxFiles(graph=graph, sha256=file_sha256(graph), nodes=found)


def _write(encoder: TorchEncoder, graph: Path) -> Counter[str]:
    """Export with any batch; returns what torch computes as a whole, by the nodes' names."""
    size = encoder.record.image_size
    # Not 1, which would be taken for a constant.
    example_BCHW = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    shapes = {"pixels_BCHW": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(encoder.module, (example_BCHW,), dynamic_shapes=shapes)
        made = torch.onnx.export(
            program,
            dynamic_shapes=shapes,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    made.save(graph, external_data=True)
    targets = Counter(str(node.target) for node in program.graph.nodes)
    return Counter({_WHOLE[name]: targets[name] for name in _WHOLE})


def check_whole(encoder_id: str, wanted: Counter[str], found: dict[str, int]) -> None:
    """Hold an exported graph against what torch computes.

    Raises:
        EngineError: an attention or a normalisation is in parts.
    """
    lost = [
        f"{found[name]} of {wanted[name]} as {name}" for name in found if found[name] < wanted[name]
    ]
    if lost:
        raise EngineError(
            f"{encoder_id}: torch {torch.__version__} exported {' and '.join(lost)}, the others in "
            "parts, which is slow and less exact; use --backend compile, or another version of "
            "torch"
        )


def _whole_nodes(graph: Any) -> dict[str, int]:
    counts = Counter(node.op_type for node in graph.node)
    return {name: counts[name] for name in _WHOLE.values()}


def _strip(graph: Any) -> None:
    """Remove what does not belong to the computation: notes of the exporter on every node."""
    for part in _parts(graph):
        del part.metadata_props[:]
        part.doc_string = ""


def _parts(graph: Any) -> Iterator[Any]:
    yield graph
    for parts in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        yield from parts
