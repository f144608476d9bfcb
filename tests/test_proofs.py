"""A proof is made once, holds for what it names, and is not believed when it was touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import export.proofs
from export.look import Group
from export.proofs import device_name, prove, read_proof
from miner.encoders import TorchEncoder
from miner.errors import ParityError, StoreError
from miner.records import digest
from tests.small import small_encoders
from tests.test_verify import group
from tests.wrong_engines import Engine, plain_gelu


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    return small_encoders(tmp_path_factory.mktemp("weights"))[0]


@pytest.fixture(scope="module")
def seen(clip: TorchEncoder) -> list[Group]:
    return [group(clip.record)]


class Loader:
    """Gives the truth and counts how often it was asked."""

    def __init__(self, truth: TorchEncoder) -> None:
        self.truth, self.times = truth, 0

    def __call__(self) -> TorchEncoder:
        self.times += 1
        return self.truth


def test_proof_is_made_once(clip: TorchEncoder, seen: list[Group], tmp_path: Path) -> None:
    load = Loader(clip)
    first = Engine(clip, fused=True, computes="fp16")
    verdict = prove(first, load, seen, folder=tmp_path, threshold=0.95, batch_size=16)
    assert first.deviation == verdict.deviation > 0
    second = Engine(clip, fused=True, computes="fp16")
    assert prove(second, load, seen, folder=tmp_path, threshold=0.95, batch_size=16) == verdict
    assert second.deviation == verdict.deviation
    assert load.times == 1
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(f"{clip.encoder_id}.fused.")


@pytest.mark.parametrize(
    "change",
    [
        lambda terms: terms | {"batch_size": 8},
        lambda terms: terms | {"threshold": 0.9},
        lambda terms: terms | {"engine": {"sha256": "1"}},
        lambda terms: terms | {"groups": [terms["groups"][0], terms["groups"][0]]},
    ],
    ids=["batch_size", "threshold", "engine", "images"],
)
def test_other_terms_need_another_proof(
    clip: TorchEncoder,
    seen: list[Group],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    load, engine = Loader(clip), Engine(clip)
    terms: dict[str, Any] = {"groups": seen, "batch_size": 16}
    prove(engine, load, folder=tmp_path, **terms)
    prove(engine, load, folder=tmp_path, **change(terms))
    prove(Engine(clip, fused=True), load, folder=tmp_path, **terms)
    assert load.times == 3


def test_other_versions_and_devices_need_another_proof(
    clip: TorchEncoder, seen: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, engine = Loader(clip), Engine(clip)
    prove(engine, load, seen, folder=tmp_path)
    monkeypatch.setattr(export.proofs, "versions", lambda: {"torch": "0"})
    prove(engine, load, seen, folder=tmp_path)
    monkeypatch.setattr(export.proofs, "device_name", lambda device: "another")
    prove(engine, load, seen, folder=tmp_path)
    assert load.times == 3


def test_wrong_engine_leaves_no_proof(
    clip: TorchEncoder, seen: list[Group], tmp_path: Path
) -> None:
    engine = Engine(clip, harm=plain_gelu)
    with pytest.raises(ParityError, match="does not equal TorchEncoder in fp32"):
        prove(engine, Loader(clip), seen, folder=tmp_path, batch_size=16)
    assert list(tmp_path.iterdir()) == []
    assert engine.deviation == 0


def test_touched_proof_is_not_believed(
    clip: TorchEncoder, seen: list[Group], tmp_path: Path
) -> None:
    load, engine = Loader(clip), Engine(clip)
    prove(engine, load, seen, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    terms = record["terms"]
    record["verdict"]["checks"][0]["value"] = 5
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"was cut or edited: .*remove it and run the command"):
        prove(engine, load, seen, folder=tmp_path)
    # With a hash that fits, it still does not let the engine pass.
    del record["record_sha256"]
    path.write_text(json.dumps(record | {"record_sha256": digest(record)}))
    with pytest.raises(StoreError, match="is no proof for this engine; remove it"):
        read_proof(path, terms)
    record["verdict"]["checks"][0]["value"] = 0
    path.write_text(json.dumps(record | {"record_sha256": digest(record)}))
    assert read_proof(path, terms).failures == []
    with pytest.raises(StoreError, match="is no proof for this engine; remove it"):
        read_proof(path, terms | {"batch_size": 1})


def test_device_has_a_name() -> None:
    assert torch.backends.cpu.get_cpu_capability() in device_name(torch.device("cpu"))


@pytest.mark.gpu
def test_gpu_has_a_name() -> None:
    assert " sm_" in device_name(torch.device("cuda"))
