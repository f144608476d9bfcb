"""What is handed off of a run: selected pairs, what reviewers say of them, and their images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miner.config import ImageLimits
from miner.errors import StoreError
from miner.filesystems import path_parts
from miner.handoff.originals import Place
from miner.handoff.pairs import IMAGES, PAIRS, TEXTS, Handoff, with_short_cosines
from miner.handoff.settings import EncoderFacts, Facts, HandoffSettings
from miner.records import Json
from miner.review import PATTERNS, Decision, consensus
from miner.reviewing.kept import decisions_of
from miner.rows import runs_of, samples_of
from miner.selecting.steps import asked_for, settings_of
from miner.store import Store
from miner.urls import check_has_no_secret
from miner.vectors import EncoderVectors
from miner.versions import versions

_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a run has to hand off.

    Attributes:
        handoff: the pairs and images.
        places: where the bytes of each image are, by sha256.
        reviewed: which pairs were taken, `accepted` or `all`.
        runs: the run, and the one it was joined against, if any.
        num_elsewhere: accepted pairs that this selection does not hold.
        num_repeated: pairs left out because an earlier one is of the same bytes.
    """

    handoff: Handoff
    places: dict[str, Place]
    reviewed: str
    runs: Sequence[Store]
    num_elsewhere: int
    num_repeated: int


def read_source(store: Store, name: str, settings: HandoffSettings) -> Source:
    """What a join of a run has to hand off.

    Args:
        store: the run directory.
        name: the join's.
        settings: which pairs are meant.

    Raises:
        StoreError: the selection is not whole, samples are missing, or no pair is left.
    """
    record = store.join_record(name)
    if (
        record is None
        or "selection" not in record
        or not store.is_whole(record["selection"]["file"])
    ):
        raise StoreError(
            f"{store.place(f'pairs/{name}')} holds no whole selection; "
            f"run `blindpairs select {store.root}` again"
        )
    table = store.read_table(record["selection"]["file"]["path"])
    selected = table.column("pair_id").to_pylist()
    decisions = decisions_of(store)
    said = consensus(decisions)
    accepted = {pair for pair, each in said.items() if each.decision == "accept"}
    # A question that was written down, and no more, is no review.
    is_reviewed = any(each.decision is not None for each in decisions)
    reviewed = settings.reviewed or ("accepted" if is_reviewed else "all")
    distinct = {pair: place for place, pair in reversed(list(enumerate(selected)))}
    wanted = [place for pair, place in distinct.items() if reviewed == "all" or pair in accepted]
    if not wanted:
        raise StoreError(
            f"{store.place(f'pairs/{name}')}: none of {len(selected)} selected pairs is to be "
            f"handed off ({reviewed}; reviewers accepted {len(accepted & distinct.keys())} of "
            "them); accept pairs in the report, or give --reviewed all"
        )
    ranks = table.column("rank").to_pylist()
    wanted = sorted(wanted, key=lambda place: ranks[place])[: settings.limit]
    num_said = Counter(each.pair_id for each in decisions if each.decision is not None)
    rows = [
        _pair(row, said.get(row["pair_id"]), num_said[row["pair_id"]])
        for row in table.take(wanted).to_pylist()
    ]
    samples = _samples(store, record, rows)
    num_accepted = len(accepted & distinct.keys())
    images = {image_id: _image(row) for image_id, row in samples.items()}
    return Source(
        handoff=Handoff(
            pairs=rows,
            images=images,
            facts=_facts(store, record).model_copy(
                update={
                    "num_selected": len(selected),
                    "num_accepted": num_accepted if is_reviewed else None,
                    "datasets": tuple(sorted({row["dataset"] for row in images.values()})),
                }
            ),
        ),
        runs=runs_of(store, record),
        places={row["sha256"]: place_of(row) for row in samples.values()},
        reviewed=reviewed,
        num_elsewhere=len(accepted - distinct.keys()),
        num_repeated=len(selected) - len(distinct),
    )


def place_of(sample: Json) -> Place:
    """Where an image's bytes are, by its row of `samples`."""
    return Place(
        url=sample["shard"],
        member=sample["member"],
        offset=sample["offset"],
        num_bytes=sample["num_bytes"],
    )


def _pair(row: Json, said: Decision | None, num_reviewers: int) -> Json:
    pair = {name: row.get(name) for name in PAIRS.names} | {"num_reviewers": num_reviewers}
    if said is not None:
        said = said.seen_from(row["sha256_1"])
        pair |= {name: getattr(said, name) or None for name in ("decision", "pattern", *TEXTS)}
        pair["statement_1"], pair["statement_2"] = (text or None for text in said.statements)
        pair["pattern_name"] = PATTERNS[said.pattern].name if said.pattern else None
    return with_short_cosines(pair)


def _samples(store: Store, record: Json, rows: Iterable[Json]) -> dict[str, Json]:
    image_ids = sorted({row[name] for row in rows for name in ("image_1", "image_2")})
    samples = samples_of(runs_of(store, record), image_ids)
    if missing := [image_id for image_id in image_ids if image_id not in samples]:
        raise StoreError(
            f"selected pairs name {len(missing)} images that are no samples of {store.root} "
            f"({missing[0]}, ...); run `blindpairs verify {store.root}`"
        )
    return {image_id: samples[image_id] for image_id in image_ids}


def _image(sample: Json) -> Json:
    image = {name: sample[name] for name in IMAGES.names}
    return image | {"shard": public_shard(sample["shard"]), "url": public_url(sample["url"])}


def public_shard(url: str) -> str:
    """A shard as others may see it: its URL, or the last part of a local path."""
    if "://" in url and not url.startswith("file://"):
        return public_url(url) or url
    return path_parts(url)[-1]


def public_url(url: str | None) -> str | None:
    """A URL without user and password, and without a query that holds a signature or token."""
    if url is None:
        return None
    try:
        check_has_no_secret(url)
    except ValueError:
        return _USER.sub(r"\1", url).partition("?")[0]
    return url


def _facts(store: Store, record: Json) -> Facts:
    limits = {k: v for k, v in store.run()["reading"].items() if k in ImageLimits.model_fields}
    return Facts(
        join=record["name"],
        clip=_encoder(store, record["clip"]),
        dino=_encoder(store, record["dino"]),
        clip_above=record["clip_above"],
        dino_below=record["dino_below"],
        datasets=(),
        num_selected=0,
        num_accepted=None,
        asked_for=asked_for(settings_of(record["selection"])),
        limits=ImageLimits(**limits),
        version=versions()["blindpairs"],
    )


def _encoder(store: Store, encoder_id: str) -> EncoderFacts:
    """What the run says of an encoder; vectors that came from elsewhere may say less."""
    vectors = EncoderVectors(store, encoder_id)
    shard_ids = store.committed("samples")
    records = (each for shard_id in shard_ids for each in vectors.records(shard_id))
    said = next(records, {}).get("encoder") or {}
    names = [said[name] for name in ("library", "model", "weights") if name in said]
    return EncoderFacts(
        encoder_id=encoder_id,
        name=said.get("name"),
        weights=":".join(names) or None,
        weights_sha256=said.get("weights_sha256"),
        licence=said.get("licence"),
    )
