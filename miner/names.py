"""What a name says: a member's key and extension, a shard's stem, and what may be shown of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from webdataset.tariterators import base_plus_ext

IMAGE_EXTENSIONS = frozenset(
    {
        *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "png", "apng", "webp", "gif", "bmp", "dib"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "heic", "heif", "jp2", "j2k", "jxl"),
    }
)
MAX_NAME_CHARS = 4096
"""Longest member name that is taken as one, in characters."""
MAX_STEM_CHARS = 100
"""Longest stem or dataset made from a path: with both, names in a run stay within 255 bytes."""

_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def extension_of(path: str) -> str:
    """What follows the last dot of the file's name, in lower case; none for hidden files."""
    name = path[path.rfind("/") + 1 :]
    return name[name.rfind(".") + 1 :].lower() if name.rfind(".") > 0 else ""


def tree_key(path: str) -> str:
    """The relative path up to its last dot."""
    return path.rsplit(".", 1)[0]


def split_name(name: str) -> tuple[str | None, str]:
    """Key and extension by webdataset's rule; no key for hidden files, which it takes for one."""
    if name.rsplit("/", 1)[-1].startswith("."):
        return None, ""
    key, suffix = base_plus_ext(name)
    return key, (suffix or "").lower()


def stem_of(parts: Sequence[str], depth: int) -> str:
    """A shard's stem from the last parts of its path, safe in the name of a file."""
    return safe_name(".".join(safe_name(part) for part in parts[-depth:]))


def split_of(path: Sequence[str], member: str = "") -> str | None:
    """The split of a corpus that a shard's name tells: `train`, `val` or `test`.

    Args:
        path: parts of the path of a tar (`imagenet1k-train-0000.tar`, `train/00000.tar`), or of a
            folder tree.
        member: of a tree, whose folders may be splits.
    """
    words = re.split(r"[-_.]", path[-1].lower()) if path else []
    folders = [*path[-2:-1], *path[-1:], *member.split("/")[:-1][:1]]
    for word in (*words, *(folder.lower() for folder in folders)):
        if word in _SPLITS:
            return _SPLITS[word]
    return None


def safe_name(name: str) -> str:
    """A name of letters, digits, '.', '_' and '-'; one that had to be changed ends in its hash."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("-._") or "shards"
    if not name or (safe == name and len(name) <= MAX_STEM_CHARS):
        return safe
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:6]
    return f"{safe[: MAX_STEM_CHARS - 7]}-{digest}"


def shown(name: str) -> str:
    """A name as it may be shown and stored: unsafe characters escaped, cut where too long."""
    if not _UNSAFE.search(name) and len(name) <= MAX_NAME_CHARS:
        return name
    escaped = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), name)
    if len(escaped) <= MAX_NAME_CHARS:
        return escaped
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{escaped[:200]}~{digest}.{extension_of(escaped[-20:])}"


def why_unsafe(name: str) -> str:
    """What is wrong with a name that `shown` had to change, or that is empty."""
    if not name:
        return "the name is empty"
    if len(name) > MAX_NAME_CHARS:
        return f"the name has {len(name)} characters, limit {MAX_NAME_CHARS}"
    return "the name has control characters or is not UTF-8"
