"""The embedding as work: what travels to a worker, and what it holds against that."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.gate import AMOUNTS, first_images
from miner.config import EmbedSettings, ImageLimits, ReadSettings
from miner.embed import reading_fingerprint
from miner.errors import FingerprintError
from miner.shards import Shard, list_shards
from miner.store import Store
from pipelines.embed_work import (
    FIRST_FILES,
    FIRST_SHARDS,
    EmbedShards,
    ShardTask,
    first_shards,
)
from pipelines.executors import Inline
from pipelines.loading import Encoders
from tests.commands import Commands
from tests.small import jpeg, write_corpus
from tests.towers import write_clip_weights


@pytest.fixture
def work(commands: Commands, tmp_path: Path) -> EmbedShards:
    clip, dino = (Path(commands.encoders[place]) for place in (3, 7))
    settings = EmbedSettings(
        clip="small-clip",
        dino="small-dino",
        clip_weights=clip,
        dino_weights=dino,
        decoders="thread",
        device="cpu",
    )
    read = ReadSettings()
    Store(tmp_path / "run").update_run(reading_fingerprint(read), {}, {"command": "embed"})
    records = Encoders(settings).records
    return EmbedShards(
        root=tmp_path / "run",
        read=read,
        encode=settings,
        how=None,
        records=records,
        wanted=[record.encoder_id for record in records],
        first_shards=(),
    )


def test_it_travels_and_does_the_same_there(work: EmbedShards, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", num_shards=2, images=8)
    tasks = [ShardTask(shard=shard) for shard in list_shards([str(tmp_path / "corpus")])]
    arrived = pickle.loads(pickle.dumps(work))
    outcomes = list(Inline().run(arrived, tasks))
    assert [outcome.task for outcome in outcomes] == tasks
    assert [o.report.stats.counts["decodable"] for o in outcomes if o.report] == [7, 7]
    assert Store(work.root).committed("samples") == ["corpus.00000", "corpus.00001"]
    # What is committed meanwhile is reported too, with nothing done.
    outcomes = list(Inline().run(work, tasks))
    assert [dict(o.report.stats.counts) for o in outcomes if o.report] == [{}, {}]


def test_a_million_files_of_a_tree_do_not_travel_to_every_worker(work: EmbedShards) -> None:
    files = tuple(f"n01440764/n01440764_{number:05d}.JPEG" for number in range(10_000))
    tree = [
        Shard(
            dataset="tree", stem=f"{place:05d}", url="/tree", num_bytes=1, modified="1", files=files
        )
        for place in range(FIRST_SHARDS)
    ]
    cut = first_shards(tree)
    assert [shard.files for shard in cut] == [files[:FIRST_FILES]]
    assert len(pickle.dumps(replace(work, first_shards=cut))) < 2**16
    # Two small slices, with tars beside them, are whole.
    few = [replace(tree[0], files=files[:500]), replace(tree[1], files=()), tree[2]]
    assert first_shards(few) == [*few[:2], replace(tree[2], files=files[: FIRST_FILES - 500])]
    assert max(amounts.read for amounts in AMOUNTS.values()) * 4 == FIRST_FILES


def test_a_proof_sees_the_first_images_of_a_tree(work: EmbedShards, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(6):
        (tmp_path / "tree" / f"{number}.jpg").write_bytes(jpeg(number))
    (shard,) = list_shards([str(tmp_path / "tree")])
    limits = work.read.part(ImageLimits)
    groups = [
        first_images(shards, work.records, 3, limits=limits)
        for shards in ([shard], [replace(shard, files=shard.files[:3])])
    ]
    for whole, cut in zip(*groups, strict=True):
        assert len(whole.pixels_NCHW) == 3
        assert torch.equal(whole.pixels_NCHW, cut.pixels_NCHW)


def test_a_worker_keeps_to_its_cores_and_says_that_it_writes(work: EmbedShards) -> None:
    before = torch.get_num_threads()
    try:
        worker = work.open(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with Store(work.root).alone() as alone:
        assert not alone
    worker.close()
    with Store(work.root).alone() as alone:
        assert alone


def test_a_worker_with_other_weights_is_refused(work: EmbedShards) -> None:
    work.open().close()
    assert work.encode.clip_weights is not None
    write_clip_weights(work.encode.clip_weights, seed=9)
    os.utime(work.encode.clip_weights, ns=(1, 1))
    with pytest.raises(FingerprintError, match="small-clip: a worker has another one than the dr"):
        work.open()


def test_a_worker_that_would_read_other_samples_is_refused(work: EmbedShards) -> None:
    other = replace(work, read=ReadSettings(max_pixels=10**6))
    with pytest.raises(FingerprintError, match="a worker would read other samples than the driver"):
        other.open()
