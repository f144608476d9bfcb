"""Vectors from elsewhere get an id of their own, unless their weights are declared."""

import pytest

from miner.importing.encoder import imported_encoder
from miner.registry import REGISTRY


def test_unknown_weights_have_an_id_of_their_own() -> None:
    imported = imported_encoder("demo-clip", REGISTRY["demo-clip"].dim)
    own = REGISTRY["demo-clip"].encoder_id
    assert imported.encoder_id != own
    assert imported.encoder_id.startswith("demo-clip-")
    assert imported == imported_encoder("demo-clip", imported.dim)
    assert imported.record["weights_sha256"] is None


def test_declared_weights_have_the_id_of_our_own_encoding() -> None:
    record = REGISTRY["clip-vit-l-14"].model_copy(update={"weights_sha256": "a" * 64})
    imported = imported_encoder("clip-vit-l-14", 768, weights_sha256="a" * 64)
    assert imported.encoder_id == record.encoder_id
    assert imported.encoder_id != imported_encoder("clip-vit-l-14", 768).encoder_id


def test_encoders_that_the_registry_does_not_know() -> None:
    imported = imported_encoder("mine", 5, declared_dim=5)
    assert imported.encoder_id.startswith("mine-")
    assert imported.encoder_id != imported_encoder("mine", 6, declared_dim=6).encoder_id
    assert imported.record["clip_above"] is None


@pytest.mark.parametrize(
    ("name", "dim", "more", "what"),
    [
        ("mine", 5, {}, "no encoder is called 'mine'.*or give --dim N with a name of your own"),
        ("clip-vit-l-14", 512, {}, "has vectors of 768 numbers, those given have 512"),
        ("mine", 5, {"declared_dim": 6}, "mine has vectors of 6 numbers, those given have 5"),
        ("demo-clip", 5, {"declared_dim": 5}, "--dim is for encoders that the registry"),
        ("../mine", 5, {"declared_dim": 5}, "--dim is for encoders that the registry"),
        ("m", 5, {"declared_dim": 5, "weights_sha256": "a" * 64}, "has no effect with --dim"),
        ("clip-vit-l-14", 768, {"weights_sha256": "A"}, "give the 64 hex digits"),
    ],
)
def test_what_cannot_be(name: str, dim: int, more: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        imported_encoder(name, dim, **more)  # type: ignore[arg-type]


def test_weights_that_are_not_the_encoders() -> None:
    dim = REGISTRY["demo-clip"].dim
    with pytest.raises(ValueError, match=r"its weights have sha256 .* --weights-sha256 is aaaa"):
        imported_encoder("demo-clip", dim, weights_sha256="a" * 64)
