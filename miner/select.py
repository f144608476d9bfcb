"""Which blind pairs a person should look at: filtered, near-copies collapsed, capped, ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner import schema
from miner.config import SelectSettings
from miner.errors import FingerprintError, StoreError
from miner.records import Json, digest
from miner.rows import runs_of, sample_table
from miner.selecting.about import text_vector
from miner.selecting.decontaminate import ways_of
from miner.selecting.image_lists import contents_of, read_list, run_at
from miner.selecting.ranked_steps import about_cosines
from miner.selecting.ranking import rank_order
from miner.selecting.raw_pairs import RawPairs, Rows
from miner.selecting.steps import STEP_OF, STEPS, columns_of, settings_of, step_counts
from miner.selecting.verdicts import KEPT
from miner.store import Store
from miner.urls import shown

FIRST_SETTINGS = ("near_clip", "near_dino", "max_per_image", "labels", "rank_by")
"""Settings of the first selections, whose fingerprints stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the steps say of every pair.

    Attributes:
        words: [P] text, `kept` or the word by which a step dropped the pair.
        kept: rows of the selected pairs, in rank order.
    """

    words: npt.NDArray[Any]
    kept: Rows


def judge(pairs: RawPairs, settings: SelectSettings) -> Judgement:
    """Lead the pairs through the steps, each of which looks at what is left, in rank order."""
    words = np.full(len(pairs), KEPT, dtype=object)
    left = rank_order(pairs.raw, settings)
    for step in STEPS:
        if step.is_asked(settings) and len(left):
            said = step.decide(pairs, settings, left)
            words[left[said != ""]] = said[said != ""]
            left = left[said == ""]
    return Judgement(words=words, kept=left)


def select(store: Store, name: str, settings: SelectSettings) -> Json:
    """Write a join's `selected.parquet`, unless it is there already.

    Args:
        store: the run directory.
        name: the join's.
        settings: what is left out, near-copies, cap and ranking.

    Returns:
        The content of join.json, with the selection's counts.

    Raises:
        StoreError: the join is not whole, or lacks what a step asks for.
        ResourceError: the list of `--not-in` or the weights of `--about` are not there.
        ValueError: a setting leaves no pair of this join.
    """
    with store.lock(name):
        record = store.join_record(name)
        if record is None:
            raise StoreError(
                f"{store.place(f'pairs/{name}')} holds no whole join; "
                f"run `blindpairs join {store.root}` again"
            )
        check_leaves_something(record["clip_above"], settings, runs_of(store, record))
        fingerprint = _fingerprint(record, settings)
        done = record.get("selection")
        if done and done["fingerprint"] == fingerprint and store.is_whole(done["file"]):
            return record
        pairs = _pairs_of(store, name, record, settings, _text_of(store, record, settings))
        judgement = judge(pairs, settings)
        counts = dict(sorted(Counter(judgement.words.tolist()).items()))
        table = _selected_table(pairs, judgement.kept)
        # A report of the former selection would show other pairs.
        base = f"pairs/{name}"
        store.files.delete_folder(f"{base}/report")
        record["selection"] = {
            "fingerprint": fingerprint,
            **_told(pairs, settings),
            "counts": counts,
            "steps": [asdict(each) for each in step_counts(counts, settings)],
            "file": asdict(store.write_table(table, base, "selected.parquet")),
        }
        store.replace_record(f"{base}/join.json", record)
        return record


def verdict_on(store: Store, name: str, record: Json, row: int) -> str:
    """What the selection of a join says of a pair, in half a sentence.

    Args:
        store: the run directory.
        name: the join's.
        record: the content of join.json, with a selection.
        row: the pair's in `raw`.

    Raises:
        FingerprintError: what the selection was made with is not what it was.
    """
    selection = record["selection"]
    settings = settings_of(selection)
    if _fingerprint(record, settings) != selection["fingerprint"]:
        raise FingerprintError(
            f"{store.place(f'pairs/{name}')}: the join, or the list of --not-in "
            f"({settings.not_in}), is not what was selected from; run `blindpairs select "
            f"{store.root}` again"
        )
    about = selection.get("about_vector")
    text_D = None if about is None else np.array(about, np.float32)
    pairs = _pairs_of(store, name, record, settings, text_D)
    word = judge(pairs, settings).words[row]
    if word == KEPT:
        return "selected"
    return f"not selected: {STEP_OF[word].tell(word, pairs, settings, row)}"


def check_leaves_something(
    clip_above: float, settings: SelectSettings, runs: Sequence[Store]
) -> None:
    """Refuse settings that leave no pair, whatever the images are.

    Args:
        clip_above: of the join.
        settings: of the selection.
        runs: whose images are joined.

    Raises:
        ValueError: they do.
    """
    below = settings.clip_below
    if below is not None and below <= clip_above:
        raise ValueError(
            f"--clip-below {below:g} leaves no pair of a join of those above {clip_above:g}; give "
            "a higher one, or join with a lower --clip-above"
        )
    other = None if settings.not_in is None else run_at(settings.not_in)
    if other is not None and other.files.address in {run.files.address for run in runs}:
        raise ValueError(
            f"--not-in {settings.not_in} is a run whose own pairs are selected from, which leaves "
            "none; name another run, or leave it out"
        )


def _pairs_of(
    store: Store,
    name: str,
    record: Json,
    settings: SelectSettings,
    text_D: npt.NDArray[np.float32] | None,
) -> RawPairs:
    listed = None if settings.not_in is None else read_list(settings.not_in)
    columns = columns_of(settings)
    return RawPairs(store, store.raw(name), record, columns=columns, listed=listed, text_D=text_D)


def _text_of(
    store: Store, record: Json, settings: SelectSettings
) -> npt.NDArray[np.float32] | None:
    if settings.about is None:
        return None
    return text_vector(store, record["clip"], settings.about, settings.clip_weights)


def _fingerprint(record: Json, settings: SelectSettings) -> str:
    """What decides which pairs are selected; settings that came later count where they are used.

    Weights do not: only those that made the vectors are taken.
    """
    given = settings.model_dump(exclude={"clip_weights"})
    own = {name: given[name] for name in FIRST_SETTINGS}
    own |= settings.model_dump(exclude_defaults=True, exclude={"clip_weights"})
    if settings.not_in is not None:
        own["not_in"] = contents_of(settings.not_in, (record["clip"], record["dino"]))
    return digest({"settings": own, "join": record["fingerprint"]})


def _told(pairs: RawPairs, settings: SelectSettings) -> Json:
    """What join.json says of a selection's settings; no query of a URL."""
    place = None if settings.not_in is None else shown(settings.not_in)
    told: Json = {
        "settings": settings.model_dump(exclude={"clip_weights"}) | {"not_in": place},
    }
    if pairs.listed is not None:
        told["not_in"] = {
            "images": pairs.listed.num_images,
            "unread": pairs.listed.num_unread,
            "without_bytes": pairs.listed.num_without_bytes,
            "known_by": ways_of(pairs.listed, pairs.record["clip"], pairs.record["dino"]),
        }
    if pairs.text_D is not None:
        told["about_vector"] = pairs.text_D.tolist()
    return told


def _selected_table(pairs: RawPairs, rows: Rows) -> pa.Table:
    kept = pairs.raw.take(pa.array(rows, pa.int64()))
    columns: dict[str, Any] = {name: kept[name] for name in kept.column_names}
    columns["rank"] = pa.array(range(1, len(rows) + 1), pa.int64())
    if pairs.text_D is not None:
        columns["about_cos"] = pa.array(about_cosines(pairs, rows).astype(np.float32))
    for suffix in ("_1", "_2"):
        image_ids = kept[f"image{suffix}"].combine_chunks()
        samples = sample_table(pairs.runs, image_ids, schema.IMAGE_COLUMNS)
        columns |= {name + suffix: samples[name] for name in schema.IMAGE_COLUMNS}
    target = schema.selected(
        with_blind="blind" in kept.column_names, with_about=pairs.text_D is not None
    )
    table = pa.Table.from_pydict({name: columns[name] for name in target.names}, schema=target)
    return table.combine_chunks()
