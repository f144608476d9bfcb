"""The samples of one shard, whole or refused with a reason.

webdataset groups members by key and runs the stages; the bytes come from our own reader
(`miner/tar.py`), and a judge (`miner/law.py`) sees to the law of every shard: each sample is kept
whole or named in a refusal, and what cannot be told is said to be unknown.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from webdataset import DataPipeline
from webdataset.filters import pipelinefilter
from webdataset.tariterators import group_by_keys

from miner.config import ExcludeSettings, ImageLimits
from miner.errors import ShardError
from miner.exclude import Exclusions
from miner.fetch import ShardFile, sha256_of
from miner.filesystems import is_file, join_url, path_parts
from miner.groups import Part, metadata_of
from miner.law import Judge, Refusal
from miner.metadata import (
    MAX_METADATA_BYTES,
    METADATA_EXTENSIONS,
    read_metadata,
)
from miner.names import (
    IMAGE_EXTENSIONS,
    extension_of,
    shown,
    split_name,
    split_of,
    tree_key,
    why_unsafe,
)
from miner.schema import Reason
from miner.shards import Shard, image_id_of, tree_line
from miner.sidecar import MAX_SIDECAR_BYTES, Sidecar
from miner.tar import BYTE_KINDS, Damage, Member, TarReader

_WEBDATASET_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with what its shard says about it."""

    key: str
    member: str
    offset: int
    """Of the image's first byte in the tar, in bytes; 0 for a loose file."""
    data: bytes
    caption: str | None
    url: str | None
    label: str | None
    meta: str
    """JSON text of every other field."""
    unrated: tuple[str, ...] = ()
    """Ratings that a filter asked for and the sample does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """The accounts of one shard."""

    complete: bool
    """The shard was read to its end; where not, only `notes` and the sidecar's hash hold."""
    num_samples: int
    """Samples yielded, less those retracted, plus refusals."""
    num_bytes: int
    bytes: dict[str, int]
    """Bytes by kind (see `miner/tar.py`); they sum to `num_bytes`."""
    sha256: str
    """Of the tar; of a tree slice, over lines of path, size and sha256."""
    sidecar_sha256: str | None
    notes: tuple[str, ...]
    """Harmless oddities."""
    damaged: bool


class ShardReader:
    """Iterates over one shard, once: a Sample or a Refusal for each of its samples.

    A sample is yielded as soon as it is known to be whole, so memory holds one sample and a hash
    of every key. Only damage that shows up later takes one back (`Refusal.retracts`).
    """

    def __init__(
        self, shard: Shard, limits: ImageLimits, exclude: ExcludeSettings | None = None
    ) -> None:
        """Prepare to read.

        Args:
            shard: which one.
            limits: `max_member_bytes` bounds the image that is held.
            exclude: samples that are refused although they are whole; default: none.

        Raises:
            ResourceError: a list of ids is missing, or not what it has to be.
        """
        self._shard = shard
        self._limits = limits
        self._exclusions = Exclusions(exclude or ExcludeSettings())
        self._excluded: set[str] = set()
        self._oddities: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._sidecar: Sidecar | None = None
        self._sidecar_sha256: str | None = None
        self._num_samples = 0
        self._is_started = False
        self._is_complete = False
        self._sha256 = ""
        self._bytes = dict.fromkeys(BYTE_KINDS, 0)
        self._reader_notes: list[str] = []
        self._judge = Judge(self._sample)

    @property
    def report(self) -> ShardReport:
        """The accounts; they are complete once iteration is over."""
        notes = [
            *self._reader_notes,
            *self._judge.notes,
            *(self._sidecar.notes if self._sidecar else []),
        ]
        for what, number in self._oddities.items():
            notes.append(f"{number} x {what}, first {self._first[what]!r}")
        return ShardReport(
            complete=self._is_complete,
            num_samples=self._num_samples,
            num_bytes=self._shard.num_bytes,
            bytes=dict(self._bytes),
            sha256=self._sha256,
            sidecar_sha256=self._sidecar_sha256,
            notes=tuple(notes),
            damaged=self._judge.is_damaged,
        )

    def __iter__(self) -> Iterator[Sample | Refusal]:
        """Read the shard.

        Raises:
            ShardError: it cannot be read, or is not the file that was listed.
            ValueError: it is iterated over for the second time.
        """
        if self._is_started:
            raise ValueError(f"{self._shard.shard_id}: a ShardReader reads once; make another one")
        self._is_started = True
        return self._items()

    def _items(self) -> Iterator[Sample | Refusal]:
        self._load_sidecar()
        stages = DataPipeline(
            self._loose_records if self._shard.files else self._tar_records,
            pipelinefilter(group_by_keys)(keys=lambda pair: pair, lcase=False),
            pipelinefilter(self._judge.judge)(),
        )
        for item in stages:
            retracts = isinstance(item, Refusal) and item.retracts
            if retracts and item.key in self._excluded:
                # One outcome for a sample: it was never yielded, so nothing is taken back.
                self._note("excluded sample that is damaged too", item.key)
                continue
            self._num_samples += not retracts
            yield item
        self._is_complete = True

    def _load_sidecar(self) -> None:
        if self._shard.sidecar is not None:
            with ShardFile(self._shard.sidecar) as file:
                if file.num_bytes > MAX_SIDECAR_BYTES:
                    what = f"{file.num_bytes} bytes, limit {MAX_SIDECAR_BYTES}"
                    self._reader_notes.append(f"sidecar not read: {what}")
                    self._sidecar_sha256 = sha256_of(file)
                    return
                data = file.read(0, file.num_bytes)
            self._sidecar = Sidecar(data)
            self._sidecar_sha256 = hashlib.sha256(data).hexdigest()

    def _tar_records(self) -> Iterator[dict[str, Any]]:
        """Members as webdataset groups them: `fname` is the pair of key and extension."""
        shard = self._shard
        with ShardFile(shard.url) as file:
            self._check_size(file.num_bytes)
            reader = TarReader(file, file.num_bytes, self._is_wanted)
            run_key, suffixes, budget = "", set[str](), 0
            for ordinal, entry in enumerate(reader):
                if isinstance(entry, Damage):
                    self._judge.lose(entry, ordinal)
                    continue
                named = self._named(entry)
                if named is None:
                    continue
                name, key, suffix = named
                if key != run_key or suffix in suffixes:
                    # webdataset stops at a repeated member; a new group can be judged.
                    yield {}
                    run_key, suffixes, budget = key, set(), self._limits.max_member_bytes
                    budget += 4 * MAX_METADATA_BYTES
                suffixes.add(suffix)
                budget -= len(entry.data or b"")
                if budget < 0:
                    entry = replace(entry, data=None)
                part = Part(entry, name, ordinal, name != entry.name)
                yield {"fname": (key, suffix), "data": part, "__url__": shard.url}
        self._judge.end_of_tar(reader)
        self._reader_notes += sorted(reader.notes)
        self._sha256, self._bytes = reader.sha256, reader.num_bytes_of
        yield {}

    def _named(self, member: Member) -> tuple[str, str, str] | None:
        """Name, key and extension of a member that belongs to a sample; else a note."""
        if member.kind == "directory":
            return None
        name = shown(member.name)
        key, suffix = split_name(name)
        if not name or (key is None and name != member.name):
            self._judge.refuse_now("", name, Reason.UNSAFE_NAME, why_unsafe(member.name))
        elif _WEBDATASET_META.match(name) or (suffix or "").startswith("__"):
            self._note("webdataset's own metadata, skipped", name)
        elif key is None:
            self._note("member without an extension, skipped", name)
        else:
            if member.kind == "other":
                self._note("link, device or sparse file", name)
            return name, key, suffix
        return None

    def _is_wanted(self, name: str, num_bytes: int) -> bool:
        extension = extension_of(name)
        if extension in IMAGE_EXTENSIONS:
            return num_bytes <= self._limits.max_member_bytes
        return extension in METADATA_EXTENSIONS and num_bytes <= MAX_METADATA_BYTES

    def _loose_records(self) -> Iterator[dict[str, Any]]:
        """Files of a tree slice as webdataset groups them."""
        tree, ordinal = hashlib.sha256(), 0
        for stem, sharing in groupby(self._shard.files, key=tree_key):
            members = []
            for path in sharing:
                member, digest = self._loose_member(path)
                tree.update(tree_line(path, member.num_bytes, digest))
                self._bytes["data"] += member.num_bytes
                members.append(member)
            images = [m for m in members if extension_of(m.name) in IMAGE_EXTENSIONS]
            texts = [m for m in members if extension_of(m.name) in METADATA_EXTENSIONS]
            if not images:
                self._note("metadata file without an image", shown(texts[0].name))
            for image in images:
                key = shown(stem if len(images) == 1 else image.name)
                for member in (image, *texts):
                    name = shown(member.name)
                    part = Part(member, name, ordinal := ordinal + 1, name != member.name)
                    fname = (key, name[len(stem) + 1 :])
                    yield {"fname": fname, "data": part, "__url__": self._shard.url}
                yield {}
        self._check_size(self._bytes["data"])
        self._sha256 = tree.hexdigest()

    def _loose_member(self, path: str) -> tuple[Member, str]:
        """One file of a tree, read where it is wanted, and its sha256."""
        url = join_url(self._shard.url, path)
        if not is_file(url):
            return Member(name=path, kind="other", offset=0, num_bytes=0), "no file"
        with ShardFile(url) as file:
            if not self._is_wanted(path, file.num_bytes):
                member = Member(name=path, kind="file", offset=0, num_bytes=file.num_bytes)
                return member, sha256_of(file)
            data = file.read(0, file.num_bytes)
        member = Member(name=path, kind="file", offset=0, num_bytes=len(data), data=data)
        return member, hashlib.sha256(data).hexdigest()

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes != self._shard.num_bytes:
            raise ShardError(
                f"shard {self._shard.url}: {num_bytes} bytes where {self._shard.num_bytes} were "
                "listed; it is being written, so wait and run the same command again"
            )

    def _note(self, what: str, name: str) -> None:
        self._oddities[what] += 1
        self._first.setdefault(what, name[:200])

    def _sample(self, key: str, image: Part, parts: Sequence[Part]) -> Sample | Refusal:
        """A whole sample, with its metadata, or why it is not wanted."""
        texts, others = metadata_of(key, image, parts)
        label = None
        if self._shard.files and "/" in image.name:
            label = image.name.split("/")[-2]
        assert image.member.data is not None
        said = read_metadata(
            texts,
            self._sidecar.row(key) if self._sidecar else None,
            other_members=others,
            label=label,
            split=split_of(path_parts(self._shard.url), image.name if self._shard.files else ""),
        )
        sample = Sample(
            key=key,
            member=image.name,
            offset=image.member.offset,
            data=image.member.data,
            caption=said.caption,
            url=said.url,
            label=said.label,
            meta=said.meta,
        )
        opinion = self._exclusions.opinion(sample, image_id_of(self._shard, key))
        if opinion.excluded is None:
            return replace(sample, unrated=opinion.unrated)
        self._excluded.add(key)
        return Refusal(key=key, member=image.name, reason=Reason.EXCLUDED, detail=opinion.excluded)
