"""The formats of hand-offs; another consumer is another file, and another line here."""

from __future__ import annotations

from miner.handoff import (
    clip_retrieval,
    fiftyone,
    flat,
    hugging_face,
    label_studio,
    mmvp,
    mmvp_vlm,
    webdataset_tars,
)
from miner.handoff.work import Format

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        mmvp.FORMAT,
        mmvp_vlm.FORMAT,
        hugging_face.FORMAT,
        label_studio.FORMAT,
        fiftyone.FORMAT,
        webdataset_tars.FORMAT,
        clip_retrieval.FORMAT,
        flat.CSV,
        flat.JSONL,
    )
}
