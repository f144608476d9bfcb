"""The peer of the pipeline: how clip-retrieval goes about it, once for each encoder.

webdataset in a DataLoader whose workers decode and preprocess by Pillow to float32, then the model,
batch by batch; vectors and metadata are kept in memory and written when all is done.

Shape suffixes: N images, B images of a batch, D width of a vector; S side of a crop.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image
from torchvision import transforms

from miner.encoders import TorchEncoder
from miner.registry import EncoderRecord


class Preprocess:
    """A sample's bytes to what the model takes, as clip-retrieval's reader does it."""

    def __init__(self, record: EncoderRecord) -> None:
        self._transform = transforms.Compose(
            [
                transforms.Resize(
                    record.crop.resize_to, transforms.InterpolationMode.BICUBIC, antialias=True
                ),
                transforms.CenterCrop(record.crop.size),
                transforms.ToTensor(),
                transforms.Normalize(record.mean, record.std),
            ]
        )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Float32 pixels [3, S, S], the key and the other members' text."""
        image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        return {
            "pixels": self._transform(image),
            "key": sample["__key__"],
            "metadata": sample["json"].decode("utf-8"),
        }


@torch.inference_mode()
def retrieve(
    shards: Sequence[str], encoder: TorchEncoder, folder: Path, *, batch_size: int, num_workers: int
) -> dict[str, np.ndarray]:
    """One encoder over all shards: `img_emb_0.npy` and `metadata_0.parquet` in a folder.

    Returns:
        Vectors by key.
    """
    stages = webdataset.WebDataset(
        list(shards), shardshuffle=False, nodesplitter=None, empty_check=False
    ).map(Preprocess(encoder.record))
    loader = torch.utils.data.DataLoader(
        stages, batch_size=batch_size, num_workers=num_workers, prefetch_factor=2
    )
    vectors, keys, metadata = [], [], []
    for batch in loader:
        pixels_BCHW = batch["pixels"].to(encoder.device, encoder.dtype)
        vectors_BD = encoder.module._pooled(pixels_BCHW).float()
        vectors_BD /= vectors_BD.norm(dim=-1, keepdim=True)
        vectors.append(vectors_BD.cpu().numpy())
        keys += batch["key"]
        metadata += batch["metadata"]
    vectors_ND = np.concatenate(vectors)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb_0.npy", vectors_ND.astype(np.float16))
    rows = [
        {"image_path": key, **json.loads(text)} for key, text in zip(keys, metadata, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata_0.parquet")
    return dict(zip(keys, vectors_ND, strict=True))
