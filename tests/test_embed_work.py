"""The embedding as work: what travels to a worker, and what it holds against that."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from miner.config import EmbedSettings, ReadSettings
from miner.embed import reading_fingerprint
from miner.errors import FingerprintError
from miner.shards import list_shards
from miner.store import Store
from pipelines.embed_work import EmbedShards, ShardTask
from pipelines.executors import Inline
from pipelines.loading import Encoders
from tests.commands import Commands
from tests.small import write_corpus
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
