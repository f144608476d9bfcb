"""FiftyOne's own dataset format: a group for each pair, its slices `left` and `right`.

The layout is that of `fiftyone.types.FiftyOneDataset`: metadata.json holds the dataset's document
with its schema, samples.json the samples as MongoDB's extended JSON, data/ the images. What is
missing in a document, the importer fills; a document of an older version it migrates.
"""

from __future__ import annotations

from collections.abc import Iterator

from miner.handoff.pairs import TEXTS
from miner.handoff.work import Files, Format, Work
from miner.records import Json, canonical, digest

VERSION = "0.25.2"
"""FiftyOne's version whose documents these are; later ones migrate them (1.0.0 adds times)."""

SLICES = ("left", "right")

_FIELDS = "fiftyone.core.fields"
_TYPES = {int: "IntField", float: "FloatField", bool: "BooleanField", str: "StringField"}
_SAMPLE_FIELDS: dict[str, type] = {
    **dict.fromkeys(("pair_id", "decision", "pattern", *TEXTS), str),
    **dict.fromkeys(("image_id", "sha256", "caption", "url", "label", "shard", "key"), str),
    **{"rank": int, "clip_cos": float, "dino_cos": float, "gap": float, "borderline": bool},
}
"""Fields of a sample: those of its pair, then those of its image."""

USAGE = """\
A FiftyOne dataset: every pair is a group with the slices `left` (image 1) and `right` (image 2).

```python
import fiftyone as fo
dataset = fo.Dataset.from_dir(dataset_dir=".", dataset_type=fo.types.FiftyOneDataset)
```
"""


def write(work: Work) -> Files:
    """Write metadata.json, samples.json and data/."""
    (work.folder / "data").mkdir()
    for image, data in work.originals.each(work.handoff.images.values()):
        (work.folder / _file(work, image)).write_bytes(data)
    metadata = canonical(_dataset(work))
    (work.folder / "metadata.json").write_text(metadata, "utf-8", newline="\n")
    with (work.folder / "samples.json").open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"samples":[')
        for number, sample in enumerate(_samples(work)):
            file.write(f"{',' if number else ''}\n{canonical(sample)}")
        file.write("\n]}\n")
    return {
        pair["pair_id"]: (_file(work, first), _file(work, second))
        for pair in work.handoff.pairs
        for first, second in [work.handoff.both(pair)]
    }


def _file(work: Work, image: Json) -> str:
    return f"data/{work.originals.file_name(image)}"


def _samples(work: Work) -> Iterator[Json]:
    for pair in work.handoff.pairs:
        # Ids of 24 hex digits that are the same in every hand-off of the pair.
        group = {"_id": {"$oid": f"{pair['pair_id']}00000000"}, "_cls": "Group"}
        for number, image in enumerate(work.handoff.both(pair), start=1):
            said = {name: image.get(name, pair.get(name)) for name in _SAMPLE_FIELDS}
            said |= {"pattern": pair["pattern_name"]}
            for text in ("option", "statement"):
                said[f"{text}_1"], said[f"{text}_2"] = pair[f"{text}_1"], pair[f"{text}_2"]
            yield {
                "_id": {"$oid": f"{pair['pair_id']}{number:08x}"},
                "_media_type": "image",
                "_rand": int(digest([pair["pair_id"], number])[:8], 16) / 2**32,
                "filepath": _file(work, image),
                "tags": [],
                "group": {**group, "name": SLICES[number - 1]},
                **said,
            }


def _dataset(work: Work) -> Json:
    facts = work.handoff.facts
    return {
        "version": VERSION,
        "media_type": "group",
        "group_field": "group",
        "group_media_types": dict.fromkeys(SLICES, "image"),
        "default_group_slice": SLICES[0],
        "tags": [],
        "info": facts.model_dump(mode="json"),
        "sample_fields": [
            _field("id", "ObjectIdField", db_field="_id"),
            _field("filepath", "StringField"),
            _field("tags", "ListField", subfield=f"{_FIELDS}.StringField"),
            _field("metadata", "EmbeddedDocumentField", embedded="fiftyone.core.metadata.Metadata"),
            _field(
                "group",
                "EmbeddedDocumentField",
                embedded="fiftyone.core.groups.Group",
                fields=[
                    _field("id", "ObjectIdField", db_field="_id"),
                    _field("name", "StringField"),
                ],
            ),
            *(_field(name, _TYPES[kind]) for name, kind in _SAMPLE_FIELDS.items()),
        ],
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _field(
    name: str,
    ftype: str,
    *,
    db_field: str | None = None,
    subfield: str | None = None,
    embedded: str | None = None,
    fields: list[Json] | None = None,
) -> Json:
    return {
        "name": name,
        "ftype": f"{_FIELDS}.{ftype}",
        "subfield": subfield,
        "embedded_doc_type": embedded,
        "fields": fields or [],
        "db_field": db_field or name,
        "description": None,
        "info": None,
        "read_only": False,
    }


FORMAT = Format(
    name="fiftyone",
    summary="a grouped FiftyOne dataset",
    usage=USAGE,
    write=write,
)
