"""Checks a whole run directory: every record, hash and count."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from miner.errors import MinerError, StoreError
from miner.records import Json
from miner.review import parse_decisions
from miner.store import Store
from miner.vectors import EncoderVectors, shard_of

log = logging.getLogger(__name__)

UNIT_TOLERANCE = 2e-3
"""How far float16 storage may take a vector's length from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it has to be: where, and what."""

    path: str
    problem: str


def verify(store: Store) -> list[Finding]:
    """Check every commit, hash and count of a run.

    Args:
        store: the run directory.

    Returns:
        What is wrong; an empty list where all is well.

    Raises:
        StoreError: the folder holds no run.
    """
    store.run()
    return [*_commit_findings(store), *_join_findings(store), *_review_findings(store)]


def collect_garbage(store: Store, *, spare: tuple[str, ...] = ()) -> list[str]:
    """Remove files that no commit names, unless somebody writes to the run just now.

    Parts of vectors go with them where their shard has all its vectors by now.

    Args:
        store: the run directory.
        spare: folders of the run that are left alone.

    Returns:
        The removed paths, relative to the run.
    """
    removed = []
    with store.alone() as alone:
        if alone:
            removed += _withdraw_superseded(store)
        else:
            # In a bucket it may be one who died a moment ago; nobody comes back to tidy up.
            log.log(
                logging.INFO if store.is_local else logging.WARNING,
                "%s: somebody else writes, or did until two minutes ago, so that what dead "
                "attempts left is kept; `blindpairs verify --gc` removes it later",
                store.root,
            )
        for path in store.leftovers() if alone else []:
            if path.split("/")[0] not in spare:
                store.files.delete(path, prune=True)
                removed.append(path)
        scratch = store.scratch
        is_spared = "packed" in spare or not alone
        if not is_spared and scratch.is_dir() and not any(scratch.iterdir()):
            scratch.rmdir()
    return removed


def _withdraw_superseded(store: Store) -> list[str]:
    """Take back parts that nobody reads any more; their paths."""
    removed = []
    for encoder_id in store.encoder_ids():
        vectors = EncoderVectors(store, encoder_id)
        for name in vectors.superseded():
            removed += [file["path"] for file in store.record(vectors.stage, name)["files"]]
            store.withdraw(vectors.stage, name)
    return removed


def _commit_findings(store: Store) -> Iterator[Finding]:
    for stage in store.stages():
        for shard_id in store.committed(stage):
            path = store.commit_path(stage, shard_id)
            try:
                record = store.record(stage, shard_id)
                broken = [file["path"] for file in record["files"] if not store.is_whole(file)]
                for name in broken:
                    remedy = f"restore it, or remove {path} and run the same command again"
                    yield Finding(path=name, problem=f"missing, or not as {path} says; {remedy}")
                if broken:
                    continue
                check = CHECKS[stage.partition("/")[0]]
                for problem in check(store, shard_id, record):
                    yield Finding(path=path, problem=problem)
            except MinerError as error:
                yield Finding(path=path, problem=str(error))


def _samples_problems(store: Store, shard_id: str, record: Json) -> Iterator[str]:
    samples = store.table(record, "samples")
    num_refused = store.table(record, "quarantine").num_rows
    if samples.num_rows + num_refused != record["num_samples"]:
        yield (
            f"{record['num_samples']} samples were read, but {samples.num_rows} are decodable "
            f"and {num_refused} quarantined"
        )
    if len(set(samples["image_id"].to_pylist())) != samples.num_rows:
        yield "two samples have one image_id"
    num_bytes = record["shard"]["num_bytes"]
    if record["bytes"] is not None and sum(record["bytes"].values()) != num_bytes:
        yield f"{sum(record['bytes'].values())} of {num_bytes} bytes are accounted for"


def _vectors_problems(store: Store, name: str, record: Json) -> Iterator[str]:
    shard_id = shard_of(name)
    samples = store.record("samples", shard_id)
    if record["samples_sha256"] != samples["files"][0]["sha256"]:
        yield "the vectors were made from other samples than are committed"
    image_ids, vectors_ND = store.vectors(record["encoder_id"], name)
    num_refused = sum(f["rows"] for f in record["files"] if f["path"].startswith("quarantine/"))
    known = set(store.samples(shard_id)["image_id"].to_pylist())
    # A part is of some images, but of none that the samples do not have.
    is_whole = name == shard_id
    if set(image_ids) - known or (is_whole and len(image_ids) + num_refused != len(known)):
        yield f"{len(image_ids)} vectors and {num_refused} refusals for {len(known)} samples"
    if num_refused != record["num_quarantined"]:
        yield f"{num_refused} refusals, and {record['num_quarantined']} are said"
    lengths = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
    # Negated, so that NaN counts as wrong.
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(wrong):
        yield f"the vector of {image_ids[wrong[0]]} has length {lengths[wrong[0]]:.4f}, not 1"


def _block_problems(store: Store, name: str, record: Json) -> Iterator[str]:
    found = store.table(record, "blocks").num_rows
    if found != record["num_kept"]:
        yield f"block {name} has {found} rows, its record says {record['num_kept']}"


CHECKS = {"samples": _samples_problems, "vectors": _vectors_problems, "blocks": _block_problems}


def _join_findings(store: Store) -> Iterator[Finding]:
    for name in store.joins():
        path = f"pairs/{name}/join.json"
        try:
            record = store.read_record(path)
        except StoreError as error:
            yield Finding(path=path, problem=str(error))
            continue
        selection = [record["selection"]["file"]] if "selection" in record else []
        for file in record["files"] + selection:
            if not store.is_whole(file):
                problem = f"missing, or not as {path} says; run `blindpairs join` again"
                yield Finding(path=file["path"], problem=problem)


def _review_findings(store: Store) -> Iterator[Finding]:
    for name in store.files.names("review"):
        path = f"review/{name}"
        if not name.endswith(".jsonl"):
            continue
        try:
            spoke = {said.reviewer for said in parse_decisions(store.files.read(path), "the file")}
        except StoreError as error:
            yield Finding(path=path, problem=str(error))
            continue
        if others := sorted(spoke - {name.removesuffix(".jsonl")}):
            problem = (
                f"holds decisions of {', '.join(others)}; `blindpairs review merge` sorts them"
            )
            yield Finding(path=path, problem=problem)
