"""What a run would cost and give, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.pace import pair_s
from kernels.prepare import WIDTHS
from miner.config import EmbedSettings, ExcludeSettings, JoinSettings, ReadSettings
from miner.copies import equal_bytes, stand_for
from miner.encoders import EncoderModule, find_record
from miner.implementations import candidates, implementation, why_chosen
from miner.libraries import build_tower
from miner.registry import EncoderRecord
from miner.rows import joined_shards, load_rows, vectors_of
from miner.samples import ShardReader
from miner.shards import Shard, list_shards
from miner.store import Store
from pipelines.driver import device_of
from pipelines.fleet import FLEETS, HOPPER_FLOPS_PER_S, Corpus, share
from pipelines.joins import encoders_of, with_own_thresholds
from pipelines.modes import JOIN_SAMPLE, Sampled, costs, sample_candidates

SAMPLES_READ = 200
"""Samples that are read to learn how many images the shards hold."""

CODE_BYTES = 140
"""Bytes that a join on CPU cores holds of each image: its code and its place."""

MATMUL_SHAPE = (2048, 1024, 4096)
"""Rows, depth and columns of the product whose speed stands for the encoders'."""


MINUTE_S = 60


def make_plan(
    patterns: Sequence[str],
    read: ReadSettings,
    encode: EmbedSettings,
    how: JoinSettings,
    store: Store | None,
) -> list[tuple[str, str]]:
    """Estimate a run.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        read: how shards would be read.
        encode: which encoders, on what.
        how: which pairs would be blind.
        store: a run with vectors of the same encoders and a like corpus, to learn from.

    Returns:
        Names and values for people; what was measured, what was calculated and from what.

    Raises:
        MinerError: shards cannot be listed or read.
        ValueError: another run was given to join against.
    """
    if how.against is not None:
        raise ValueError(
            f"--against {how.against} has no effect on a plan, which is of a run joined with "
            "itself; leave it out"
        )
    listed = list_shards(patterns, dataset=read.dataset, stem_depth=read.stem_depth)
    num_bytes = sum(shard.num_bytes for shard in listed)
    num_images, basis = _estimate_images(listed, read)
    if read.limit is not None and read.limit < num_images:
        num_images, basis = read.limit, "--limit"
    records = [find_record(encode.clip), find_record(encode.dino)]
    device = device_of(encode.device)
    dtype = torch.float32 if encode.precision == "fp32" else torch.bfloat16
    flops = [flops_per_image(record) for record in records]
    rate = matmul_flops_per_s(device, dtype)
    num_pairs = num_images * (num_images - 1) // 2
    widths = sum(record.dim for record in records)
    impl = implementation(how.join)
    num_candidates, num_blind = _expected_pairs(store, encode, how, num_images)
    return [
        ("shards", f"{len(listed)}, {_size(num_bytes)}"),
        ("images", f"{'about ' if basis.startswith('from') else ''}{num_images:,} ({basis})"),
        *(
            (record.name, f"{flop / 1e9:,.3f} GFLOP an image, counted")
            for record, flop in zip(records, flops, strict=True)
        ),
        (
            "matrix product",
            f"{rate / 1e12:.3f} TFLOP/s on {device} in {encode.precision}, measured now",
        ),
        *_encoding(store, encode, how, (flops[0], flops[1]), records[0].dim, num_images, rate),
        ("vectors", f"{_size(num_images * widths * 2)} as float16, on disk and in memory"),
        ("join", f"{impl}, {why_chosen(how.join, impl)}; {num_pairs:,} pairs"),
        ("joining", _joining(impl, num_pairs, records[0].dim, rate)),
        (
            "join memory",
            f"{_size(num_images * CODE_BYTES)} and a few blocks; the vectors are memory-mapped",
        ),
        *on_gpus(
            Corpus(
                num_images=num_images,
                num_bytes=num_bytes,
                flops=sum(flops),
                clip_width=records[0].dim,
                dino_width=records[1].dim,
            ),
            rate if device.startswith("cuda") else None,
        ),
        ("candidates", num_candidates),
        ("blind pairs", num_blind),
    ]


def on_gpus(corpus: Corpus, measured: float | None) -> list[tuple[str, str]]:
    """Time, bytes a second and memory on several numbers of GPUs."""
    rate = HOPPER_FLOPS_PER_S if measured is None else measured
    basis = "measured now" if measured is not None else "published for Hopper, not measured here"
    lines = [("a GPU", f"{rate / 1e12:.0f} TFLOP/s in the encoders' products, {basis}")]
    for num_gpus in FLEETS:
        each = share(corpus, num_gpus, rate)
        name = f"on {num_gpus} GPU{'s' if num_gpus > 1 else ''}"
        if each.encode_s + each.join_s < MINUTE_S:
            # Rates that would keep GPUs busy for seconds say nothing.
            lines.append((name, "less than a minute, where reading and decoding keep up"))
            continue
        lines.append(
            (
                name,
                f"encoders {_duration('at least', each.encode_s)}, if each GPU is given "
                f"{each.images_per_s:,.0f} decoded images/s, {_size(each.read_bytes_per_s)}/s of "
                f"shards (reading and decoding are not counted); joining "
                f"{_duration('at most', each.join_s)} at full width, "
                f"{_size(each.join_bytes)} of rows at a time",
            )
        )
    return lines


def _encoding(
    store: Store | None,
    encode: EmbedSettings,
    how: JoinSettings,
    flops: tuple[float, float],
    width: int,
    num_images: int,
    rate: float,
) -> list[tuple[str, str]]:
    """How long the encoders take in either `--dino-mode`, and which of them would be taken."""
    eager_s = num_images * sum(flops) / rate
    eager = ("encoding, eager", f"{_duration('at least', eager_s)} at that rate")
    learnt = _sampled(store, encode, how)
    if learnt is None:
        unknown = "unknown; embed a few shards with CLIP and give that run as --out"
        return [
            eager,
            ("encoding, lazy", unknown),
            ("--dino-mode", f"{encode.dino_mode}, asked for"),
        ]
    seen = learnt.share(num_images)
    found = costs(*flops, width, num_images, seen)
    lazy_s = num_images * (flops[0] + seen * flops[1]) / rate
    lazy = (
        f"{_duration('at least', lazy_s)}: {(learnt.degrees > 0).mean():.1%} of "
        f"{learnt.num_rows:,} images of that run have a candidate, "
        f"{seen:.1%} of {num_images:,} are expected to"
    )
    mode, why = encode.dino_mode, "asked for"
    if mode == "auto":
        mode, why = found.mode, f"since {found.because}"
    return [eager, ("encoding, lazy", lazy), ("--dino-mode", f"{mode}, {why}")]


def _sampled(store: Store | None, encode: EmbedSettings, how: JoinSettings) -> Sampled | None:
    """How many images of an earlier run have a candidate; None where there is no such run."""
    if store is None or not store.exists():
        return None
    clip, dino = encoders_of(store, encode.clip, encode.dino)
    if not joined_shards(store, clip):
        return None
    how = with_own_thresholds(store, clip, dino, how.part(JoinSettings))
    return sample_candidates(store, clip, how.keep_clip_above)


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


def _estimate_images(listed: list[Shard], read: ReadSettings) -> tuple[int, str]:
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


def _joining(impl: str, num_pairs: int, dim: int, rate: float) -> str:
    """How long the first step of a join takes, by what this machine does in a moment."""
    if impl == "knn":
        return "not estimated; it depends on the neighbours"
    if impl != "cpu":
        at_full_width = _duration("about", 2 * num_pairs * dim / rate)
        return f"{at_full_width} at that rate, at full width; less by int8 codes"
    threads = torch.get_num_threads()
    measured = {
        f"int8 codes of width {WIDTHS[1]}": pair_s("int8", min(WIDTHS[1], dim), threads),
        "float32": pair_s("float32", dim, threads),
    }
    each_s, screen = min((each, screen) for screen, each in measured.items() if each is not None)
    return f"{_duration('about', num_pairs * each_s)} by {screen}, measured now"


def _expected_pairs(
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


def _duration(bound: str, seconds: float) -> str:
    if seconds < MINUTE_S:
        return "less than a minute"
    if seconds < 3600:
        return f"{bound} {seconds / 60:.1f} min"
    return f"{bound} {seconds / 3600:.1f} h"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"
