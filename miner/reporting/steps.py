"""What every step of a run left over, and what it dropped and why: the counts of a report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain

from miner.records import Json
from miner.rows import encoders_of_all, joined_shards, runs_of
from miner.selecting.steps import VERDICTS, settings_of, step_counts
from miner.store import Store
from miner.vectors import EncoderVectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the run.

    Attributes:
        name: what is counted.
        count: how many the step left.
        note: what makes one count here.
        dropped: what did not come through, by reason, the most frequent first.
    """

    name: str
    count: int
    note: str = ""
    dropped: tuple[tuple[str, int], ...] = ()


def image_steps(store: Store, record: Json) -> list[Step]:
    """From shards to distinct images.

    Args:
        store: the run directory.
        record: the content of join.json.
    """
    counts = record["counts"]
    found = [
        (run, shard_id)
        for run in runs_of(store, record)
        for shard_id in joined_shards(run, *encoders_of_all(record))
    ]
    vectors = {
        run.files.address: [
            EncoderVectors(run, encoder_id) for encoder_id in (record["clip"], record["dino"])
        ]
        for run in runs_of(store, record)
    }
    refused, nonfinite = Counter[str](), Counter[str]()
    num_samples = num_decodable = 0
    for run, shard_id in found:
        commit = run.record("samples", shard_id)
        num_samples += commit["num_samples"]
        num_decodable += commit["num_decodable"]
        refused.update(run.reasons(shard_id))
        parts = (each.records(shard_id) for each in vectors[run.files.address])
        for commit in chain.from_iterable(parts):
            if any(file["path"].startswith("quarantine/") for file in commit["files"]):
                nonfinite.update(run.table(commit, "quarantine")["reason"].to_pylist())
    later = len(found) - counts["shards"]
    copies = "near-copies" if record["collapse"] == "near" else "copies with equal bytes"
    return [
        Step(
            name="shards",
            count=len(found),
            note=f"{later:,} embedded after this join" if later else "embedded by both encoders",
        ),
        Step(name="samples", count=num_samples, note="images with their texts"),
        Step(name="decodable", count=num_decodable, dropped=_sorted(refused)),
        Step(
            name="images",
            count=counts["images"],
            note="with two vectors" if record["lazy"] is None else "that CLIP has seen",
            dropped=_sorted(nonfinite),
        ),
        Step(
            name="distinct",
            count=counts["distinct"],
            dropped=_sorted(Counter({copies: counts["images"] - counts["distinct"]})),
        ),
        *_seen_late(record),
    ]


def _seen_late(record: Json) -> list[Step]:
    """Where DINO is lazy, how many images it saw."""
    if record["lazy"] is None:
        return []
    note = "had a CLIP candidate, so DINO looked at them"
    missing = record["lazy"]["random_pairs"]
    return [
        Step(
            name="seen by DINO",
            count=record["lazy"]["covered"],
            note=note if missing is None else f"{note}; {missing}",
        )
    ]


def pair_steps(record: Json) -> list[Step]:
    """From pairs compared to pairs selected.

    Args:
        record: the content of join.json, with a selection.
    """
    counts = record["counts"]
    beyond = counts["kept"] - counts["blind"]
    most, cut = record["max_partners"], counts["cut_pairs"]
    return [
        Step(name="pairs", count=counts["pairs"], note=f"compared by {record['impl']}"),
        Step(
            name="candidates",
            count=counts["candidates"],
            note=f"CLIP cosine > {record['clip_above']:g}",
        ),
        Step(
            name="blind",
            count=counts["blind"],
            note=f"DINO cosine < {record['dino_below']:g}, {counts['borderline']:,} borderline"
            + (f"; {beyond:,} more kept beyond the thresholds" if beyond else ""),
            dropped=_sorted(Counter({f"beyond {most:,} partners of an image": cut})),
        ),
        *_selection_steps(record["selection"]),
    ]


def _selection_steps(selection: Json) -> list[Step]:
    """Each step of the selection that dropped a pair; the last of them leaves the selected ones."""
    counted = step_counts(selection["counts"], settings_of(selection))
    found = []
    for each in [each for each in counted if each.dropped] or counted[-1:]:
        dropped = Counter({VERDICTS[word].counted: n for word, n in each.dropped.items()})
        found.append(Step(name=each.step, count=each.left, dropped=_sorted(dropped)))
    return [*found[:-1], replace(found[-1], name="selected")]


def _sorted(reasons: Counter[str]) -> tuple[tuple[str, int], ...]:
    found = [(reason, number) for reason, number in reasons.items() if number]
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))
