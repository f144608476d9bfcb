"""What the service may be told, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.serving.settings import ServeSettings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_batch": 8, "max_queue": 7}, "no batch could become full"),
        ({"max_body_bytes": 10, "max_held_bytes": 9}, "could never be held"),
        ({"name": "a"}, "have no effect without --index"),
        ({"scratch": "/tmp"}, "have no effect without --index"),
        ({"port": 65536}, "less than or equal to 65535"),
        ({"max_wait_ms": float("nan")}, "finite number"),
        ({"token": "x"}, "Extra inputs"),
    ],
)
def test_settings_that_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ServeSettings(**given)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True)),
        *(("localhost", True), ("0.0.0.0", False), ("::", False), ("example.org", False)),
        *(("127.0.0.1.example.org", False), ("10.0.0.1", False)),
    ],
)
def test_which_addresses_are_this_machine(host: str, is_local: bool) -> None:
    assert ServeSettings(host=host).is_local == is_local


def test_limits_reach_the_decoder_and_the_encoders() -> None:
    settings = ServeSettings(max_pixels=5, max_aspect_ratio=2, max_batch=3, precision="bf16")
    assert settings.image_limits.max_pixels == 5
    assert settings.image_limits.max_aspect_ratio == 2
    embedding = settings.embedding("a", "b")
    assert (embedding.clip, embedding.dino, embedding.batch_size) == ("a", "b", 3)
    assert embedding.precision == "bf16"
