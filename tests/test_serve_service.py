"""The service behind the routes: its states, its encoders' names, and what it leaves behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.decode import Refused
from miner.errors import ResourceError
from miner.schema import Reason
from miner.store import Store
from pipelines.serving.batch_encoding import BatchEncoding
from pipelines.serving.batcher import Batcher
from pipelines.serving.errors import HttpError
from pipelines.serving.service import Service
from tests.serving import settings_of


@pytest.fixture(scope="module")
def loaded() -> Iterator[Service]:
    service = Service(settings_of())
    service.load()
    yield service
    asyncio.run(service.close())


def test_nothing_is_there_before_it_is_loaded() -> None:
    service = Service(settings_of())
    assert service.status == "starting"
    with pytest.raises(HttpError, match="the encoders are loading") as starting:
        _ = service.batcher
    with pytest.raises(HttpError, match="start the service with --index DIR") as without:
        _ = service.needed_index
    assert (starting.value.status, without.value.status) == (503, 404)
    asyncio.run(service.close())


def test_its_state_is_the_worst_of_what_is_so() -> None:
    async def run() -> None:
        service = Service(settings_of())
        await asyncio.to_thread(service.load)
        assert service.status == "starting"
        await service.start()
        try:
            assert service.status == "ok"
            service.is_draining = True
            assert service.status == "draining"
            service.batcher._fail("decoders", RuntimeError("killed"))
            assert service.status == "broken"
        finally:
            await service.close()

    asyncio.run(run())


def test_the_first_image_is_its_own() -> None:
    async def run() -> None:
        service = Service(settings_of())
        await asyncio.to_thread(service.load)
        await service.start()
        value = service.metrics.registry.get_sample_value
        try:
            assert value("blindpairs_served_images_total", {"outcome": "embedded"}) == 1
            assert value("blindpairs_batch_images_sum") == 1
        finally:
            await service.close()

    asyncio.run(run())


@pytest.mark.parametrize("error", [ResourceError("no memory for a worker"), OSError("disk gone")])
def test_a_service_whose_decoders_stop_does_not_start(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaking(*_: object) -> None:
        raise error

    monkeypatch.setattr(Batcher, "_decoded", breaking)
    with pytest.raises(ResourceError, match=f"{error}") as info:
        _start()
    # What says already what is wrong and what to do is passed on as it is.
    assert (info.value is error) == isinstance(error, ResourceError)
    assert info.value.exit_code == 4
    assert ("Traceback" in caplog.text) == isinstance(error, OSError)
    if not isinstance(error, ResourceError):
        assert re.search(r"first image .*OSError: disk gone.* start again", str(info.value))
        assert info.value.__cause__ is error


def test_a_service_that_cannot_encode_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    answer: list[object] = [HttpError(503, "encoding_failed", "not encoded")]
    monkeypatch.setattr(BatchEncoding, "encode", lambda *_: answer)
    with pytest.raises(ResourceError, match=r"first image .*not encoded.* start again"):
        _start()
    # An image that is refused was not embedded either.
    answer[:] = [Refused(Reason.NONFINITE, "clip")]
    with pytest.raises(ResourceError, match=r"first image .*nonfinite: clip"):
        _start()


def _start() -> None:
    async def run() -> None:
        service = Service(settings_of())
        await asyncio.to_thread(service.load)
        try:
            await service.start()
        finally:
            await service.close()

    asyncio.run(run())


def test_an_encoder_goes_by_its_role_its_name_and_its_id(loaded: Service) -> None:
    assert loaded.roles_of(None, "model") == ["clip", "dino"]
    clip, dino = loaded.encoders["clip"], loaded.encoders["dino"]
    for name in ("clip", "demo-clip", clip.encoder_id):
        assert loaded.roles_of([name], "model") == ["clip"]
    # The order is the caller's; who is named twice answers once.
    assert loaded.roles_of([dino.encoder_id, "clip", "dino"], "model") == ["dino", "clip"]


def test_a_name_that_no_encoder_has_is_refused_with_those_that_there_are(loaded: Service) -> None:
    for names in (["nothing"], ["clip", ""]):
        with pytest.raises(HttpError, match=r"clip .demo-clip-\w+. and dino") as info:
            loaded.roles_of(names, "encoders")
        assert (info.value.status, info.value.code) == (422, "unknown_encoder")
        assert info.value.param == "encoders"


def test_records_are_those_of_the_roles_that_were_asked(loaded: Service) -> None:
    records = loaded.encoder_records(["dino"])
    ((encoder_id, record),) = records.items()
    assert encoder_id == loaded.encoders["dino"].encoder_id
    assert (record["role"], record["name"], record["backend"]) == ("dino", "demo-dino", "torch")
    assert len(loaded.encoder_records(["clip", "dino"])) == 2


def test_requests_in_flight_are_those_of_this_service(loaded: Service) -> None:
    other = Service(settings_of())
    other.num_in_flight = 3
    name = "blindpairs_requests_in_flight"
    assert other.metrics.registry.get_sample_value(name) == 3
    assert loaded.metrics.registry.get_sample_value(name) == 0
    asyncio.run(other.close())


def test_an_index_brings_its_encoders_and_leaves_no_file(index: Store, tmp_path: Path) -> None:
    scratch = tmp_path / "not there yet"
    given = {"index": str(index.root), "clip": None, "dino": None, "scratch": str(scratch)}
    service = Service(settings_of(**given))
    try:
        service.load()
        names = {role: each.record.name for role, each in service.encoders.items()}
        assert names == {"clip": "demo-clip", "dino": "demo-dino"}
        assert service.needed_index is service.index
        assert list(scratch.iterdir())
    finally:
        asyncio.run(service.close())
    assert list(scratch.iterdir()) == []
