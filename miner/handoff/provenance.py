"""provenance.csv: from every pair of a hand-off back to the bytes and weights it came from."""

from __future__ import annotations

from collections.abc import Iterator

from miner.handoff.delimited import csv_text
from miner.handoff.work import Files, Work
from miner.records import Json

NAME = "provenance.csv"

_PAIR = ("rank", "pair_id", "clip_cos", "dino_cos", "gap", "borderline")
_RUN = (
    *("join", "clip_above", "dino_below", "clip", "clip_weights_sha256"),
    *("dino", "dino_weights_sha256", "blindpairs"),
)
_IMAGE = ("dataset", "shard", "key", "member", "offset", "num_bytes", "sha256", "format", "url")
COLUMNS = (
    *_PAIR,
    *(
        f"{name}_{number}"
        for number in (1, 2)
        for name in ("image", *_IMAGE, "exif_orientation", "file", "file_format", "altered")
    ),
    *_RUN,
)
"""`file` lies in the hand-off's folder, and its bytes are of `file_format`, whatever its name;
`altered` says how it differs from the original, whose format is `format`."""


def write_provenance(work: Work, files: Files) -> None:
    """Write provenance.csv; `files` are empty where the hand-off holds no images."""
    with (work.folder / NAME).open("w", encoding="utf-8", newline="") as file:
        file.writelines(csv_text(COLUMNS, _rows(work, files)))


def _rows(work: Work, files: Files) -> Iterator[Json]:
    facts = work.handoff.facts
    run = {
        "join": facts.join,
        "clip_above": facts.clip_above,
        "dino_below": facts.dino_below,
        "clip": facts.clip.encoder_id,
        "clip_weights_sha256": facts.clip.weights_sha256,
        "dino": facts.dino.encoder_id,
        "dino_weights_sha256": facts.dino.weights_sha256,
        "blindpairs": facts.version,
    }
    for pair in work.handoff.pairs:
        row = {name: pair[name] for name in _PAIR} | run
        places = files.get(pair["pair_id"], (None, None))
        for number, image in enumerate(work.handoff.both(pair), start=1):
            said = {name: image[name] for name in (*_IMAGE, "exif_orientation")}
            said |= {"image": image["image_id"], "file": places[number - 1]}
            said["file_format"] = work.originals.format(image) if said["file"] else None
            said["altered"] = _altered(work, image) if said["file"] else None
            row |= {f"{name}_{number}": value for name, value in said.items()}
        yield row


def _altered(work: Work, image: Json) -> str | None:
    return "turned by EXIF, PNG" if work.originals.is_altered(image) else None
