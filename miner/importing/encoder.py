"""Whose vectors are imported: an encoder_id that does not mix with what we computed ourselves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from miner.encoders import find_record
from miner.records import Json, digest
from miner.registry import REGISTRY, EncoderRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedEncoder:
    """An encoder of which only vectors are at hand.

    Attributes:
        name: what it is called.
        encoder_id: with the hash of what was declared of it.
        record: as the commits of its vectors keep it; `weights_sha256` is None where nobody said.
        dim: length of a vector.
    """

    name: str
    encoder_id: str
    record: Json
    dim: int


def imported_encoder(
    name: str, dim: int, *, weights_sha256: str | None = None, declared_dim: int | None = None
) -> ImportedEncoder:
    """Name an encoder whose vectors come from elsewhere.

    With the sha256 of its weights its encoder_id is the one that our own encoding has, so that both
    may be mixed; without it, it is another one.

    Args:
        name: of the registry, or `library:model:weights`; any other with `declared_dim`.
        dim: length of the vectors that were found.
        weights_sha256: of the weights file, where it is known.
        declared_dim: length of the vectors of an encoder that the registry does not know.

    Raises:
        ValueError: the name is unknown, or the encoder's vectors are of another length.
    """
    if weights_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", weights_sha256):
        raise ValueError(
            f"--weights-sha256 is {weights_sha256!r}; give the 64 hex digits of the weights file"
        )
    if declared_dim is not None:
        if name in REGISTRY or not _NAME.fullmatch(name):
            raise ValueError(
                f"--dim is for encoders that the registry does not know, by a name of letters, "
                f"digits, '.', '_' and '-'; {name!r} is none: leave --dim out, or rename it"
            )
        if weights_sha256 is not None:
            raise ValueError(
                f"--weights-sha256 has no effect with --dim: what {name} is, is not known; put the "
                "weights into its name"
            )
        _check_dim(name, declared_dim, dim)
        return _unregistered(name, dim)
    try:
        record = find_record(name)
    except ValueError as error:
        raise ValueError(f"{error}; or give --dim N with a name of your own") from error
    _check_dim(name, record.dim, dim)
    if weights_sha256 is not None and record.weights_sha256 not in (None, weights_sha256):
        raise ValueError(
            f"{name}: its weights have sha256 {record.weights_sha256}, --weights-sha256 is "
            f"{weights_sha256}; leave it out, or take another name with --dim"
        )
    return ImportedEncoder(
        name=record.name,
        encoder_id=_encoder_id(record, weights_sha256),
        record=record.model_dump(mode="json") | {"weights_sha256": weights_sha256},
        dim=dim,
    )


def _encoder_id(record: EncoderRecord, weights_sha256: str | None) -> str:
    # Unknown weights are those of no file.
    known = weights_sha256 or digest({"imported": record.name})
    return record.model_copy(update={"weights_sha256": known}).encoder_id


def _unregistered(name: str, dim: int) -> ImportedEncoder:
    return ImportedEncoder(
        name=name,
        encoder_id=f"{name}-{digest({'imported': name, 'dim': dim})[:8]}",
        record={
            "name": name,
            # Readers name an encoder by these.
            "library": "unknown",
            "model": name,
            "weights": "unknown",
            "licence": None,
            "dim": dim,
            "weights_sha256": None,
            "clip_above": None,
            "dino_below": None,
        },
        dim=dim,
    )


def _check_dim(name: str, wanted: int, found: int) -> None:
    if wanted != found:
        raise ValueError(
            f"{name} has vectors of {wanted} numbers, those given have {found}; name the encoder "
            "that made them, or declare another one with --dim"
        )
