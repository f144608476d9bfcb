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
    id_of_url = {committed["url"]: shard_id for shard_id, committed in known.items()}
    ids_of_shape: dict[tuple[str, int], list[str]] = defaultdict(list)
    for shard_id, committed in known.items():
        ids_of_shape[committed["stem"], committed["num_bytes"]].append(shard_id)
    found = {
        shard.shard_id: shard.shard_id if shard.shard_id in known else id_of_url[shard.url]
        for shard in listed
        if shard.shard_id in known or shard.url in id_of_url
    }
    # A committed shard that is listed under its own name or place has not moved.
    unmoved = set(found.values())
    for shard in listed:
        if shard.shard_id not in found:
            candidates = ids_of_shape[shard.stem, shard.num_bytes]
            twins = [i for i in candidates if i not in unmoved and _same(shard, known[i])]
            # Of several copies none is certain to be the one that moved.
            found |= {shard.shard_id: twins[0]} if len(twins) == 1 else {}
    names: dict[str, set[str]] = defaultdict(set)
    for shard in listed:
        if shard.shard_id in found:
            names[shard.dataset].add(known[found[shard.shard_id]]["dataset"])
    adopted = []
    for shard in listed:
        if shard.shard_id in found:
            adopted.append(replace(shard, dataset=known[found[shard.shard_id]]["dataset"]))
        elif len(names[shard.dataset]) == 1:
            adopted.append(replace(shard, dataset=min(names[shard.dataset])))
        else:
            adopted.append(shard)
    return adopted


def _same(shard: Shard, committed: Json) -> bool:
    """Whether a shard has the committed bytes; read again only where its date differs."""
    if shard.num_bytes != committed["num_bytes"]:
        return False
    return bool(shard.modified == committed["modified"] or checksum(shard) == committed["sha256"])
