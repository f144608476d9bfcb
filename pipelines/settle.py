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
    same = _Sameness(store.run()["shards"] if store.exists() else {})
    shards = list(listed) if dataset_given else _adopt(listed, known, same)
    ids = Counter(shard.shard_id for shard in shards)
    for shard in shards:
        committed = known.get(shard.shard_id)
        if ids[shard.shard_id] > 1:
            raise ShardError(
                f"two of the listed shards are {shard.shard_id}, one of them {shard.url}; "
                "give --stem-depth 2 or --dataset"
            )
        if committed is not None and not same(shard, shard.shard_id, committed):
            raise FingerprintError(
                f"shard {shard.url}: {shard.shard_id} was committed with "
                f"{committed['num_bytes']} bytes, sha256 {committed['sha256'][:12]}, and has other "
                f"bytes now ({shard.num_bytes}); restore it, or give another --dataset or --out"
            )
    return sorted(shards, key=lambda shard: shard.shard_id)


class _Sameness:
    """Whether a shard has the committed bytes; read again only where nothing else tells."""

    def __init__(self, seen: dict[str, Json]) -> None:
        """Take the sightings that run.json remembers: url, bytes and date by shard_id."""
        self.seen = seen
        self._checksums: dict[tuple[str, tuple[str, ...]], str] = {}

    def __call__(self, shard: Shard, shard_id: str, committed: Json) -> bool:
        if shard.num_bytes != committed["num_bytes"]:
            return False
        # A date vouches for a shard at its own place only: another file may well have the same.
        sightings = (committed, self.seen.get(shard_id, committed))
        if (shard.url, shard.modified) in [(s["url"], s["modified"]) for s in sightings]:
            return True
        place = (shard.url, shard.files)
        if place not in self._checksums:
            self._checksums[place] = checksum(shard)
        return self._checksums[place] == str(committed["sha256"])


def _adopt(listed: Sequence[Shard], known: dict[str, Json], same: _Sameness) -> list[Shard]:
    """Take over the names under which a shard, or its neighbours, were committed."""
    id_of_place = {(known[i]["url"], known[i]["stem"]): i for i in known}
    id_of_place |= {
        (seen["url"], known[i]["stem"]): i for i, seen in same.seen.items() if i in known
    }
    ids_of_size: dict[int, list[str]] = defaultdict(list)
    for shard_id, committed in known.items():
        ids_of_size[committed["num_bytes"]].append(shard_id)
    found = {}
    for shard in listed:
        if shard.shard_id in known:
            found[shard.shard_id] = shard.shard_id
        elif (shard.url, shard.stem) in id_of_place:
            found[shard.shard_id] = id_of_place[shard.url, shard.stem]
    # A committed shard that is listed under its own name or place has not moved.
    unmoved = set(found.values())
    for shard in listed:
        if shard.shard_id not in found:
            sizes = [i for i in ids_of_size[shard.num_bytes] if i not in unmoved]
            twins = [i for i in sizes if same(shard, i, known[i])]
            # Of several copies none is certain to be the one that moved.
            found |= {shard.shard_id: twins[0]} if len(twins) == 1 else {}
    names: dict[str, set[str]] = defaultdict(set)
    for shard in listed:
        if shard.shard_id in found:
            names[shard.dataset].add(known[found[shard.shard_id]]["dataset"])
    adopted = []
    for shard in listed:
        if shard.shard_id in found:
            was = known[found[shard.shard_id]]
            adopted.append(replace(shard, dataset=was["dataset"], stem=was["stem"]))
        elif len(names[shard.dataset]) == 1:
            adopted.append(replace(shard, dataset=min(names[shard.dataset])))
        else:
            adopted.append(shard)
    return adopted
