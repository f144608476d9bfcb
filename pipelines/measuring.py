"""What the commands that measure do: read a set, load encoders in turn, write tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from torch.nn import Module

from miner.encoders import TorchEncoder, load_encoder
from miner.evaluate import Evaluation, evaluate
from miner.measuring.compare import Compared, compare_accuracy, compare_sameness
from miner.measuring.labelled import LabelledSet
from miner.measuring.layouts import read_labelled
from miner.measuring.reviewed import read_reviews, read_selected
from miner.records import write_whole
from miner.store import Store
from miner.text import load_text_tower
from pipelines.joins import pick_join
from pipelines.loading import device_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An encoder on a set: what was measured, its image tower, and both as modules."""

    evaluation: Evaluation
    encoder: TorchEncoder
    modules: Sequence[Module]


def read_set(place: Path | str, layout: str, *, correct_labels: bool = False) -> LabelledSet:
    """The labelled set that a command's SET and layout name.

    Raises:
        click.UsageError: only runs may lie in a bucket.
        ValueError: the layout has no labels to correct.
    """
    if layout == "review":
        if correct_labels:
            raise click.UsageError("--correct-labels is for the public MMVP, not for reviews")
        return read_reviews(Store(place))
    if isinstance(place, str):
        raise click.UsageError(f"{place}: a set of layout {layout} lies in a folder, not at a URL")
    return read_labelled(place, layout, correct_labels=correct_labels)


def measure(
    labelled: LabelledSet, name: str, weights: str | None, device: str, prompt: str | None
) -> Measured:
    """Load both towers of an encoder and evaluate it in float32."""
    found = device_of(device)
    # First, since what has no text tower is told from its record.
    tower = load_text_tower(name, device=found, weights=weights)
    encoder = load_encoder(name, device=found, weights=weights)
    return Measured(
        evaluation=evaluate(labelled, encoder, tower, prompt=prompt),
        encoder=encoder,
        modules=(encoder.module, tower.module),
    )


def compare_set(
    labelled: LabelledSet,
    names: Sequence[str],
    weights: Mapping[str, str],
    measure_name: str,
    device: str,
    prompt: str | None,
) -> list[Compared]:
    """Every encoder's accuracy on a labelled set; one of them is in memory at a time."""
    rows = []
    for name in names:
        found = measure(labelled, name, weights.get(name), device, prompt)
        rows.append(compare_accuracy(found.evaluation, found.encoder, measure_name, found.modules))
    return rows


def compare_run(
    place: Path | str,
    join: str | None,
    names: Sequence[str],
    weights: Mapping[str, str],
    above: Mapping[str, str],
    limit: int,
    device: str,
) -> tuple[LabelledSet, list[Compared]]:
    """The share of a join's selected pairs that each encoder calls the same.

    Raises:
        click.UsageError: a threshold is no cosine.
    """
    store = Store(place)
    join = pick_join(store, join)
    labelled = read_selected(store, join, limit)
    record = store.read_record(f"pairs/{join}/join.json")
    rows = []
    for name in names:
        encoder = load_encoder(name, device=device_of(device), weights=weights.get(name))
        own = encoder.record.clip_above
        threshold = record["clip_above"] if own is None else own
        if name in above:
            threshold = _cosine(name, above[name])
        rows.append(compare_sameness(labelled, encoder, threshold))
    return labelled, rows


def _cosine(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise click.UsageError(f"--above {name}={text}: give a cosine from -1 to 1")
    return value


def names_of(text: str) -> list[str]:
    """The encoders between commas, each once.

    Raises:
        click.UsageError: there is none, or one is named twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise click.UsageError(f"--encoders {text!r}: give names with commas, each once")
    return names


def by_name(given: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Values of a repeated NAME=VALUE option.

    Raises:
        click.UsageError: one has no `=`, is given twice, or names no encoder of `--encoders`.
    """
    found: dict[str, str] = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign or not value or name not in names or name in found:
            raise click.UsageError(
                f"{option} {each}: give NAME=VALUE, once for each of {', '.join(names)}"
            )
        found[name] = value
    return found


def write_csv(path: Path | None, text: Callable[[], str]) -> None:
    """Write a table where a path was given, whole or not at all."""
    if path is not None:
        write_whole(path, text().encode("utf-8", "surrogatepass"))
