"""Published figures, to be printed beside one's own.

Both tables are from "On Erroneous Agreements of CLIP Image Embeddings". Its CLIP is ViT-L/14 at
336 pixels; the registry has it as `clip-vit-l-14-336`. Measures and subsets go by our names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from miner.measuring.labelled import ALL

CLIP = "CLIP ViT-L/14-336"


@dataclass(frozen=True, slots=True)
class Published:
    """One published figure: a share or a cosine, not per cent."""

    model: str
    subset: str
    measure: str
    value: float


def _whatsup(subset: str, cosine: float, individual: float, pair: float) -> list[Published]:
    return [
        Published(CLIP, subset, "cosine", cosine),
        Published(CLIP, subset, "individual", individual),
        Published(CLIP, subset, "pair", pair),
    ]


PUBLISHED: Mapping[str, Sequence[Published]] = {
    "mmvp": [
        Published(CLIP, ALL, "pair", 0.140),
        Published(CLIP, ALL, "relaxed", 0.640),
        Published("LLaVA-1.5-7B", ALL, "pair", 0.253),
        Published("LLaVA-1.5-7B", ALL, "relaxed", 0.733),
    ],
    "whatsup": [
        *_whatsup("A left/right", 0.995, 0.490, 0.019),
        *_whatsup("A on/under", 0.971, 0.617, 0.233),
        *_whatsup("B left/right", 0.955, 0.549, 0.108),
        *_whatsup("B front/behind", 0.902, 0.515, 0.078),
    ],
}
"""By the benchmark; two-way choices throughout."""
