"""MMVP's layout: numbered images, and a question with two options on each pair."""

from __future__ import annotations

import csv
import re
from collections import defaultdict

from miner.handoff.pairs import Handoff
from miner.handoff.settings import HandoffSettings
from miner.handoff.work import Files, Format, Work
from miner.records import Json

IMAGES = "MMVP Images"
COLUMNS = ("Index", "Question", "Options", "Correct Answer")

_NEEDED = ("question", "option_1", "option_2")
_MARK = re.compile(r"\([a-z]\)", re.IGNORECASE)
_SHOWN = 5

USAGE = """\
`MMVP Images/1.jpg`, `2.jpg`, ... and `Questions.csv` (`Index,Question,Options,Correct Answer`),
as MMVP's own: pair k is images and rows 2k-1 and 2k, with one question and one pair of options,
and answers that differ. Which option is (a) is decided by the pair's id.

The images are the original bytes. All are called `.jpg`, which MMVP's loaders expect; where
`file_format_1` or `file_format_2` in `provenance.csv` is another one, the bytes are of that format,
which Pillow tells by the bytes and not by the name.
"""


NOBODY = "nobody has reviewed a pair of this run (`blindpairs report DIR --serve`); "


def choose(handoff: Handoff, settings: HandoffSettings) -> Handoff:
    """The pairs with a question and two options.

    Raises:
        ValueError: pairs lack them, and are not to be left out; or all do.
    """
    fit = [pair for pair in handoff.pairs if not _fault(pair)]
    if (len(fit) < len(handoff.pairs) and not settings.skip_incomplete) or not fit:
        faults: dict[str, list[str]] = defaultdict(list)
        for pair in handoff.pairs:
            if fault := _fault(pair):
                faults[fault].append(pair["pair_id"])
        said = "; ".join(
            f"{fault}: {len(ids)} ({', '.join(ids[:_SHOWN])}{', ...' if ids[_SHOWN:] else ''})"
            for fault, ids in sorted(faults.items())
        )
        nobody = "" if handoff.facts.num_accepted is not None else NOBODY
        raise ValueError(
            f"mmvp: {nobody}{len(handoff.pairs) - len(fit)} of {len(handoff.pairs)} "
            f"pairs cannot be asked about: {said}; "
            f"write questions and options in the report, or leave "
            "these pairs out with --skip-incomplete"
        )
    return handoff.only(fit)


def _fault(pair: Json) -> str | None:
    if lacking := [name for name in _NEEDED if not (pair[name] or "").strip()]:
        return f"without {' and '.join(lacking)}"
    options = [pair[name].strip() for name in ("option_1", "option_2")]
    if options[0].casefold() == options[1].casefold():
        return "with the same option twice"
    return "with an (a) or (b) within an option" if any(map(_MARK.search, options)) else None


def write(work: Work) -> Files:
    """Write images and questions."""
    (work.folder / IMAGES).mkdir()
    number_of: dict[str, list[int]] = defaultdict(list)
    rows: list[tuple[object, ...]] = []
    files: Files = {}
    for place, pair in enumerate(work.handoff.pairs):
        numbers = (2 * place + 1, 2 * place + 2)
        for number, image in zip(numbers, work.handoff.both(pair), strict=True):
            number_of[image["sha256"]].append(number)
        files[pair["pair_id"]] = (_file(numbers[0]), _file(numbers[1]))
        rows += zip(numbers, *question_of(pair), strict=True)
    for image, data in work.originals.each(work.handoff.images.values()):
        for number in number_of[image["sha256"]]:
            (work.folder / _file(number)).write_bytes(data)
    with (work.folder / "Questions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return files


def _file(number: int) -> str:
    return f"{IMAGES}/{number}.jpg"


def question_of(pair: Json) -> tuple[tuple[str, str], tuple[str, str], tuple[str, str]]:
    """Question, options and right answer, each for both images of a pair."""
    options = (pair["option_1"].strip(), pair["option_2"].strip())
    answers = ("(a)", "(b)")
    # By the id, so that the order tells nothing and stays when other pairs come or go.
    if int(pair["pair_id"], 16) % 2:
        options, answers = options[::-1], answers[::-1]
    shown = f"(a) {options[0]} (b) {options[1]}"
    question = pair["question"].strip()
    return (question, question), (shown, shown), answers


FORMAT = Format(
    name="mmvp",
    summary="MMVP: numbered images, Questions.csv",
    usage=USAGE,
    write=write,
    options=frozenset({"images", "bake_orientation", "skip_incomplete"}),
    choose=choose,
)
