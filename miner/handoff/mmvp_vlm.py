"""MMVP-VLM's layout: nine patterns, fifteen pairs of each, a statement true of each image."""

from __future__ import annotations

import csv
from collections import defaultdict

from miner.handoff.pairs import Handoff
from miner.handoff.settings import HandoffSettings
from miner.handoff.work import Files, Format, Work
from miner.records import Json
from miner.review import PATTERNS

IMAGES = "MLLM_VLM Images"
COLUMNS = ("Question ID", "Type", "Statement")
PAIRS_PER_PATTERN = 15
"""The scorer tells a pair's pattern by its place, fifteen to each."""

USAGE = """\
`MLLM_VLM Images/<Type>/<id>.jpg` and `Questions.csv` (`Question ID,Type,Statement`), as
MMVP-VLM's own: nine patterns in its order, 15 pairs of each, the best ranks; ids 2k-1 and 2k are
a pair. The scorer goes by position, and puts `a photo of ` before a statement.

The images are the original bytes. All are called `.jpg`, which the scorer expects; where
`file_format_1` or `file_format_2` in `provenance.csv` is another one, the bytes are of that format,
which Pillow tells by the bytes and not by the name.
"""


def choose(handoff: Handoff, settings: HandoffSettings) -> Handoff:
    """The first fifteen pairs of every pattern that have both statements, pattern by pattern.

    Raises:
        ValueError: a pattern has fewer; a table says how many of each are missing.
    """
    fit: dict[int, list[Json]] = defaultdict(list)
    mute: dict[int, int] = defaultdict(int)
    for pair in handoff.pairs:
        if pair["pattern"] and _says_something(pair):
            fit[pair["pattern"]].append(pair)
        elif pair["pattern"]:
            mute[pair["pattern"]] += 1
    if any(len(fit[number]) < PAIRS_PER_PATTERN for number in PATTERNS):
        unsorted = sum(not pair["pattern"] for pair in handoff.pairs)
        lines = [f"{'pattern':<22}{'ready':>6}{'missing':>8}{'no statements':>15}"]
        for number, pattern in PATTERNS.items():
            ready = len(fit[number])
            missing = max(0, PAIRS_PER_PATTERN - ready)
            lines.append(f"{pattern.folder:<22}{ready:>6}{missing:>8}{mute[number]:>15}")
        raise ValueError(
            f"mmvp-vlm takes {PAIRS_PER_PATTERN} pairs of each pattern; {unsorted} of "
            f"{len(handoff.pairs)} pairs have no pattern:\n" + "\n".join(lines) + "\n"
            "give patterns and statements (or options) in the report, or select more pairs"
        )
    return handoff.only([pair for number in PATTERNS for pair in fit[number][:PAIRS_PER_PATTERN]])


def _says_something(pair: Json) -> bool:
    texts = [(pair[name] or "").strip().casefold() for name in ("statement_1", "statement_2")]
    return all(texts) and texts[0] != texts[1]


def write(work: Work) -> Files:
    """Write images and statements."""
    paths: dict[str, list[str]] = defaultdict(list)
    rows: list[tuple[object, ...]] = []
    files: Files = {}
    for place, pair in enumerate(work.handoff.pairs):
        folder = PATTERNS[pair["pattern"]].folder
        numbers = (2 * place + 1, 2 * place + 2)
        both = tuple(f"{IMAGES}/{folder}/{number}.jpg" for number in numbers)
        for path, image in zip(both, work.handoff.both(pair), strict=True):
            paths[image["sha256"]].append(path)
        files[pair["pair_id"]] = (both[0], both[1])
        statements = (pair["statement_1"].strip(), pair["statement_2"].strip())
        rows += zip(numbers, (folder, folder), statements, strict=True)
    for pattern in PATTERNS.values():
        (work.folder / IMAGES / pattern.folder).mkdir(parents=True)
    for image, data in work.originals.each(work.handoff.images.values()):
        for path in paths[image["sha256"]]:
            (work.folder / path).write_bytes(data)
    with (work.folder / "Questions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return files


FORMAT = Format(
    name="mmvp-vlm",
    summary="MMVP-VLM: nine patterns, 15 pairs of each",
    usage=USAGE,
    write=write,
    choose=choose,
)
