"""README.md of a hand-off: what it is, how it is opened, whose the images are."""

from __future__ import annotations

from miner.handoff.settings import EncoderFacts, HandoffSettings
from miner.handoff.work import Format, Work

NAME = "README.md"

_NO_IMAGES = """\
This folder holds no images, only their ids: `images.parquet` says of each its sha256, its URL,
and where it lay in which shard; `pairs.parquet` says what the pairs are. Who has the corpus fills
in the images:

```
blindpairs hydrate FOLDER --shards "/data/laion/{00000..00831}.tar"  # or --images-dir FOLDER
```
Every image is checked by its sha256, and the folder becomes the one that was to be handed off
(`FORMAT_NAME`).
"""

_TURNED = """\
Images that their EXIF says to turn are no original bytes here: they were turned and encoded anew,
as PNG, whatever their names. `altered_1` and `altered_2` in `provenance.csv` say which.
"""

_LICENCE = """\
The images are not ours: each keeps the licence it has where it comes from, and this hand-off
gives none. The table of pairs may be used as its makers say.
"""


def write_card(format: Format, work: Work) -> None:
    """Write README.md."""
    text = format.front_matter(work.handoff) if work.settings.images == "original" else ""
    text += "\n".join(_sections(format, work))
    (work.folder / NAME).write_text(text, "utf-8", newline="\n")


def _sections(format: Format, work: Work) -> list[str]:
    handoff, facts = work.handoff, work.handoff.facts
    has_images = work.settings.images == "original"
    usage = format.usage if has_images else _NO_IMAGES.replace("FORMAT_NAME", format.name)
    return [
        f"# {len(handoff.pairs)} CLIP-blind pairs\n",
        "Each is two images that CLIP calls the same and DINO calls different: their cosine by "
        f"the first is above {facts.clip_above}, by the second below {facts.dino_below}.\n",
        f"They were mined by blindpairs {facts.version} from {', '.join(facts.datasets)}. "
        f"{_which(work.settings, facts.num_selected, facts.num_accepted)}\n",
        *_asked_for(facts.asked_for),
        "| | encoder | weights | sha256 of the weights | licence of the weights |",
        "|---|---|---|---|---|",
        _encoder("CLIP", facts.clip),
        _encoder("DINO", facts.dino) + "\n",
        "`provenance.csv` leads from every pair to the bytes of its images.\n",
        "## What lies where\n",
        usage,
        *([_TURNED] if has_images and work.settings.bake_orientation else []),
        "## Licence\n",
        _LICENCE,
    ]


def _which(settings: HandoffSettings, num_selected: int, num_accepted: int | None) -> str:
    if num_accepted is None:
        return f"Of {num_selected} that were selected, nobody has reviewed any."
    taken = "every selected pair" if settings.reviewed == "all" else "what they accepted"
    return (
        f"Of {num_selected} that were selected, reviewers accepted {num_accepted}; "
        f"handed off is {taken}."
    )


def _asked_for(options: str) -> list[str]:
    """The selection's options as a block of code, which no text within can end."""
    return [f"They were selected by these options:\n\n    {options}\n"] if options else []


def _encoder(role: str, facts: EncoderFacts) -> str:
    cells = (role, facts.encoder_id, facts.weights, facts.weights_sha256, facts.licence)
    return f"| {' | '.join((cell or 'not told').replace('|', '/') for cell in cells)} |"
