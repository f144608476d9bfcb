import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from miner.batch import Busy, Seen
from miner.config import FeedSettings, ImageLimits
from miner.decode import Decode, Refused, decode_order
from miner.encode import Encoded, Work, encode_all, encode_arriving
from miner.encoders import Encoder
from miner.samples import Sample
from miner.schema import Reason
from miner.shards import Shard
from miner.stats import Laps
from tests.dying import KILLS, dying
from tests.small import jpeg, small_encoders

SETTINGS = FeedSettings(batch_size=4, decoders="process", num_decoders=2)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    clip, dino = small_encoders(tmp_path_factory.mktemp("weights"))
    return {"clip": clip, "dino": dino}


def shard(stem: str) -> Shard:
    return Shard(dataset="set", stem=stem, url=f"/{stem}.tar", num_bytes=1, modified="1")


def sample(seed: int, data: bytes | None = None) -> Sample:
    return Sample(
        key=f"{seed:03d}",
        member=f"{seed:03d}.jpg",
        offset=0,
        data=jpeg(seed) if data is None else data,
        caption=None,
        url=None,
        label=None,
        meta="{}",
    )


def work(stem: str, samples: list[Sample], *roles: str) -> Work:
    return Work(shard=shard(stem), items=samples, roles=roles)


def encoded(
    works: list[Work], encoders: dict[str, Encoder], decode: Decode = decode_order
) -> list[Encoded[Work]]:
    return list(encode_all(works, encoders, limits=ImageLimits(), settings=SETTINGS, decode=decode))


def test_some_samples_of_a_shard_by_one_encoder(encoders: dict[str, Encoder]) -> None:
    """Samples may come from anywhere, and one encoder may look at them alone."""
    whole = [sample(seed) for seed in range(10)]
    both, some = encoded(
        [work("a", whole, "clip", "dino"), work("a", whole[2:9:3], "dino")], encoders
    )
    assert set(some.vectors) == {"dino"}
    assert some.vectors["dino"].image_ids == ["set/a/002", "set/a/005", "set/a/008"]
    np.testing.assert_allclose(
        some.vectors["dino"].vectors_ND, both.vectors["dino"].vectors_ND[2:9:3], atol=1e-5
    )
    assert both.core_seconds["decode"] > 0


def test_image_that_kills_its_decoder_costs_itself_alone(encoders: dict[str, Encoder]) -> None:
    samples = [sample(seed) for seed in range(9)]
    deadly = [*samples[:5], sample(99, KILLS), *samples[5:]]
    (truth,) = encoded([work("a", samples, "clip", "dino")], encoders)
    killed, after = encoded(
        [work("a", deadly, "clip", "dino"), work("b", samples, "clip")], encoders, dying
    )
    outcomes = [entry.outcome for entry in killed.entries if isinstance(entry, Seen)]
    assert len(outcomes) == 10
    assert isinstance(outcomes[5], Refused)
    assert outcomes[5].reason is Reason.CRASHED_DECODER
    for role, vectors in killed.vectors.items():
        assert vectors.image_ids == truth.vectors[role].image_ids
        np.testing.assert_allclose(vectors.vectors_ND, truth.vectors[role].vectors_ND, atol=1e-5)
    np.testing.assert_array_equal(
        after.vectors["clip"].vectors_ND, truth.vectors["clip"].vectors_ND
    )


def test_waiting_is_given_to_what_held_it_up(encoders: dict[str, Encoder]) -> None:
    def slowly() -> object:
        for seed in range(3):
            time.sleep(0.15)
            yield sample(seed)

    laps = Laps()
    slow = Work(shard=shard("a"), items=slowly(), roles=("clip",))  # type: ignore[arg-type]
    settings = FeedSettings(batch_size=4, decoders="thread")
    list(encode_all([slow], encoders, limits=ImageLimits(), settings=settings, laps=laps))
    seconds = laps.take()
    assert seconds["read"] > 0.35
    assert seconds["read"] > 5 * seconds["decode"]


def test_works_that_arrive_are_read_ahead_between_two_batches(
    encoders: dict[str, Encoder],
) -> None:
    """And what is in hand is finished where no other work is there yet."""
    said: list[str] = []

    def works() -> Iterator[Work | None]:
        yield work("a", [sample(seed) for seed in range(12)], "clip")
        for arriving in ("b", "c"):
            yield None
            said.append("asked between batches")
            yield None
            said.append(f"asked again for {arriving}")
            if arriving == "c":
                yield None
                said.append("asked with nothing in hand")
            yield work(arriving, [sample(1)], "clip")

    for each in encode_arriving(works(), encoders, limits=ImageLimits(), settings=SETTINGS):
        done = isinstance(each, Encoded) and f"{each.work.shard.stem} done"
        said.append(done or str(each).removeprefix("Pause."))
    assert said == [
        *("asked between batches", "BATCH", "asked again for b", "a done"),
        *("asked between batches", "BATCH", "b done", "asked again for c", "IDLE"),
        *("asked with nothing in hand", "c done"),
    ]


def test_trace_holds_the_stages(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    path = tmp_path / "traces" / "trace.json"
    settings = FeedSettings(batch_size=2, decoders="thread", profile=path)
    works = [work("a", [sample(seed) for seed in range(4)], "clip", "dino")]
    list(encode_all(works, encoders, limits=ImageLimits(), settings=settings))
    text = path.read_text()
    assert all(f'"name": "{name}"' in text for name in ("feed", "clip", "dino"))
    # A later pass of the same command, DINO's over candidates above all, has no trace.
    list(
        encode_all(
            [work("b", [sample(9)], "dino")], encoders, limits=ImageLimits(), settings=settings
        )
    )
    assert path.read_text() == text


def test_busy_seconds_add_up() -> None:
    a, b = Busy(1, 2, 3, 4), Busy(0.5, 0.5, 1, 1)
    assert a + b == Busy(1.5, 2.5, 4, 5)
    assert a - b == Busy(0.5, 1.5, 2, 3)
