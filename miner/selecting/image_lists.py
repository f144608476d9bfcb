"""Images that are not wanted, such as those of a benchmark: a folder, a list of hashes, or a run.

folder  every image below it: its sha256, and its phash where it can be decoded
file    a list of hashes (`miner.selecting.hash_lists`)
run     the sha256 and phash of its samples, and its vectors of the same encoders
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from miner.config import ImageLimits
from miner.crops import cut
from miner.errors import ImageError, ResourceError
from miner.formats import sniff
from miner.images import decode
from miner.names import IMAGE_EXTENSIONS, extension_of
from miner.objects import is_object_url
from miner.phash import PHASH_CROP, perceptual_hash
from miner.records import Json, digest, file_sha256
from miner.selecting.hash_lists import read_hashes
from miner.staging import staged
from miner.store import Store
from miner.urls import shown

MADE_FROM_ID = r'"sha256_of":\s*"image_id"'
"""What `meta` says of such a sha256."""


@dataclass(slots=True, kw_only=True)
class ImageList:
    """Images by their hashes.

    Attributes:
        place: where they were found.
        sha256: hex, and what the image is called.
        phash: likewise.
        run: the run that they are of.
        num_images: image files, hashes of a list, or samples of a run.
        num_unread: image files that cannot be decoded, or are of an unknown format, and so have no
            phash.
        num_without_bytes: samples of a run that was imported, whose bytes nobody has seen.
    """

    place: str
    sha256: dict[str, str] = field(default_factory=dict)
    phash: dict[int, str] = field(default_factory=dict)
    run: Store | None = None
    num_images: int = 0
    num_unread: int = 0
    num_without_bytes: int = 0

    def add(self, name: str, *, sha256: str | None = None, phash: int | None = None) -> None:
        """Add an image's hashes; of equal ones the first gives the name."""
        if sha256 is not None:
            self.sha256.setdefault(sha256, name)
        # No image has the phash 0: it stands for one that is unknown.
        if phash:
            self.phash.setdefault(phash, name)


def check_is_there(where: str) -> None:
    """Refuse a list that is not there, before anything is read of it.

    Raises:
        ResourceError: there is nothing at a path or a URL.
    """
    if run_at(where) is None:
        _local(where)


def contents_of(where: str, encoder_ids: Iterable[str]) -> str:
    """A hash over all that a list says, whatever its place.

    Args:
        where: as for `read_list`.
        encoder_ids: whose vectors count, where it is a run.

    Raises:
        ResourceError: there is nothing.
    """
    if (run := run_at(where)) is not None:
        stages = ["samples", *(f"vectors/{encoder_id}" for encoder_id in encoder_ids)]
        with run.remembering():
            return digest(
                [
                    [stage, name, [file["sha256"] for file in run.record(stage, name)["files"]]]
                    for stage in stages
                    for name in run.committed(stage)
                ]
            )
    path = _local(where)
    if path.is_file():
        return file_sha256(path)
    return digest([[name, file_sha256(path / name)] for name in _files_below(path)])


def read_list(where: str) -> ImageList:
    """The images that a folder, a list of hashes or a run names.

    Args:
        where: a local path, the URL of a run, or `URL#sha256=HEX` of a list.

    Raises:
        ResourceError: there is nothing, it cannot be read, or it names no image.
    """
    if (run := run_at(where)) is not None:
        found = _of_run(run)
    elif (path := _local(where)).is_dir():
        found = _of_folder(path)
    else:
        found = _of_file(path)
    if not found.num_images:
        raise ResourceError(f"--not-in {shown(where)} names no image; fill it, or leave it out")
    return found


def run_at(where: str) -> Store | None:
    """The run that lies there; None where it is something else.

    Raises:
        ResourceError: a URL of a run has none.
    """
    if is_object_url(where) and "#sha256=" not in where:
        run = Store(where)
        if not run.exists():
            raise ResourceError(f"--not-in {where}: there is no run; mend the URL")
        return run
    is_run = "://" not in where and os.path.isfile(os.path.join(where, "run.json"))
    return Store(where) if is_run else None


def _local(where: str) -> Path:
    path = staged(where)
    if not path.exists():
        raise ResourceError(
            f"--not-in {shown(where)}: there is no such file or folder; give images, a list of "
            "hashes, or a run"
        )
    return path


def _files_below(folder: Path) -> list[str]:
    """Paths of the regular files below a folder, relative to it, sorted; links to folders end."""
    found = [
        os.path.relpath(os.path.join(root, name), folder)
        for root, _, names in os.walk(folder)
        for name in names
    ]
    return sorted(name for name in found if (folder / name).is_file())


def _of_folder(folder: Path) -> ImageList:
    found, limits = ImageList(place=str(folder)), ImageLimits()
    for name in _files_below(folder):
        path = folder / name
        if path.stat().st_size > limits.max_member_bytes:
            raise ResourceError(
                f"--not-in {folder}: {name} has {path.stat().st_size} bytes, limit "
                f"{limits.max_member_bytes}; take it out of the folder"
            )
        data = path.read_bytes()
        try:
            sniff(data)
        except ImageError:
            if extension_of(name) not in IMAGE_EXTENSIONS:
                # A table or a text beside the images.
                continue
        found.num_images += 1
        found.add(name, sha256=hashlib.sha256(data).hexdigest())
        try:
            crop_CHW = cut(decode(data, limits).pixels_HWC, PHASH_CROP)
        except ImageError:
            found.num_unread += 1
        else:
            found.add(name, phash=perceptual_hash(crop_CHW))
    return found


def _of_file(path: Path) -> ImageList:
    found = ImageList(place=str(path))
    for name, kind, value in read_hashes(path):
        found.num_images += 1
        if kind == "sha256":
            found.add(name, sha256=value)
        else:
            found.add(name, phash=int(value, 16))
    return found


def _of_run(run: Store) -> ImageList:
    found = ImageList(place=str(run.root), run=run)
    with run.remembering():
        for shard_id in run.committed("samples"):
            names = ["image_id", "sha256", "phash", "meta"]
            samples = run.table(run.record("samples", shard_id), "samples", names)
            # What was imported may have a sha256 that is made from its image_id, not its bytes.
            seen = pc.invert(pc.match_substring_regex(samples["meta"], MADE_FROM_ID))
            found.num_images += len(samples)
            found.num_without_bytes += len(samples) - (pc.sum(seen).as_py() or 0)
            rows: list[Json] = samples.filter(seen).to_pylist()
            for row in rows:
                found.add(row["image_id"], sha256=row["sha256"], phash=row["phash"])
    return found
