"""Parquet with images inside, as Hugging Face datasets reads it, and the dataset's card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from miner.handoff.flat import COLUMNS
from miner.handoff.pairs import IMAGES, PAIRS, Handoff
from miner.handoff.webdataset_tars import shares
from miner.handoff.work import Files, Format, Work
from miner.records import Json

FILE_BYTES = 500 * 10**6
"""Image bytes from which on the next Parquet file begins."""

GROUP_BYTES = 64 * 2**20
"""Image bytes of a row group, about: what a reader, and this writer, hold at once."""

_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_COLUMN_IMAGES = ("image_1", "image_2")
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))

USAGE = """\
`data/test-*.parquet`: a row for each pair, with both images (their original bytes) in `image_1`
and `image_2`, their ids in `image_id_1` and `image_id_2`.

```python
from datasets import load_dataset
pairs = load_dataset(".", split="test")
pairs[0]["image_1"], pairs[0]["image_2"], pairs[0]["clip_cos"], pairs[0]["dino_cos"]
```
"""


def arrow_schema() -> pa.Schema:
    """The columns, with what `datasets` wants to know of them as metadata."""
    fields = [pa.field(name, _IMAGE) for name in _COLUMN_IMAGES]
    flat = {field.name: field for field in PAIRS}
    for number in (1, 2):
        flat |= {f"{field.name}_{number}": field for field in IMAGES}
    names = ["image_id_1", "image_id_2", *(n for n in COLUMNS if n not in _COLUMN_IMAGES)]
    fields += [pa.field(name, flat[name].type) for name in names]
    features = {
        field.name: {"_type": "Image"}
        if field.type == _IMAGE
        else {"dtype": _dtype(field.type), "_type": "Value"}
        for field in fields
    }
    said = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(fields, metadata={"huggingface": said})


def _dtype(kind: pa.DataType) -> str:
    return {pa.float32(): "float32", pa.bool_(): "bool"}.get(kind, str(kind))


def write(work: Work) -> Files:
    """Write the Parquet files."""
    (work.folder / "data").mkdir()
    parts = list(shares(work, FILE_BYTES))
    schema = arrow_schema()
    files: Files = {}
    for number, pairs in enumerate(parts):
        name = f"data/test-{number:05d}-of-{len(parts):05d}.parquet"
        with pq.ParquetWriter(work.folder / name, schema, compression="zstd") as writer:
            for rows in _groups(work, pairs):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        files |= {pair["pair_id"]: (name, name) for pair in pairs}
    return files


def _groups(work: Work, pairs: Sequence[Json]) -> Iterator[list[Json]]:
    """Rows, as many at once as make a row group."""
    rows: list[Json] = []
    num_bytes = 0
    for pair in pairs:
        row = work.handoff.flat(pair)
        row |= {f"image_id_{number}": pair[f"image_{number}"] for number in (1, 2)}
        for name, image in zip(_COLUMN_IMAGES, work.handoff.both(pair), strict=True):
            data = work.originals.read(image)
            num_bytes += len(data)
            row[name] = {"bytes": data, "path": work.originals.file_name(image)}
        rows.append(row)
        if num_bytes >= GROUP_BYTES:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def front_matter(handoff: Handoff) -> str:
    """The YAML by which the hub and `datasets` know the dataset."""
    size = next((name for limit, name in _SIZES if len(handoff.pairs) < limit), "n>1M")
    return f"""\
---
license: other
license_name: the-images-own
pretty_name: CLIP-blind pairs
tags:
- clip-blind-pairs
- clip
- dinov2
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: test
    path: data/test-*.parquet
---
"""


FORMAT = Format(
    name="hf",
    summary="Parquet with images, and a dataset card",
    usage=USAGE,
    write=write,
    front_matter=front_matter,
)
