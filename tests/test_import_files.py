"""Whether files are still what was imported."""

import os
from pathlib import Path

import numpy as np
import pytest

from miner.errors import FingerprintError
from miner.importing.embedding_files import NpyVectors
from miner.importing.source_files import SourceFiles
from miner.importing.sources import Part
from tests.foreign import some_vectors


def test_files_are_known_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, some_vectors(3))
    part = Part(name="a", vectors=NpyVectors(path))
    recorded = [SourceFiles().record(path)]
    SourceFiles().check(part, recorded, "set.a")
    os.utime(path, (1, 1))
    SourceFiles().check(part, recorded, "set.a")
    SourceFiles().check(part, [recorded[0] | {"name": "other.npy", "sha256": ""}], "set.a")
    np.save(path, some_vectors(3, seed=1))
    with pytest.raises(FingerprintError, match=r"a\.npy has other bytes since set\.a was imported"):
        SourceFiles().check(part, recorded, "set.a")
