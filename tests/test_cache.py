"""The engine cache: made once, published whole, and nothing loaded that has changed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.cache import MANIFEST, EngineCache, Entry, make
from miner.errors import EngineError
from miner.records import Json, replace_record

KEY = {
    "onnx_sha256": "0" * 64,
    "flavour": "tensorrt",
    "version": "11.4",
    "gpu": "A",
    "max_batch": 8,
}
ROOT = Path(__file__).parents[1]

BUILDER = """
import sys, time
from pathlib import Path
from export.cache import EngineCache, make
root, log = Path(sys.argv[1]), Path(sys.argv[2])

def build(folder):
    with log.open("a") as file:
        file.write("built\\n")
    # Long enough for all others to ask meanwhile.
    time.sleep(1.0)
    (folder / "engine.plan").write_bytes(b"engine")
    return [folder / "engine.plan"], {"deviation": 0.5}

entry = make(EngineCache(root), "unproven", {"gpu": "A"}, build)
print((entry.folder / "engine.plan").read_bytes(), entry.facts)
"""


class Builder:
    """Counts how often something is built."""

    def __init__(self, content: bytes = b"engine") -> None:
        self.content = content
        self.times = 0

    def __call__(self, folder: Path) -> tuple[list[Path], Json]:
        self.times += 1
        (folder / "engine.plan").write_bytes(self.content)
        return [folder / "engine.plan"], {"deviation": 1e-4}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def publish(cache: EngineCache, key: dict[str, Any] = KEY) -> tuple[Entry, Builder]:
    build = Builder()
    return make(cache, "proven", key, build), build


def test_what_was_published_is_found_and_not_built_again(cache: EngineCache) -> None:
    entry, build = publish(cache)
    assert make(cache, "proven", KEY, build) == entry
    assert build.times == 1
    assert cache.find("proven", KEY) == entry
    assert entry.facts == {"deviation": 1e-4}
    assert (entry.folder / "engine.plan").read_bytes() == b"engine"
    assert list((cache.root / "unfinished").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("onnx_sha256", "1" * 64),
        ("flavour", "tensorrt-rtx"),
        ("version", "11.5"),
        ("gpu", "B"),
        ("max_batch", 16),
    ],
)
def test_any_other_key_is_another_engine(cache: EngineCache, field: str, value: object) -> None:
    publish(cache)
    other = {**KEY, field: value}
    assert cache.find("proven", other) is None
    entry, build = publish(cache, other)
    assert build.times == 1
    assert cache.find("proven", KEY) != entry


def test_a_changed_file_is_built_anew(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    entry, build = publish(cache)
    (entry.folder / "engine.plan").write_bytes(b"others")
    assert cache.find("proven", KEY) is None
    assert "has changed since it was published" in caplog.text
    assert make(cache, "proven", KEY, build) == entry
    assert build.times == 2
    assert (entry.folder / "engine.plan").read_bytes() == b"engine"


def test_a_missing_file_is_built_anew(cache: EngineCache) -> None:
    entry, build = publish(cache)
    (entry.folder / "engine.plan").unlink()
    make(cache, "proven", KEY, build)
    assert build.times == 2


def test_an_edited_manifest_is_built_anew(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    entry, build = publish(cache)
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    manifest["facts"]["deviation"] = 0.0
    (entry.folder / MANIFEST).write_text(json.dumps(manifest))
    assert cache.find("proven", KEY) is None
    assert "was cut or edited" in caplog.text
    assert make(cache, "proven", KEY, build).facts == {"deviation": 1e-4}
    assert build.times == 2


def test_a_manifest_of_another_key_is_built_anew(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where its own hash fits: an engine of another GPU in this one's place."""
    entry, build = publish(cache)
    manifest = json.loads((entry.folder / MANIFEST).read_text())
    del manifest["record_sha256"]
    replace_record(entry.folder / MANIFEST, {**manifest, "key": {**KEY, "gpu": "B"}})
    make(cache, "proven", KEY, build)
    assert build.times == 2
    assert "is that of another entry" in caplog.text


def test_an_unproven_engine_does_not_become_proven_by_its_place(cache: EngineCache) -> None:
    entry = make(cache, "unproven", KEY, Builder())
    assert cache.find("proven", KEY) is None
    (cache.root / "proven").mkdir()
    shutil.copytree(entry.folder, cache.root / "proven" / entry.folder.name)
    assert cache.find("proven", KEY) is None


def test_a_file_of_another_entry_can_be_named(cache: EngineCache) -> None:
    graph, _ = make(cache, "onnx", {"graph": 1}, Builder(b"graph")), None
    shared = graph.folder / "engine.plan"
    build = Builder()
    with cache.making("proven", KEY) as making:
        making.publish([shared], {})
    assert cache.find("proven", KEY) is not None
    shared.write_bytes(b"others")
    assert cache.find("proven", KEY) is None
    assert build.times == 0


def test_what_fails_leaves_nothing(cache: EngineCache) -> None:
    def fail(folder: Path) -> tuple[list[Path], Json]:
        (folder / "engine.plan").write_bytes(b"half")
        raise EngineError("no kernel")

    with pytest.raises(EngineError, match="no kernel"):
        make(cache, "proven", KEY, fail)
    assert cache.find("proven", KEY) is None
    assert not (cache.root / "proven").exists()
    assert list((cache.root / "unfinished").iterdir()) == []


def test_unproven_ones_are_listed_without_damaged_ones(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.entries("unproven") == []
    first = make(cache, "unproven", KEY, Builder())
    second = make(cache, "unproven", {**KEY, "max_batch": 16}, Builder())
    publish(cache)
    assert {entry.folder for entry in cache.entries("unproven")} == {first.folder, second.folder}
    (second.folder / "engine.plan").write_bytes(b"others")
    assert cache.entries("unproven") == [first]
    assert "is left out" in caplog.text


def test_eight_processes_build_one_engine_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(tmp_path / "log")]
    processes = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    outs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert set(outs) == {"b'engine' {'deviation': 0.5}\n"}
    assert (tmp_path / "log").read_text() == "built\n"


def test_who_waits_says_so(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    words = [sys.executable, "-c", BUILDER, str(cache.root), str(cache.root / "log")]
    cache.root.mkdir(mode=0o700)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL):
        while not (cache.root / "log").exists():
            pass
        build = Builder()
        make(cache, "unproven", {"gpu": "A"}, build)
    assert build.times == 0
    assert "another process makes unproven/" in caplog.text


def test_the_folder_is_private(cache: EngineCache) -> None:
    assert not cache.root.exists()
    publish(cache)
    assert cache.root.stat().st_mode & 0o777 == 0o700
    EngineCache(cache.root)
    os.chmod(cache.root, 0o770)
    with pytest.raises(EngineError, match=r"mode 770, so others can put engines there"):
        EngineCache(cache.root)


def test_the_default_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EngineCache().root == tmp_path / ".cache" / "blindpairs" / "engines"


@pytest.mark.parametrize("name", ["", "proofs", "timings"])
def test_whatever_is_made_first_the_cache_is_its_owners_alone(tmp_path: Path, name: str) -> None:
    before = os.umask(0o002)
    try:
        folder = EngineCache(tmp_path / "new" / "cache").prepare(name)
    finally:
        os.umask(before)
    assert folder.is_dir()
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    # So the next command takes it.
    publish(EngineCache(tmp_path / "new" / "cache"))
