import pyarrow as pa

from miner import schema

# The contract of DESIGN section 4, written out.
SAMPLES = [
    "image_id",
    "dataset",
    "shard",
    "key",
    "member",
    "offset",
    "num_bytes",
    "sha256",
    "phash",
    "width",
    "height",
    "format",
    "exif_orientation",
    "caption",
    "url",
    "label",
    "meta",
]
RAW = [
    "pair_id",
    "image_1",
    "image_2",
    "clip_cos",
    "dino_cos",
    "gap",
    "borderline",
    "duplicates_1",
    "duplicates_2",
]
IMAGE = ["shard", "key", "sha256", "width", "height", "caption", "url", "label"]


def test_columns_are_those_of_the_contract() -> None:
    assert schema.SAMPLES.names == SAMPLES
    assert schema.SAMPLES.field("phash").type == pa.uint64()
    assert schema.QUARANTINE.names == ["dataset", "shard", "key", "member", "reason", "detail"]
    assert schema.raw(with_blind=False).names == RAW
    assert schema.raw(with_blind=True).names == [*RAW, "blind"]
    both = [f"{name}_{side}" for side in "12" for name in IMAGE]
    assert schema.selected(with_blind=False).names == ["rank", *RAW, *both]
    assert schema.HISTOGRAM.names == ["source", "clip_bin", "dino_bin", "count"]
    vectors = schema.vectors(7)
    assert vectors.names == ["image_id", "vector"]
    assert (vectors.field("vector").type.list_size, vectors.field("vector").type.value_type) == (
        7,
        pa.float16(),
    )


def test_reasons_are_words() -> None:
    assert all(reason.value == reason.name.lower() for reason in schema.Reason)
