"""No engine is used that differs from its encoder, on scenes or on the user's own images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import export.cache
from export.gate import AMOUNTS, Gate, amounts_on, first_images, groups_for, usual_threshold
from export.look import Group
from miner.config import ExcludeSettings, ImageLimits
from miner.encoders import TorchEncoder, find_record, load_encoder
from miner.errors import ParityError, ResourceError
from miner.images import Decoded, decode
from miner.shards import list_shards
from tests.small import jpeg, write_corpus


class Planted:
    """An encoder whose vectors are changed on their way out."""

    def __init__(self, real: TorchEncoder, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.record, self.encoder_id, self.dim = real.record, real.encoder_id, real.dim
        self.device, self.backend, self.precision = real.device, "planted", real.precision
        self.deviation = 0.0
        self.calls = 0
        self._real, self._change = real, change

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self._change(self._real(pixels_BCHW))


@pytest.fixture(scope="module")
def truth() -> TorchEncoder:
    return load_encoder("demo-dino")


@pytest.fixture(scope="module")
def own(truth: TorchEncoder, tmp_path_factory: pytest.TempPathFactory) -> Group:
    """The first images of a corpus, of which one in twelve is none."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, num_shards=4)
    (group,) = first_images(list_shards([str(folder)]), [truth.record], 32, limits=ImageLimits())
    return group


def first(group: Group, number: int) -> Group:
    return group.picked(range(number), num_blends=0)


def gate(truth: TorchEncoder, own: Group | None, folder: Path) -> Gate:
    return Gate(load_truth=lambda: truth, own=own, batch_size=16, threshold=0.95, proofs=folder)


def test_broken_images_and_unreadable_shards_are_passed_over(
    truth: TorchEncoder, own: Group, tmp_path: Path
) -> None:
    assert len(own) == 32
    paths = write_corpus(tmp_path, num_shards=2)
    shards = list_shards([str(path) for path in paths])
    paths[0].unlink()
    (group,) = first_images(shards, [truth.record], 100, limits=ImageLimits())
    assert len(group) == 11


def test_crops_are_kept_and_the_runs_limits_hold(truth: TorchEncoder, tmp_path: Path) -> None:
    write_corpus(tmp_path, num_shards=2)
    shards = list_shards([str(tmp_path)])
    records = [truth.record, find_record("demo-clip")]
    groups = first_images(shards, records, 100, limits=ImageLimits(), limit=5)
    for group, record in zip(groups, records, strict=True):
        size = record.image_size
        assert group.pixels_NCHW.shape == (len(group), 3, size, size)
        assert group.reference_NCHW.shape == group.pixels_NCHW.shape
    assert {len(group) for group in groups} <= {4, 5}
    small = ImageLimits(max_pixels=80 * 96 - 1)
    (none,) = first_images(shards, [truth.record], 100, limits=small)
    assert len(none) == 0


def test_excluded_images_are_not_decoded(
    truth: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = list_shards([str(write_corpus(tmp_path, num_shards=1)[0])])
    decoded: list[bytes] = []

    def spy(data: bytes, limits: ImageLimits) -> Decoded:
        decoded.append(data)
        return decode(data, limits)

    monkeypatch.setattr("export.gate.decode", spy)
    ids = tmp_path / "ids.txt"
    ids.write_text("000000001\n000000003\n")
    exclude = ExcludeSettings(exclude_ids=str(ids))
    (group,) = first_images(shards, [truth.record], 99, limits=ImageLimits(), exclude=exclude)
    assert (len(group), len(decoded)) == (9, 10)
    assert not {jpeg(1), jpeg(3)} & set(decoded)


def test_scenes_always_and_own_images_where_they_are_enough(
    truth: TorchEncoder, own: Group, caplog: pytest.LogCaptureFixture
) -> None:
    few = groups_for(truth, first(own, 15), 16)
    assert "demo-dino is judged on rendered scenes alone; of the run's own images 15" in caplog.text
    caplog.clear()
    both = groups_for(truth, own, 16)
    assert groups_for(truth, None, 16)[0].sha256 == both[0].sha256
    assert caplog.messages == []
    assert [group.name for group in few] == ["scenes"]
    assert [group.name for group in both] == ["scenes", "own"]
    amounts = amounts_on(truth.device)
    assert amounts is AMOUNTS["cpu"]
    assert [len(group) for group in both] == [32 + amounts.blends, amounts.picked + amounts.blends]


def test_an_equal_engine_passes_once_and_is_remembered(
    truth: TorchEncoder, own: Group, tmp_path: Path
) -> None:
    exact = Planted(truth, lambda vectors_BD: vectors_BD)
    assert gate(truth, own, tmp_path)(exact, {}) == exact.deviation < 1e-6
    before = exact.calls
    # Then its own images are looked at again, and no more than that.
    assert gate(truth, own, tmp_path)(exact, {}) == exact.deviation
    assert exact.calls == before + 2
    # Another engine file, or one that was just built, has to prove itself.
    before = exact.calls
    gate(truth, own, tmp_path)(exact, {"files": [["engine.plan", "1"]]})
    assert exact.calls > before + 4
    before = exact.calls
    gate(truth, own, tmp_path)(exact, {}, anew=True)
    assert exact.calls > before + 4
    # On other images it has to prove itself again.
    before = exact.calls
    gate(truth, first(own, 20), tmp_path)(exact, {})
    assert exact.calls > before + 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        pytest.param(lambda vectors_BD: 1.01 * vectors_BD, "norm of all", id="longer"),
        pytest.param(lambda vectors_BD: torch.nan * vectors_BD, "finite of all", id="no number"),
        pytest.param(lambda vectors_BD: vectors_BD.flip(0), "position of all", id="another order"),
    ],
)
def test_another_engine_is_refused(
    truth: TorchEncoder,
    own: Group,
    tmp_path: Path,
    change: Callable[[torch.Tensor], torch.Tensor],
    what: str,
) -> None:
    with pytest.raises(ParityError, match=what):
        gate(truth, own, tmp_path)(Planted(truth, change), {})
    assert not list(tmp_path.iterdir())


def test_what_goes_wrong_on_own_images_alone_is_seen(
    truth: TorchEncoder, own: Group, tmp_path: Path
) -> None:
    """An engine that is right on scenes: smooth pictures come out a little off."""
    size = truth.record.image_size
    smooth = groups_for(truth, own, 16)[1].pixels_NCHW

    class OffWhereSmooth(Planted):
        def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            vectors_BD = super().__call__(pixels_BCHW).clone()
            for row, pixels_CHW in enumerate(pixels_BCHW):
                if any(torch.equal(pixels_CHW, known_CHW) for known_CHW in smooth):
                    vectors_BD[row] += 0.05 * vectors_BD[row].roll(1)
            return torch.nn.functional.normalize(vectors_BD, dim=-1)

    assert smooth.shape[2] == size
    off = OffWhereSmooth(truth, lambda vectors_BD: vectors_BD)
    gate(truth, None, tmp_path)(off, {})
    with pytest.raises(ParityError, match="pair max of own"):
        gate(truth, own, tmp_path)(off, {})


def test_a_proof_that_is_written_first_leaves_a_cache_that_the_next_run_takes(
    truth: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where new folders are writable for the group."""
    monkeypatch.setattr(export.cache, "DEFAULT_ROOT", tmp_path / "cache")
    before = os.umask(0o002)
    try:
        for _ in range(2):
            prove = Gate(load_truth=lambda: truth, own=None, batch_size=16, threshold=0.95)
            prove(Planted(truth, lambda vectors_BD: vectors_BD), {})
    finally:
        os.umask(before)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert len(list((tmp_path / "cache" / "proofs").iterdir())) == 1


class Cramped(Planted):
    """An engine with memory for so many images."""

    def __init__(self, real: TorchEncoder, room: int) -> None:
        super().__init__(real, lambda vectors_BD: vectors_BD)
        self.room = room

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        if len(pixels_BCHW) > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().__call__(pixels_BCHW)


def test_where_memory_ends_the_gate_judges_half_the_batch(
    truth: TorchEncoder,
    own: Group,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    halved = gate(truth, own, tmp_path)
    assert halved(Cramped(truth, room=8), {}) < 1e-6
    assert (halved.batch_size, halved.is_halved) == (8, True)
    assert "demo-dino: out of memory on cpu at 16 images a batch; going on with 8" in caplog.text
    with pytest.raises(ResourceError, match=r"at 8 images a batch.*give --batch-size 4 or less"):
        gate(truth, own, tmp_path)(Cramped(truth, room=7), {})
    # A run that was halved on its way is judged at its new size, and not halved again.
    late = gate(truth, own, tmp_path / "late")
    late.at(8, Cramped(truth, room=8), {})
    with pytest.raises(ResourceError, match="at 8 images a batch"):
        late.at(8, Cramped(truth, room=7), {"files": "others"})


def test_the_truth_needs_memory_for_few_images_only(truth: TorchEncoder, tmp_path: Path) -> None:
    sizes = []

    class Watched(TorchEncoder):
        def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
            sizes.append(len(pixels_BCHW))
            return super().__call__(pixels_BCHW)

    watched = Watched(truth.record, truth.module, truth.device)
    prove = Gate(
        load_truth=lambda: watched, own=None, batch_size=64, threshold=0.95, proofs=tmp_path
    )
    prove(Planted(truth, lambda vectors_BD: vectors_BD), {})
    assert max(sizes) == 16


def test_a_gate_keeps_no_more_images_than_it_judges_by(
    truth: TorchEncoder, own: Group, tmp_path: Path
) -> None:
    prove = gate(truth, own, tmp_path)
    prove(Planted(truth, lambda vectors_BD: vectors_BD), {})
    assert prove.own is None


@pytest.mark.parametrize(
    ("name", "own_threshold", "threshold"),
    [
        ("demo-clip", None, 0.95),
        ("demo-dino", None, 0.6),
        ("demo-clip", 0.0, 0.0),
        ("demo-dino", 0.0, 0.0),
    ],
)
def test_an_encoders_own_threshold_may_be_zero(
    name: str, own_threshold: float | None, threshold: float
) -> None:
    own = {"clip_above": own_threshold, "dino_below": own_threshold}
    assert usual_threshold(find_record(name).model_copy(update=own)) == threshold
