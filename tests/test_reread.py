from pathlib import Path

from miner.config import ReadSettings
from miner.embed import embed_shard, reading_fingerprint
from miner.reread import READ_THROUGH_BYTES, committed_shard, committed_shards, reads_through
from miner.shards import list_shards
from miner.store import Store
from tests.small import jpeg, small_encoders


def test_shards_are_known_as_they_were_read(tmp_path: Path) -> None:
    """With their images, of a folder tree, and where they were seen last."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for seed in range(3):
        (tree / f"{seed}.jpg").write_bytes(jpeg(seed))
    (shard,) = list_shards([str(tree)])
    store = Store(tmp_path / "run")
    seen = {shard.shard_id: {"url": shard.url}}
    store.update_run(reading_fingerprint(ReadSettings()), seen, {"command": "test"})
    encoders = small_encoders(tmp_path / "weights")
    embed_shard(shard, encoders, store=store, settings=ReadSettings(), batch_size=4)
    assert list(committed_shards(store)) == [shard]
    moved = tree.rename(tmp_path / "elsewhere")
    seen = {shard.shard_id: {"url": str(moved)}}
    store.update_run(reading_fingerprint(ReadSettings()), seen, {"command": "test"})
    assert [each.url for each in committed_shards(store)] == [str(moved)]
    assert committed_shard(store, shard.shard_id).url == shard.url


def test_a_shard_is_read_through_where_gaps_are_small() -> None:
    def rows(gap: int) -> list[dict[str, int]]:
        return [{"offset": place * (gap + 100), "num_bytes": 100} for place in range(5)]

    assert reads_through(rows(READ_THROUGH_BYTES))
    assert not reads_through(rows(READ_THROUGH_BYTES + 1))
    assert not reads_through(rows(0)[:1])
