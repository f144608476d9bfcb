"""Small labelled sets of rendered scenes, in the layouts of known benchmarks."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.drawing import encode, render
from pipelines.scenes import CAPTIONED, HIDDEN, PHRASES, caption, draw_scene, draw_twin

VLM_TYPES = ("Orientation", "Color")


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two scenes that differ in one attribute."""

    attribute: str
    values: tuple[str, str]
    images: tuple[bytes, bytes]
    statements: tuple[str, str]


@cache
def twins(num: int, kind: str = "captioned", seed: int = 3) -> tuple[Twins, ...]:
    """Pairs whose statements say the difference; of hidden ones in words new to demo-clip."""
    rng = np.random.default_rng(seed)
    names = list(HIDDEN if kind == "hidden" else CAPTIONED)
    found = []
    for number in range(num):
        name = names[number % len(names)]
        one = draw_scene(rng)
        pair = (one, draw_twin(one, name, rng))
        more = [PHRASES[name].format(getattr(s, name)) if kind == "hidden" else "" for s in pair]
        texts = [f"{caption(s)} {end}".strip() for s, end in zip(pair, more, strict=True)]
        found.append(
            Twins(
                attribute=name,
                values=(getattr(pair[0], name), getattr(pair[1], name)),
                images=(encode(render(pair[0])), encode(render(pair[1]))),
                statements=(texts[0], texts[1]),
            )
        )
    return tuple(found)


def write_jsonl(folder: Path, pairs: Sequence[Twins]) -> Path:
    """A set of our own layout; its file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, pair in enumerate(pairs):
        names = [f"{number}_{turn}.jpg" for turn in (1, 2)]
        for name, data in zip(names, pair.images, strict=True):
            (folder / name).write_bytes(data)
        line = dict(zip(("image_1", "image_2"), names, strict=True))
        line |= dict(zip(("statement_1", "statement_2"), pair.statements, strict=True))
        lines.append(json.dumps(line | {"pattern": pair.attribute}) + "\n")
    path = folder / "pairs.jsonl"
    path.write_text("".join(lines))
    return path


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """A CSV of these rows, the header first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_mmvp(folder: Path, pairs: Sequence[Twins]) -> Path:
    """A folder laid out as MMVP; every second pair has its right answers the other way round."""
    rows: list[list[object]] = [["Index", "Question", "Options", "Correct Answer"]]
    (folder / "MMVP Images").mkdir(parents=True)
    for number, pair in enumerate(pairs):
        letters = ("(a)", "(b)") if number % 2 == 0 else ("(b)", "(a)")
        options = dict(zip(letters, pair.statements, strict=True))
        for turn in (0, 1):
            index = 2 * number + turn + 1
            (folder / "MMVP Images" / f"{index}.jpg").write_bytes(pair.images[turn])
            both = f"(a) {options['(a)']} (b) {options['(b)']}"
            rows.append([index, "a picture of", both, letters[turn]])
    write_csv(folder / "Questions.csv", rows)
    return folder


def write_mmvp_vlm(folder: Path, pairs: Sequence[Twins]) -> Path:
    """A folder laid out as MMVP-VLM, with as many Types as VLM_TYPES."""
    rows: list[list[object]] = [["Question ID", "Type", "Statement"]]
    for number, pair in enumerate(pairs):
        kind = VLM_TYPES[number * len(VLM_TYPES) // len(pairs)]
        (folder / "MLLM_VLM Images" / kind).mkdir(parents=True, exist_ok=True)
        for turn in (0, 1):
            index = 2 * number + turn + 1
            path = folder / "MLLM_VLM Images" / kind / f"{index}.jpg"
            path.write_bytes(pair.images[turn])
            rows.append([index, kind, pair.statements[turn]])
    write_csv(folder / "Questions.csv", rows)
    return folder


def write_winoground(folder: Path, pairs: Sequence[Twins]) -> Path:
    """A folder laid out as Winoground."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, pair in enumerate(pairs):
        names = [f"ex_{number}_img_{turn}" for turn in (0, 1)]
        for name, data in zip(names, pair.images, strict=True):
            (folder / "images" / f"{name}.png").write_bytes(data)
        line = {"id": number, "image_0": names[0], "image_1": names[1], "tag": "x"}
        line |= {"caption_0": pair.statements[0], "caption_1": pair.statements[1]}
        lines.append(json.dumps(line | {"collapsed_tag": pair.attribute}) + "\n")
    (folder / "examples.jsonl").write_text("".join(lines))
    return folder


def write_whatsup(folder: Path, pairs: Sequence[Twins], part: str = "A") -> Path:
    """A list laid out as What'sUp; two pairs of scenes make a set of 4, whatever they show."""
    relations = [("left_of", "right_of"), ("on", "under")]
    name, file = "controlled_images", "controlled_images_dataset.json"
    if part == "B":
        relations[1] = ("in-front_of", "behind")
        name, file = "controlled_clevr", "controlled_clevr_dataset.json"
    (folder / name).mkdir(parents=True)
    rows = []
    for number in range(0, len(pairs), 2):
        captions = [text for pair in pairs[number : number + 2] for text in pair.statements]
        for pair, words in zip(pairs[number : number + 2], relations, strict=True):
            for turn in (0, 1):
                image = f"mug{number}_{words[turn]}_table.jpeg"
                (folder / name / image).write_bytes(pair.images[turn])
                right = pair.statements[turn]
                others = [text for text in captions if text != right]
                path = f"data/{name}/{image}"
                rows.append({"image_path": path, "caption_options": [right, *others]})
    (folder / file).write_text(json.dumps(rows))
    return folder / file
