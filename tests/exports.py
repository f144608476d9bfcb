"""Demo encoders and their graphs, exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.to_onnx import OnnxFiles, export_onnx
from miner.encoders import TorchEncoder, find_record, load_encoder
from tests import towers

DEMO = ("demo-clip", "demo-dino")

Export = Callable[[str, str], tuple[TorchEncoder, OnnxFiles]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`exported(name, precision)`: a demo encoder on the CPU, and its graph."""
    made: dict[tuple[str, str], tuple[TorchEncoder, OnnxFiles]] = {}

    def export_once(name: str, precision: str) -> tuple[TorchEncoder, OnnxFiles]:
        if (name, precision) not in made:
            encoder = load_encoder(name, dtype=precision)
            folder = tmp_path_factory.mktemp(f"{name}-{precision}")
            made[name, precision] = encoder, export_onnx(encoder, folder)
        return made[name, precision]

    return export_once


LargeWeights = Callable[[str], Path]


@pytest.fixture(scope="session")
def large_weights(tmp_path_factory: pytest.TempPathFactory) -> LargeWeights:
    """`large_weights(name)`: a file of seeded weights at a registry encoder's full size."""
    made: dict[str, Path] = {}

    def write_once(name: str) -> Path:
        if name not in made:
            path = tmp_path_factory.mktemp("large") / f"{name}.safetensors"
            made[name] = towers.write_large_weights(find_record(name), path)
        return made[name]

    return write_once


@pytest.fixture(scope="session")
def large_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of seeded weights of both towers of the default CLIP, at its full size."""
    path = tmp_path_factory.mktemp("large") / "clip.safetensors"
    return towers.write_clip_weights(path, "ViT-L-14-quickgelu")


def pixels_of(encoder: TorchEncoder, number: int) -> torch.Tensor:
    """[B, 3, S, S] uint8 of scenes, as the encoder wants them."""
    return torch.stack([encoder.preprocess(image) for image in towers.scenes(number)])


def loss(vectors_BD: torch.Tensor, truth_BD: torch.Tensor) -> float:
    """The largest 1 - cos between rows."""
    vectors_BD, truth_BD = vectors_BD.cpu().double(), truth_BD.cpu().double()
    return (1 - (vectors_BD * truth_BD).sum(-1)).abs().max().item()


def deviation(vectors_BD: torch.Tensor, truth_BD: torch.Tensor) -> float:
    """The largest difference of a pair's cosine."""
    vectors_BD, truth_BD = vectors_BD.cpu().double(), truth_BD.cpu().double()
    return (vectors_BD @ vectors_BD.T - truth_BD @ truth_BD.T).abs().max().item()


def spread(vectors_BD: torch.Tensor) -> float:
    """How far the cosines of pairs lie apart: where they do not, equality proves nothing."""
    cosines = (vectors_BD @ vectors_BD.T).flatten()
    return (cosines.max() - cosines.min()).item()
