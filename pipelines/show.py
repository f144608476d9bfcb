"""What the commands print: short tables and sentences for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from miner.records import Json
from miner.registry import REGISTRY
from miner.stats import Stats
from miner.store import Store
from miner.vectors import EncoderVectors
from miner.why import Explanation
from pipelines.driver import Embedded
from pipelines.loading import failures
from pipelines.show_selection import selection_facts

MOST_LISTED = 100
"""Shards that `status` lists; of more it lists those that are not done, or damaged."""

Facts = Iterable[tuple[str, str]]
"""Names and values, one to a line."""


def columns(console: Console, rows: Sequence[Sequence[str]], *, header: bool = False) -> None:
    """Rows in aligned columns, the first bold; nothing is cut, so that it can be copied.

    Args:
        console: where to print.
        rows: of equal length.
        header: whether the first row names the columns.
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [escape(f"{cell:<{width}}") for cell, width in zip(row, widths, strict=True)]
        bold = 1 if not (header and number == 0) else len(cells)
        cells[:bold] = [f"[bold]{cell}[/bold]" for cell in cells[:bold]]
        console.print("  ".join(cells).rstrip(), soft_wrap=True)


def facts(console: Console, pairs: Facts) -> None:
    """Names and values, one to a line."""
    columns(console, [*pairs])


def embedded(console: Console, done: Embedded) -> None:
    """What was embedded, what was refused, and what failed."""
    by = " by CLIP; DINO waits for the candidates" if done.choice.mode == "lazy" else ""
    facts(
        console,
        [
            ("shards", f"{done.num_shards}, of which {len(done.new)} had work to do"),
            ("images", f"{done.num_samples - done.num_quarantined} embedded{by}"),
            (
                "quarantined",
                f"{done.num_bad} of {done.num_wanted} samples "
                f"({done.bad_fraction:.2%}, limit {done.max_bad_fraction:.2%})",
            ),
            *_filtered(done),
            *_time_spent(done.stats),
        ],
    )
    if done.num_samples and not done.num_wanted:
        console.print("nothing is left: the filters exclude every sample; quarantine/ says why")
    if done.bad_fraction > done.max_bad_fraction:
        console.print("partial: too many refused; quarantine/*.parquet says which and why")
    for shard_id in done.damaged:
        console.print(f"damaged: {shard_id}; its intact samples were kept, see quarantine/")
    for shard_id, error in done.failed.items():
        console.print(f"failed: {shard_id}: {error}", markup=False)


def _filtered(done: Embedded) -> Facts:
    """What the user's filters left out, and what they could not judge."""
    if done.excluded:
        causes = ", ".join(f"{number} {cause}" for cause, number in done.excluded.most_common())
        yield "excluded", f"{done.excluded.total()} of {done.num_samples} samples: {causes}"
    if done.unrated:
        lacking = ", ".join(f"{number} have no {name}" for name, number in done.unrated.items())
        yield "unrated", f"kept, although {lacking}"


def _time_spent(stats: Stats) -> Facts:
    """The wall time of embedding, and each stage's share of it."""
    if stats.seconds:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in stats.shares().items())
        yield "time", f"{sum(stats.seconds.values()):.1f} s: {shares}"


def joined(console: Console, root: Path | str, record: Json) -> None:
    """How many pairs each step of a join left."""
    counts = record["counts"]
    lines = [
        ("distinct images", f"{counts['distinct']} of {counts['images']}"),
        ("pairs compared", f"{counts['pairs']} by {record['impl']}"),
        ("candidates", f"{counts['candidates']} with CLIP cosine > {record['clip_above']}"),
        (
            "blind pairs",
            f"{counts['blind']} of them with DINO cosine < {record['dino_below']}, "
            f"{counts['borderline']} borderline",
        ),
        *(
            [("cut", f"{counts['cut_pairs']} pairs beyond {record['max_partners']} of an image")]
            if counts["cut_pairs"]
            else []
        ),
        *_encoded_late(record),
        *([("recall", _recall(record["search"]["knn"]))] if record["impl"] == "knn" else []),
        *selection_facts(record["selection"]),
        ("table", f"{root}/{record['selection']['file']['path']}"),
    ]
    facts(console, lines)


def _encoded_late(record: Json) -> Facts:
    """What a lazy join or a re-check had encoders look at."""
    lazy, rechecked = record["lazy"], record["rechecked"]
    if lazy is not None:
        yield "seen by DINO", f"{lazy['covered']} distinct images, those with a candidate"
    if rechecked is not None:
        yield (
            "re-checked",
            f"{rechecked['pairs']} borderline pairs in float32: {rechecked['became_blind']} became "
            f"blind, {rechecked['ceased_to_be_blind']} ceased to be",
        )


def _recall(knn: Json | None) -> str:
    """What a kNN join says about what it missed."""
    if knn is None:
        return "unknown: there was nothing to search"
    found = (
        "unknown: no sampled image has a candidate"
        if knn["recall"] is None
        else f"{knn['recall']:.3f} of {knn['recall_pairs']} candidates of "
        f"{knn['recall_sample_rows']} sampled images"
    )
    full = f"; {knn['num_saturated']} images may have more than k = {knn['k']} neighbours"
    return found + (full if knn["num_saturated"] else "")


def next_step(console: Console, command: str, purpose: str) -> None:
    """A command that one would give next, and what for."""
    facts(console, [("next", f"{command}   {purpose}")])


def status(console: Console, store: Store) -> None:
    """What of a run is done, missing and rejected."""
    with store.remembering():
        _status(console, store)


def _status(console: Console, store: Store) -> None:
    run = store.run()
    stages = [stage for stage in store.stages() if not stage.startswith("blocks/")]
    committed = {stage: set(store.committed(stage)) for stage in stages}
    shard_ids = sorted(run["shards"].keys() | committed["samples"])
    rows = []
    reasons: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    vectors = {stage: EncoderVectors(store, stage.partition("/")[2]) for stage in stages[1:]}
    for shard_id in shard_ids:
        marks = [
            "done" if shard_id in committed[stage] else _parts(vectors.get(stage), shard_id)
            for stage in stages
        ]
        is_done = set(marks) == {"done"}
        if shard_id not in committed["samples"]:
            rows.append((shard_id, *marks, "", "", ""))
            continue
        record = store.record("samples", shard_id)
        totals.update(decodable=record["num_decodable"], quarantined=record["num_quarantined"])
        totals.update(done=is_done, damaged=record["damaged"])
        reasons.update(store.reasons(shard_id))
        for found in (found for each in vectors.values() for found in each.records(shard_id)):
            reasons.update(found.get("reasons", {"nonfinite": found["num_quarantined"]}))
        if len(shard_ids) <= MOST_LISTED or not is_done or record["damaged"]:
            numbers = (str(record["num_decodable"]), str(record["num_quarantined"]))
            rows.append((shard_id, *marks, *numbers, "damaged" if record["damaged"] else ""))
    header = ("shard", *stages, "decodable", "quarantined", "")
    columns(console, [header, *rows[:MOST_LISTED]], header=True)
    if len(rows) > MOST_LISTED:
        console.print(f"... and {len(rows) - MOST_LISTED} further shards that are not done")
    lines = [
        ("running", "yes, a command writes to it" if store.is_written() else "no"),
        ("shards", f"{totals['done']} of {len(shard_ids)} done, {totals['damaged']} damaged"),
        ("decodable", str(totals["decodable"])),
        ("quarantined", str(totals["quarantined"])),
    ]
    lines += [(f"  {reason}", str(number)) for reason, number in reasons.most_common() if number]
    facts(console, lines)
    for shard_id, error in sorted(failures(store).items()):
        if not all(shard_id in committed[stage] for stage in stages):
            console.print(f"failed: {shard_id}: {error}", markup=False)


def _parts(vectors: EncoderVectors | None, shard_id: str) -> str:
    """How much there is of a shard that has not all its vectors."""
    if vectors is None or not vectors.names(shard_id):
        return "missing"
    return f"{len(vectors.ids(shard_id))} in part"


def explanation(console: Console, what: Explanation) -> None:
    """Both cosines of a pair, the thresholds, and the verdict."""
    lines = [("image_1", what.image_1), ("image_2", what.image_2)]
    for name, stands_for in (
        (what.image_1, what.stands_for_1),
        (what.image_2, what.stands_for_2),
    ):
        if name != stands_for:
            lines.append(("copy", f"{name} has the same bytes as {stands_for}"))
    for name, cosine, limit in (
        ("CLIP cosine", what.clip_cos, f"> {what.clip_above}"),
        ("DINO cosine", what.dino_cos, f"< {what.dino_below}"),
    ):
        lines.append((name, f"{'missing' if cosine is None else f'{cosine:.6f}'}, wanted {limit}"))
    facts(console, [*lines, ("verdict", what.verdict)])


def encoders(console: Console) -> None:
    """The registry of encoders."""
    rows = [("name", "pixels", "dim", "pooling", "licence", "weights")]
    for name, record in REGISTRY.items():
        weights = f"{record.library}:{record.model}:{record.weights}"
        sizes = (str(record.crop.size), str(record.dim))
        rows.append((name, *sizes, record.pooling, record.licence, weights))
    columns(console, rows, header=True)
