"""What a plan rests on: counted, measured in a moment, or scaled up from a sample."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from miner.config import EmbedSettings, ExcludeSettings, JoinSettings, ReadSettings
from miner.copies import equal_bytes, stand_for
from miner.encoders import EncoderModule
from miner.implementations import candidates
from miner.libraries import build_tower
from miner.registry import EncoderRecord
from miner.rows import joined_shards, load_rows, vectors_of
from miner.samples import ShardReader
from miner.shards import Shard
from miner.store import Store
from pipelines.joins import encoders_of, with_own_thresholds
from pipelines.modes import JOIN_SAMPLE

SAMPLES_READ = 200
"""Samples that are read to learn how many images the shards hold."""

MATMUL_SHAPE = (2048, 1024, 4096)
"""Rows, depth and columns of the product whose speed stands for the encoders'."""


def flops_per_image(record: EncoderRecord) -> int:
    """Floating-point operations for one image, counted over the model's own forward pass."""
    with torch.device("meta"):
        module = EncoderModule(record, build_tower(record), torch.float32).requires_grad_(False)
        pixels_BCHW = torch.empty(1, 3, record.crop.size, record.crop.size, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            module(pixels_BCHW)
    return int(counter.get_total_flops())


def matmul_flops_per_s(device: str, dtype: torch.dtype) -> float:
    """The rate of a matrix product of an encoder's shape, over about a second."""
    rows, depth, columns = MATMUL_SHAPE
    a = torch.ones(rows, depth, device=device, dtype=dtype)
    b = torch.ones(depth, columns, device=device, dtype=dtype)
    best = 0.0
    end_s = time.perf_counter() + 1.0
    while time.perf_counter() < end_s or best == 0.0:
        start_s = time.perf_counter()
        product = a @ b
        product[0, 0].item()
        best = max(best, 2 * rows * depth * columns / (time.perf_counter() - start_s))
    return best


def estimate_images(listed: list[Shard], read: ReadSettings) -> tuple[int, str]:
    """Images by the bytes of the first samples; counted where there are no more than those."""
    num_samples = bytes_read = 0
    for shard in listed:
        reader = ShardReader(shard, read)
        sizes = [
            len(getattr(item, "data", b"")) for item in islice(reader, SAMPLES_READ - num_samples)
        ]
        num_samples += len(sizes)
        bytes_read += sum(sizes)
        if num_samples >= SAMPLES_READ:
            break
    else:
        return num_samples, "counted"
    total = sum(shard.num_bytes for shard in listed)
    how = f"from the first {num_samples} samples"
    if ReadSettings().part(ExcludeSettings) != read.part(ExcludeSettings):
        how += ", those that will be excluded among them"
    return round(total * num_samples / max(bytes_read, 1)), how


def expected_pairs(
    store: Store | None, encode: EmbedSettings, how: JoinSettings, num_images: int
) -> tuple[str, str]:
    """Candidates and blind pairs by those among a sample of an earlier run, scaled by the pairs."""
    if store is None or not store.exists():
        return ("unknown; embed a few shards and give that run as --out",) * 2
    clip, dino = encoders_of(store, encode.clip, encode.dino)
    if not joined_shards(store, clip, dino):
        return ("unknown; the run given as --out has no shard with both vectors",) * 2
    rows = load_rows(store, clip, dino)
    distinct, _ = stand_for(equal_bytes(rows.sha256), rows.duplicates)
    picked = np.random.default_rng(0).permutation(distinct)[:JOIN_SAMPLE]
    sample = [rows.image_ids[place] for place in np.sort(picked)]
    clip_ND, dino_NE = (
        torch.from_numpy(np.stack([vectors[image_id] for image_id in sample]))
        for vectors in (vectors_of([store], encoder_id, sample) for encoder_id in (clip, dino))
    )
    how = with_own_thresholds(store, clip, dino, how.part(JoinSettings))
    num_candidates = num_blind = 0
    for found in candidates("cpu", (clip_ND, None), (dino_NE, None), clip_above=how.clip_above):
        num_candidates += len(found)
        num_blind += int((found.dino_cos < how.dino_below).sum())
    scale = num_images * (num_images - 1) / max(len(sample) * (len(sample) - 1), 1)
    basis = f"among {len(sample):,} distinct images of {store.root}, scaled by the number of pairs"
    return (
        f"about {round(num_candidates * scale):,} ({num_candidates} {basis})",
        f"about {round(num_blind * scale):,} ({num_blind} of those)",
    )
