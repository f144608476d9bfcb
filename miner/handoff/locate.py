"""Where a reader's own copy of a corpus has the images of a hand-off, by their sha256."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from miner.config import ImageLimits
from miner.errors import ShardError
from miner.fetch import ImageFetcher
from miner.filesystems import path_parts, walk
from miner.handoff.originals import Place
from miner.records import Json
from miner.samples import Sample, ShardReader
from miner.shards import Shard, list_shards

_STEM_DEPTH = 100
"""Shards are told apart by their whole paths here; their names are of no use."""


def in_shards(
    patterns: Sequence[str], images: Iterable[Json], limits: ImageLimits
) -> dict[str, Place]:
    """Look for images in shards: where they lay first, then everywhere.

    Args:
        patterns: as `blindpairs mine` takes them.
        images: rows of IMAGES.
        limits: under which the run read its shards.

    Returns:
        The places of those that were found, by sha256.

    Raises:
        ShardError: nothing lies there, or a shard cannot be read.
    """
    wanted = {image["sha256"]: image for image in images}
    shards = [s for pattern in patterns for s in list_shards([pattern], stem_depth=_STEM_DEPTH)]
    found = dict(_where_they_lay(shards, wanted))
    for shard in shards:
        missing = {name: row for name, row in wanted.items() if name not in found}
        if not missing:
            break
        found |= _scan(shard, missing, limits)
    return found


def in_folder(folder: Path, images: Iterable[Json]) -> dict[str, Place]:
    """Look for images among the files below a folder, whatever their names.

    Args:
        folder: a local one.
        images: rows of IMAGES.

    Returns:
        The places of those that were found, by sha256.

    Raises:
        ShardError: a folder cannot be read.
    """
    wanted = {image["sha256"]: image["num_bytes"] for image in images}
    sizes = set(wanted.values())
    found = {}
    with ImageFetcher(max_open=1) as fetcher:
        for member, num_bytes, _ in walk(str(folder)):
            if num_bytes in sizes:
                data = fetcher.read(str(folder), member, 0, num_bytes)
                sha256 = hashlib.sha256(data).hexdigest()
                if sha256 in wanted:
                    place = Place(url=str(folder), member=member, offset=0, num_bytes=num_bytes)
                    found[sha256] = place
    return found


def _where_they_lay(
    shards: Sequence[Shard], wanted: Mapping[str, Json]
) -> Iterator[tuple[str, Place]]:
    """Images that lie in a shard of the same name at the same offset."""
    by_name: dict[str, list[Json]] = defaultdict(list)
    for image in wanted.values():
        by_name[image["shard"].rpartition("/")[2]].append(image)
    with ImageFetcher() as fetcher:
        for url in dict.fromkeys(shard.url for shard in shards):
            for image in by_name[path_parts(url)[-1]]:
                place = Place(
                    url=url,
                    member=image["member"],
                    offset=image["offset"],
                    num_bytes=image["num_bytes"],
                )
                try:
                    data = fetcher.read(url, place.member, place.offset, place.num_bytes)
                except ShardError:
                    # A shorter shard of the same name, or a forged row: the scan decides.
                    continue
                if hashlib.sha256(data).hexdigest() == image["sha256"]:
                    yield image["sha256"], place


def _scan(shard: Shard, wanted: Mapping[str, Json], limits: ImageLimits) -> dict[str, Place]:
    """Images that lie anywhere in a shard."""
    sizes = {image["num_bytes"] for image in wanted.values()}
    found = {}
    for sample in ShardReader(shard, limits):
        if isinstance(sample, Sample) and len(sample.data) in sizes:
            sha256 = hashlib.sha256(sample.data).hexdigest()
            if sha256 in wanted:
                found[sha256] = Place(
                    url=shard.url,
                    member=sample.member,
                    offset=sample.offset,
                    num_bytes=len(sample.data),
                )
    return found
