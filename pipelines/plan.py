"""What a run would cost and give, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.pace import pair_s
from kernels.prepare import WIDTHS
from miner.config import EmbedSettings, JoinSettings, ReadSettings
from miner.encoders import find_record
from miner.implementations import implementation, why_chosen
from miner.rows import joined_shards
from miner.shards import list_shards
from miner.store import Store
from pipelines.driver import device_of
from pipelines.estimates import (
    estimate_images,
    expected_pairs,
    flops_per_image,
    matmul_flops_per_s,
)
from pipelines.fleet import FLEETS, HOPPER_FLOPS_PER_S, Corpus, share
from pipelines.joins import encoders_of, with_own_thresholds
from pipelines.modes import Sampled, costs, sample_candidates

CODE_BYTES = 140
"""Bytes that a join on CPU cores holds of each image: its code and its place."""

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
    num_images, basis = estimate_images(listed, read)
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
    num_candidates, num_blind = expected_pairs(store, encode, how, num_images)
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
