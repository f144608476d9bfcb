"""Engines that were packed on one machine and are taken on another."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

import export.cache
from export.cache import EngineCache, Entry, make
from export.parcel import pack, unpack
from miner.errors import EngineError
from tests.commands import Commands
from tests.small import write_corpus


def cache_with_engine(root: Path, content: bytes = b"graph") -> tuple[EngineCache, Entry]:
    """A cache with a graph and an engine that names it, as ONNX Runtime's do."""
    cache = EngineCache(root)

    def build(folder: Path) -> tuple[list[Path], dict[str, object]]:
        (folder / "graph.onnx").write_bytes(content)
        return [folder / "graph.onnx"], {}

    graph = make(cache, "onnx", {"encoder_id": "demo"}, build)
    with cache.making("proven", {"gpu": "A"}) as making:
        (making.folder / "engine.plan").write_bytes(b"engine")
        files = [graph.folder / "graph.onnx", making.folder / "engine.plan"]
        return cache, making.publish(files, {"deviation": 1e-4})


def test_a_parcel_brings_whole_entries(tmp_path: Path) -> None:
    cache, entry = cache_with_engine(tmp_path / "a")
    sha256 = pack(cache, tmp_path / "engines.tar")
    other = EngineCache(tmp_path / "b")
    new = unpack(other, tmp_path / "engines.tar")
    assert len(new) == 2
    found = other.find("proven", {"gpu": "A"})
    assert found is not None
    assert (found.files, found.facts) == (entry.files, entry.facts)
    assert (found.folder / "engine.plan").read_bytes() == b"engine"
    # There is nothing new in it now, and nothing is left of the attempt.
    assert unpack(other, tmp_path / "engines.tar") == []
    assert list((other.root / "unfinished").iterdir()) == []
    assert pack(other, tmp_path / "again.tar") == sha256


def test_what_is_here_already_stays_unless_it_is_damaged(tmp_path: Path) -> None:
    cache, _ = cache_with_engine(tmp_path / "a")
    pack(cache, tmp_path / "engines.tar")
    other, entry = cache_with_engine(tmp_path / "b", content=b"another graph")
    (entry.folder / "engine.plan").write_bytes(b"cut")
    assert len(unpack(other, tmp_path / "engines.tar")) == 1
    (graph,) = other.entries("onnx")
    assert (graph.folder / "graph.onnx").read_bytes() == b"another graph"
    # An engine of another graph than the one that is here is of no use, and never found.
    assert other.find("proven", {"gpu": "A"}) is None


def test_a_damaged_entry_is_replaced(tmp_path: Path) -> None:
    cache, entry = cache_with_engine(tmp_path / "a")
    pack(cache, tmp_path / "engines.tar")
    (entry.folder / "engine.plan").write_bytes(b"cut")
    assert unpack(cache, tmp_path / "engines.tar") == [f"proven/{entry.folder.name}"]
    assert cache.find("proven", {"gpu": "A"}) is not None


def test_a_cache_without_a_proven_engine_has_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="holds no proven engine; run `blindpairs export-engine`"):
        pack(EngineCache(tmp_path), tmp_path / "engines.tar")


def repack(tmp_path: Path, change: str) -> Path:
    """A parcel in which something is wrong."""
    cache, entry = cache_with_engine(tmp_path / "a")
    pack(cache, tmp_path / "good.tar")
    path = tmp_path / "bad.tar"
    name = f"proven/{entry.folder.name}/engine.plan"
    with tarfile.open(tmp_path / "good.tar") as good, tarfile.open(path, "w") as bad:
        for member in good:
            if change == "edited" and member.name == name:
                (tmp_path / "other").write_bytes(b"enginf")
                bad.add(tmp_path / "other", name)
            elif change != "missing" or not member.name.startswith("onnx/"):
                bad.addfile(member, good.extractfile(member))
        extra = tarfile.TarInfo({"path": "../../evil", "link": name + "2"}.get(change, name + "3"))
        if change == "link":
            extra.type, extra.linkname = tarfile.SYMTYPE, "/etc/passwd"
        if change in ("path", "link"):
            bad.addfile(extra)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:700])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("edited", "has changed since it was published"),
        ("missing", "No such file"),
        ("path", r"'../../evil' is none of an entry's files"),
        ("link", "engine.plan2' is none of an entry's files"),
        ("cut", "unexpected end of data"),
    ],
)
def test_parcels_that_are_not_taken(tmp_path: Path, change: str, message: str) -> None:
    path = repack(tmp_path, change)
    other = EngineCache(tmp_path / "b")
    with pytest.raises(EngineError, match=f"is no parcel of engines .*{message}"):
        unpack(other, path)
    assert [found for found in other.root.rglob("*") if found.is_file()] == []


def test_a_packed_engine_is_proven_once_more_where_it_is_taken(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setattr(export.cache, "DEFAULT_ROOT", here)
    where = ("--encoder", "demo-clip", "--to", "onnx", "--device", "cpu")
    ran = commands("export-engine", *where, "--pack", tmp_path / "engines.tar")
    assert ran.code == 0, ran.err
    (line,) = (line for line in ran.out.splitlines() if line.startswith("packed"))
    parcel = line.split()[1]
    assert parcel.startswith(f"{tmp_path}/engines.tar#sha256=")
    monkeypatch.setattr(export.cache, "DEFAULT_ROOT", there)
    monkeypatch.setattr("export.engines.export_onnx", pytest.fail)
    write_corpus(tmp_path / "corpus", num_shards=1)
    words = ("embed", tmp_path / "corpus", "--clip", "demo-clip", "--dino", "small-dino")
    words += (*commands.encoders[-2:], "--dino-mode", "lazy", "--backend", "onnx")
    words += ("--decoders", "thread", "--max-bad-fraction", "1", "--out", tmp_path / "run")
    ran = commands(*words, "--engines", parcel)
    assert ran.code == 0, ran.err
    # Its graph came in the parcel; that it equals the encoder was proven here.
    assert len(list((there / "proofs").iterdir())) == 1
    shutil.rmtree(tmp_path / "run")
    ran = commands(*words, "--engines", parcel[:-1] + ("1" if parcel[-1] == "0" else "0"))
    assert (ran.code, "engines.tar has sha256" in ran.err) == (4, True)


def test_packing_what_nobody_proved(commands: Commands, tmp_path: Path) -> None:
    words = ("--encoder", "demo-clip", "--to", "tensorrt", "--flavour", "tensorrt-rtx")
    ran = commands("export-engine", *words, "--compute-capability", "8.9", "--pack", tmp_path / "p")
    assert ran.code == 2
    assert "--pack writes what is proven" in ran.err
