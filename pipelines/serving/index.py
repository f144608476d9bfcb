"""What the service knows of a run: one join, its selection, its images, its report."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from miner.errors import ShardError, StoreError
from miner.fetch import ImageFetcher
from miner.pair_pages import PairPages
from miner.partner_search import PartnerSearch
from miner.records import Json
from miner.registry import EncoderRecord
from miner.reporting.images import EXTENSIONS
from miner.rows import runs_of
from miner.sample_lookup import SampleLookup
from miner.search_sides import why_not_searchable
from miner.store import Store
from pipelines.joins import pick_join
from pipelines.serving.errors import HttpError

MIME_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
}
"""By the format that an image's bytes are, whatever its name says."""

REPORT_TYPES = {
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "csv": "text/csv; charset=utf-8",
    **{EXTENSIONS[name]: kind for name, kind in MIME_TYPES.items()},
}

_IN_REPORT = re.compile(
    r"index\.html|[a-z][a-z_-]{0,40}\.(csv|svg)"
    r"|(images|thumbs)/[0-9a-f]{64}(\.view)?\.(" + "|".join(EXTENSIONS.values()) + ")"
)
"""Files of a report; nothing else is read by a name that came from outside."""


class Index:
    """One join of a run.

    Attributes:
        store: the run directory.
        name: the join's.
        record: the content of join.json.
        pages: its selection.
        search: its blind partners; None where `why_not_searchable` says why.
        lookup: rows of `samples`.
    """

    def __init__(self, store: Store, name: str | None, scratch: Path) -> None:
        """Open a join.

        Raises:
            StoreError: there is no whole join or selection.
        """
        self.name = pick_join(store, name)
        self.store = store
        record = store.join_record(self.name)
        if record is None or "selection" not in record:
            raise StoreError(
                f"{store.place(f'pairs/{self.name}')} holds no whole join with a selection; run "
                f"`blindpairs join {store.root}` again"
            )
        self.record: Json = record
        file = record["selection"]["file"]
        self.pages = PairPages(store.read_table(file["path"]), file["sha256"])
        self.why_not_searchable = why_not_searchable(record)
        self.search = (
            PartnerSearch(store, record, scratch) if self.why_not_searchable is None else None
        )
        self.lookup = SampleLookup(runs_of(store, record), record["shards"])
        self._fetchers: list[ImageFetcher] = []
        self._own = threading.local()

    def close(self) -> None:
        """Close the shards that are open; nobody reads any more."""
        for fetcher in self._fetchers:
            fetcher.close()

    def _fetcher(self) -> ImageFetcher:
        """The calling thread's."""
        if not hasattr(self._own, "fetcher"):
            self._own.fetcher = ImageFetcher()
            self._fetchers.append(self._own.fetcher)
        fetcher: ImageFetcher = self._own.fetcher
        return fetcher

    def encoder_records(self) -> dict[str, EncoderRecord]:
        """By role, the records of the encoders that the join is over."""
        found = {}
        for role in ("clip", "dino"):
            stage = f"vectors/{self.record[role]}"
            for commit in self.store.committed(stage)[:1]:
                found[role] = EncoderRecord(**self.store.record(stage, commit)["encoder"])
        return found

    def refuse_others(self, encoder_ids: Sequence[str]) -> None:
        """Refuse encoders whose vectors cannot be compared with those of the index.

        Raises:
            ValueError: the index has vectors of others.
        """
        own = [self.record["clip"], self.record["dino"]]
        if list(encoder_ids) != own:
            raise ValueError(
                f"--index holds vectors of {own[0]} and {own[1]}, and the service would load "
                f"{encoder_ids[0]} and {encoder_ids[1]}: their cosines mean nothing; leave out "
                "--clip and --dino, or give the weights that the run was made with"
            )

    def image(self, image_id: str) -> tuple[Json, bytes]:
        """An image's row of `samples`, and its original bytes, checked; on any thread.

        Raises:
            HttpError: there is no such image, or its bytes are gone (404).
        """
        row = self.lookup.rows([image_id]).get(image_id)
        if row is None:
            raise HttpError(
                404, "no_such_image", "the index has no image with that id", param="image_id"
            )
        try:
            data = self._fetcher().read(
                row["shard"], row["member"], row["offset"], row["num_bytes"]
            )
        except ShardError as error:
            raise HttpError(
                404,
                "image_gone",
                "the image's shard cannot be read where the index saw it last",
                param="image_id",
            ) from error
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise HttpError(
                404,
                "image_changed",
                "the image's shard holds other bytes now than those that were embedded",
                param="image_id",
            )
        return row, data

    def report_file(self, name: str) -> tuple[bytes, str]:
        """A file of the join's report, and its media type.

        Raises:
            HttpError: the report has no such file (404).
        """
        problem = HttpError(
            404, "no_such_page", "the report has no such file; write it with `blindpairs report`"
        )
        if _IN_REPORT.fullmatch(name) is None:
            raise problem
        try:
            data = self.store.files.read(f"pairs/{self.name}/report/{name}")
        except FileNotFoundError:
            raise problem from None
        return data, REPORT_TYPES[name.rpartition(".")[2]]
