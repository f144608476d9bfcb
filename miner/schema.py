"""Arrow schemas and column names of every table that blindpairs writes.

Readers rely on these names: a change here is a change of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import pyarrow as pa


class Reason(StrEnum):
    """Why a sample is not embedded: the closed list of the column `quarantine.reason`."""

    # The shard: a sample is not whole.
    DAMAGED_HEADER = "damaged_header"
    """A tar header is unreadable; the bytes up to the next good one belong to nobody."""
    TRUNCATED_SHARD = "truncated_shard"
    """The tar ends inside the sample, or before its end-of-archive mark."""
    TRAILING_BYTES = "trailing_bytes"
    """Bytes that are not zero follow the end-of-archive mark."""
    NO_IMAGE = "no_image"
    """No member of the sample has an image's extension."""
    SEVERAL_IMAGES = "several_images"
    """More than one member of the sample has an image's extension."""
    DUPLICATE_KEY = "duplicate_key"
    """An earlier sample of the shard has the same key; that one is kept."""
    SCATTERED_KEY = "scattered_key"
    """The members of the sample are not adjacent in the tar."""
    NOT_A_FILE = "not_a_file"
    """The member is a link, a device or a sparse file."""
    UNSAFE_NAME = "unsafe_name"
    """The member's name is empty, not UTF-8, has a control character, or is too long."""
    TOO_MANY_BYTES = "too_many_bytes"
    """The member is larger than `max_member_bytes`."""

    # The user: a sample is not wanted, and its image is not decoded.
    EXCLUDED = "excluded"
    """A filter leaves it out; the detail says which (`punsafe: 0.8, limit 0.5`)."""

    # The image: its bytes do not give trustworthy pixels.
    EMPTY = "empty"
    """The image member has no bytes."""
    UNKNOWN_FORMAT = "unknown_format"
    """The first bytes are those of no file format that is known."""
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    """A known format outside the allow-list (an HTML error page, SVG, EPS, PDF, ICO, ...)."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """The header announces more pixels than `max_pixels`; nothing was decoded."""
    TOO_ELONGATED = "too_elongated"
    """One side is more than `max_aspect_ratio` times the other."""
    TRUNCATED_IMAGE = "truncated_image"
    """The image's bytes end too early."""
    UNDECODABLE = "undecodable"
    """The decoder refused the bytes."""
    CRASHED_DECODER = "crashed_decoder"
    """The process that decoded the image died, and so did a fresh one that had it alone."""

    # The encoder.
    NONFINITE = "nonfinite"
    """The encoder gave NaN or infinity; the sample stands, its vector is missing."""
    ZERO_VECTOR = "zero_vector"
    """An imported vector is all zeros and has no cosine; the sample stands without it."""
    NO_VECTOR = "no_vector"
    """An import had no vector for the sample, or several; the sample stands without one."""


SAMPLES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("phash", pa.uint64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("exif_orientation", pa.int8()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
        pa.field("label", pa.string()),
        pa.field("meta", pa.string(), nullable=False),
    ]
)

UNKNOWN_FORMAT = "unknown"
"""The `format` of an image of which only embeddings were imported: its `num_bytes` and `phash` are
0, and so are its width and height where no metadata tells them."""

QUARANTINE = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

RAW = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("image_1", pa.string(), nullable=False),
        pa.field("image_2", pa.string(), nullable=False),
        pa.field("clip_cos", pa.float32(), nullable=False),
        pa.field("dino_cos", pa.float32(), nullable=False),
        pa.field("gap", pa.float32(), nullable=False),
        pa.field("borderline", pa.bool_(), nullable=False),
        pa.field("duplicates_1", pa.int64(), nullable=False),
        pa.field("duplicates_2", pa.int64(), nullable=False),
    ]
)

BLIND = pa.field("blind", pa.bool_(), nullable=False)
"""The column that `raw` has besides where pairs beyond the thresholds are kept."""

ABOUT = pa.field("about_cos", pa.float32(), nullable=False)
"""The column that `selected` has besides with `--about`: both images' mean cosine with the text."""

IMAGE_COLUMNS = ("shard", "key", "sha256", "width", "height", "caption", "url", "label")
"""Columns of `samples` that `selected` carries for both images, suffixed `_1` and `_2`."""

HISTOGRAM = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("clip_bin", pa.int16(), nullable=False),
        pa.field("dino_bin", pa.int16(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ],
    metadata={"bin_width": "0.01", "bin": "floor(cosine / bin_width)"},
)
"""Counts of pairs; `source` is `candidates` (all of them) or `random` (a seeded sample)."""

HISTOGRAM_BIN_WIDTH = 0.01

BLOCK = pa.schema(
    [
        pa.field("row_1", pa.int64(), nullable=False),
        pa.field("row_2", pa.int64(), nullable=False),
        pa.field("clip_cos", pa.float64(), nullable=False),
        pa.field("dino_cos", pa.float64(), nullable=False),
    ]
)
"""What a block of a join found: rows of its two segments, and the float64 cosines."""


SCREENED = pa.schema(
    [
        pa.field("side", pa.int8(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
"""What a block of a screening found: rows of its first (0) or second (1) segment with a partner."""


def has_bytes(sample: Mapping[str, object]) -> bool:
    """Whether a run knows the bytes of an image, by its row of `samples`; imports do not."""
    return sample["num_bytes"] != 0


def vectors(dim: int) -> pa.Schema:
    """Schema of one encoder's vectors: unit length, float16, [dim] each."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("element", pa.float16(), False), dim), False),
        ]
    )


def raw(*, with_blind: bool) -> pa.Schema:
    """Schema of the `raw` parts; `with_blind` where they reach beyond the thresholds."""
    return RAW.append(BLIND) if with_blind else RAW


def selected(*, with_blind: bool, with_about: bool = False) -> pa.Schema:
    """Schema of `selected.parquet`: rank, the columns of `raw`, both images' metadata.

    Args:
        with_blind: `raw` reaches beyond the thresholds.
        with_about: the pairs were chosen by a text.
    """
    schema = pa.schema([pa.field("rank", pa.int64(), nullable=False), *raw(with_blind=with_blind)])
    for suffix in ("_1", "_2"):
        for name in IMAGE_COLUMNS:
            schema = schema.append(SAMPLES.field(name).with_name(name + suffix))
    return schema.append(ABOUT) if with_about else schema
