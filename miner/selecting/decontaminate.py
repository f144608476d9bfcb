"""Pairs with an image that is known already, such as one of a benchmark, are not selected.

An image is known by its bytes (sha256), by its looks (a phash that differs in few bits), or, where
the list is a run with vectors of the same encoders, as a near-copy by both cosines; the first of
these that holds is said.

Shape suffixes: N images that are asked about, L listed ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from kernels import cpu
from miner.config import SelectSettings
from miner.records import Json
from miner.selecting.hamming import nearest
from miner.selecting.image_lists import ImageList
from miner.selecting.raw_pairs import RawPairs, Rows
from miner.selecting.verdicts import Step, Values, Verdict, Words
from miner.vectors import EncoderVectors

Known = dict[int, tuple[str, str]]
"""By an image's number: the word that drops its pairs, and what the list calls the image."""


def known_images(pairs: RawPairs, settings: SelectSettings, images: Rows) -> Known:
    """Which of some images the list of `--not-in` names, and by what.

    Args:
        pairs: with `listed`.
        settings: near-copies, and bits of the phash.
        images: numbers, ascending.
    """
    assert pairs.listed is not None
    found: Known = {}
    for way in (_by_bytes, _by_looks, _by_vectors):
        left = np.array([image for image in images.tolist() if image not in found], np.int64)
        if len(left):
            found |= way(pairs, pairs.listed, settings, left)
    return found


def ways_of(listed: ImageList, clip: str, dino: str) -> Json:
    """How many images of a list can be known by each way; None for one that it does not allow."""
    num_vectors = sum(len(ids) for ids, _, _ in _vectors_of(listed, clip, dino))
    return {
        "sha256": len(listed.sha256),
        "phash": len(listed.phash),
        "vectors": num_vectors or None,
    }


def _by_bytes(pairs: RawPairs, listed: ImageList, settings: SelectSettings, images: Rows) -> Known:
    hashes = pairs.samples["sha256"].take(pa.array(images)).to_pylist()
    return {
        image: ("listed_bytes", listed.sha256[sha256])
        for image, sha256 in zip(images.tolist(), hashes, strict=True)
        if sha256 in listed.sha256
    }


def _by_looks(pairs: RawPairs, listed: ImageList, settings: SelectSettings, images: Rows) -> Known:
    hashes = pairs.samples["phash"].take(pa.array(images)).to_numpy()
    hashes, images = hashes[hashes != 0], images[hashes != 0]
    names = list(listed.phash.values())
    places = nearest(hashes, np.array([*listed.phash], np.uint64), settings.not_in_phash)
    return {
        image: ("listed_looks", names[place])
        for image, place in zip(images.tolist(), places.tolist(), strict=True)
        if place >= 0
    }


def _by_vectors(
    pairs: RawPairs, listed: ImageList, settings: SelectSettings, images: Rows
) -> Known:
    found: Known = {}
    clip, dino = pairs.record["clip"], pairs.record["dino"]
    ours: list[torch.Tensor] = []
    for ids, clip_LD, dino_LE in _vectors_of(listed, clip, dino):
        ours = ours or [
            torch.from_numpy(pairs.vectors("clip")[images]),
            torch.from_numpy(pairs.vectors("dino")[images]),
        ]
        clips, dinos = (ours[0], torch.from_numpy(clip_LD)), (ours[1], torch.from_numpy(dino_LE))
        for near in cpu.candidates(clips, dinos, clip_above=settings.near_clip):
            near = near.where(near.dino_cos > settings.near_dino)
            for place, other in sorted(zip(near.i.tolist(), near.j.tolist(), strict=True)):
                found.setdefault(int(images[place]), ("listed_vectors", ids[other]))
    return found


def _vectors_of(
    listed: ImageList, clip: str, dino: str
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Images of a list that have both vectors, [L] and [L, D] and [L, E], shard by shard."""
    if listed.run is None:
        return
    with listed.run.remembering():
        both = [EncoderVectors(listed.run, encoder_id) for encoder_id in (clip, dino)]
        for shard_id in listed.run.committed("samples"):
            (clip_ids, clip_LD), (dino_ids, dino_LE) = (each.read(shard_id) for each in both)
            place = {image_id: row for row, image_id in enumerate(dino_ids)}
            rows = [row for row, image_id in enumerate(clip_ids) if image_id in place]
            ids = [clip_ids[row] for row in rows]
            if ids:
                yield ids, clip_LD[rows], dino_LE[[place[image_id] for image_id in ids]]


def _decide(pairs: RawPairs, settings: SelectSettings, rows: Rows) -> Words:
    said = np.full(len(pairs.image_ids), "", dtype="<U32")
    for image, (word, _) in known_images(pairs, settings, pairs.images(rows)).items():
        said[image] = word
    one, other = said[pairs.first[rows]], said[pairs.second[rows]]
    return np.where(one != "", one, other)


def _values(pairs: RawPairs, settings: SelectSettings, row: int) -> Values:
    known = known_images(pairs, settings, pairs.images(np.array([row])))
    images = [image for image in (pairs.first[row], pairs.second[row]) if image in known]
    return {"image": pairs.image_ids[images[0]].as_py(), "listed": known[images[0]][1]}


NOT_IN = Step(
    name="not in the list",
    verdicts={
        "listed_bytes": Verdict(
            counted="an image of the list, by its bytes",
            told="{image} has the bytes of {listed} in {settings.not_in}",
        ),
        "listed_looks": Verdict(
            counted="an image of the list, by its looks",
            told="{image} looks like {listed} in {settings.not_in}: at most "
            "{settings.not_in_phash} bits of their phash differ",
        ),
        "listed_vectors": Verdict(
            counted="an image of the list, by its vectors",
            told="{image} is a near-copy of {listed} in {settings.not_in}",
        ),
    },
    is_asked=lambda settings: settings.not_in is not None,
    decide=_decide,
    columns=("sha256", "phash"),
    values=_values,
)
