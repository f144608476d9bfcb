"""The selected pairs of a join, page by page: filtered, sorted, with a cursor that goes on."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from miner.config import Settings
from miner.records import Json, digest

CURSOR_CHARS = 200
"""More than any cursor has."""

TEXT_COLUMNS = ("caption_1", "caption_2", "url_1", "url_2", "label_1", "label_2")


class CursorError(ValueError):
    """A cursor of something else, or none at all."""


class PairFilter(Settings):
    """Which pairs are wanted, and in what order."""

    sort: Literal["rank", "clip_cos", "dino_cos", "gap"] = "rank"
    """What pairs are ordered by; ties by rank."""

    order: Literal["asc", "desc"] = "asc"
    """Ascending or descending."""

    min_clip_cos: float | None = Field(default=None, ge=-1, le=1)
    """Least CLIP cosine."""

    max_clip_cos: float | None = Field(default=None, ge=-1, le=1)
    """Largest CLIP cosine."""

    min_dino_cos: float | None = Field(default=None, ge=-1, le=1)
    """Least DINO cosine."""

    max_dino_cos: float | None = Field(default=None, ge=-1, le=1)
    """Largest DINO cosine."""

    min_gap: float | None = Field(default=None, ge=-2, le=2)
    """Least difference of both cosines."""

    max_gap: float | None = Field(default=None, ge=-2, le=2)
    """Largest difference of both cosines."""

    borderline: bool | None = None
    """Only pairs that are borderline, or only pairs that are not."""

    image_id: str | None = Field(default=None, max_length=1024)
    """Only pairs with this image."""

    text: str | None = Field(default=None, max_length=200)
    """Only pairs with this in a caption, a URL or a label, in small or large letters."""


class PairPages:
    """Pages of one selection.

    Args:
        table: `selected`.
        identity: of the selection; cursors of another one are refused.
    """

    def __init__(self, table: pa.Table, identity: str) -> None:
        self._table, self._identity = table.combine_chunks(), identity

    def __len__(self) -> int:
        """Pairs in all."""
        return int(self._table.num_rows)

    def page(
        self, wanted: PairFilter, limit: int, cursor: str | None
    ) -> tuple[list[Json], str | None]:
        """Some pairs, and the cursor of those that follow; None after the last one.

        Raises:
            CursorError: the cursor is none of this selection, filter and order.
        """
        view = digest([self._identity, wanted.model_dump(mode="json")])[:16]
        start = 0 if cursor is None else _position(cursor, view)
        rows = self._rows(wanted)
        some = rows[start : start + limit]
        more = start + limit < len(rows)
        pairs: list[Json] = self._table.take(pa.array(some)).to_pylist()
        return pairs, _cursor(start + limit, view) if more else None

    def _rows(self, wanted: PairFilter) -> np.ndarray:
        """Rows of the table, in the order asked for."""
        mask = np.ones(len(self), bool)
        for name in ("clip_cos", "dino_cos", "gap"):
            column = self._table[name].to_numpy()
            least, most = getattr(wanted, f"min_{name}"), getattr(wanted, f"max_{name}")
            mask &= True if least is None else column >= np.float32(least)
            mask &= True if most is None else column <= np.float32(most)
        if wanted.borderline is not None:
            mask &= self._table["borderline"].to_numpy() == wanted.borderline
        if wanted.image_id is not None:
            mask &= self._any(("image_1", "image_2"), wanted.image_id, exactly=True)
        if wanted.text:
            mask &= self._any(TEXT_COLUMNS, wanted.text, exactly=False)
        rows = np.flatnonzero(mask)
        keys = self._table[wanted.sort].to_numpy()[rows]
        rank = self._table["rank"].to_numpy()[rows]
        order: np.ndarray = np.lexsort((rank, keys if wanted.order == "asc" else -keys))
        ordered: np.ndarray = rows[order]
        return ordered

    def _any(self, columns: tuple[str, ...], text: str, *, exactly: bool) -> np.ndarray:
        """Rows of which one of some columns is, or contains, a text."""
        found = np.zeros(len(self), bool)
        for name in columns:
            column = self._table[name]
            if exactly:
                hits = pc.equal(column, text)
            else:
                # A text and no pattern: nothing in it makes this take long.
                hits = pc.match_substring(column, text, ignore_case=True)
            found |= pc.fill_null(hits, False).to_numpy()
        return found


def _cursor(position: int, view: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([position, view]).encode()).decode().rstrip("=")


def _position(cursor: str, view: str) -> int:
    problem = CursorError(
        "the cursor is none of this selection, filter and order; take next_cursor of an answer to "
        "the same question, or leave it out"
    )
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        found = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise problem from error
    if not (isinstance(found, list) and len(found) == 2 and found[1] == view):
        raise problem
    position = found[0]
    if type(position) is not int or position < 0:
        raise problem
    return position
