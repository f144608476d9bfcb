"""Which of the listed shards a run already knows.

Ids are made of the dataset's and the shard's name, never of a place: a corpus may move or its
folder be renamed, and a shard found elsewhere with the same size and checksum is the same shard.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from miner.errors import FingerprintError, ShardError
from miner.records import Json
from miner.shards import Shard, checksum
from miner.store import Store


def settle(listed: Sequence[Shard], store: Store, *, dataset_given: bool) -> list[Shard]:
    """The listed shards under the ids by which the run knows them, sorted by id.

    Args:
        listed: what the patterns expand to.
        store: the run directory; it may not exist yet.
        dataset_given: whether the user named the dataset; then no id is changed.

    Raises:
        FingerprintError: a shard that is committed has other bytes now.
        ShardError: two listed shards end up with one id.
    """
    known = {
        shard_id: store.record("samples", shard_id)["shard"]
        for shard_id in store.committed("samples")
    }
    shards = list(listed) if dataset_given else _adopt(listed, known)
    ids = Counter(shard.shard_id for shard in shards)
    for shard in shards:
        if ids[shard.shard_id] > 1:
            raise ShardError(
                f"two of the listed shards are {shard.shard_id}, one of them {shard.url}; "
                "give --stem-depth 2 or --dataset"
            )
        if shard.shard_id in known and not _same(shard, known[shard.shard_id]):
            raise FingerprintError(
                f"shard {shard.url}: {shard.shard_id} was committed with "
                f"{known[shard.shard_id]['num_bytes']} bytes, sha256 "
                f"{known[shard.shard_id]['sha256'][:12]}, and has other bytes now "
                f"({shard.num_bytes}); restore it, or give another --dataset or --out"
            )
    return sorted(shards, key=lambda shard: shard.shard_id)


def _adopt(listed: Sequence[Shard], known: dict[str, Json]) -> list[Shard]:
    """Take over the dataset's name under which a shard, or its neighbours, were committed."""
    by_url = {committed["url"]: committed for committed in known.values()}
    by_shape: dict[tuple[str, int], list[Json]] = defaultdict(list)
    for committed in known.values():
        by_shape[committed["stem"], committed["num_bytes"]].append(committed)
    own: dict[str, set[str]] = {}
    neighbours: dict[str, set[str]] = defaultdict(set)
    for shard in listed:
        if shard.shard_id in known:
            twins = [known[shard.shard_id]]
        elif shard.url in by_url:
            twins = [by_url[shard.url]]
        else:
            twins = [t for t in by_shape[shard.stem, shard.num_bytes] if _same(shard, t)]
        own[shard.shard_id] = {twin["dataset"] for twin in twins}
        neighbours[shard.dataset] |= own[shard.shard_id]
    adopted = []
    for shard in listed:
        names = own[shard.shard_id] or neighbours[shard.dataset]
        # Where copies of a shard were committed under several names, none of them is certain.
        adopted.append(replace(shard, dataset=min(names)) if len(names) == 1 else shard)
    return adopted


def _same(shard: Shard, committed: Json) -> bool:
    """Whether a shard has the committed bytes; read again only where its date differs."""
    if shard.num_bytes != committed["num_bytes"]:
        return False
    return bool(shard.modified == committed["modified"] or checksum(shard) == committed["sha256"])
