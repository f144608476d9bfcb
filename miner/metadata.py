"""What a sample says about its image: caption, url, label and the rest, as clean text.

Fields come from the sample's own members (json, txt, cls, url) and from the Parquet table that
img2dataset writes beside a tar. All of it is hostile: whatever is broken here costs a field and
leaves a word in `meta`, never the image.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_TEXT_CHARS = 10_000
"""Longest caption, url or label that is kept, in characters."""
MAX_META_CHARS = 20_000
"""Longest `meta` that is kept, in characters."""
MAX_METADATA_BYTES = 2**20
"""Largest json, txt, cls or url member that is looked at, in bytes."""
MAX_DEPTH = 32
"""Deepest nesting of a json member."""

CAPTION_NAMES = ("caption", "text", "txt", "alt_text", "alt")
URL_NAMES = ("url", "image_url", "img_url")
LABEL_NAMES = ("cls", "label", "class", "class_name")
METADATA_EXTENSIONS = frozenset({"json", "txt", "caption", "text", "cls", "label", "url"})

_SURROGATES = re.compile("[\ud800-\udfff]")
_TEXT_MEMBERS = {
    "caption": ("txt", "caption", "text"),
    "url": ("url",),
    "label": ("cls", "label"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The columns of `samples` that describe an image in words."""

    caption: str | None
    url: str | None
    label: str | None
    meta: str
    """JSON object of every other field; its keys are sorted, it is valid UTF-8."""


def read_metadata(
    members: Mapping[str, bytes | None],
    sidecar_row: Mapping[str, object] | None = None,
    *,
    other_members: Iterable[str] = (),
    label: str | None = None,
    split: str | None = None,
) -> Metadata:
    """Put together what a sample's members and its sidecar row say.

    Args:
        members: contents by extension (`json`, `txt`, ...); None where they were too large.
        sidecar_row: fields of the same key in the sidecar; the members' own fields win.
        other_members: extensions of members that are not looked at, recorded by name.
        label: the label where no field says otherwise, such as the class folder's name.
        split: the split where no field says otherwise, by the shard's name; kept in `meta`.
    """
    problems: list[str] = []
    own = _json_fields(members, problems)
    beside = _cleaned_fields(sidecar_row or {}, "sidecar", problems)
    found: dict[str, str | None] = {}
    for column, names in (("caption", CAPTION_NAMES), ("url", URL_NAMES), ("label", LABEL_NAMES)):
        text = _member_text(members, _TEXT_MEMBERS[column], problems)
        for fields in (own, beside):
            text = _take(fields, names, text)
        found[column] = text
    rest = beside | own
    if split is not None:
        rest.setdefault("split", split)
    if other := sorted(_text(name) for name in other_members):
        rest["_members"] = other
    return Metadata(
        caption=found["caption"],
        url=found["url"],
        label=label if found["label"] is None else found["label"],
        meta=_dump(rest, problems),
    )


def clean_text(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """Text that every reader takes: no NUL, no lone surrogate, no longer than the limit."""
    return _SURROGATES.sub("\ufffd", text[: limit + text.count("\0")].replace("\0", ""))[:limit]


def _json_fields(members: Mapping[str, bytes | None], problems: list[str]) -> dict[str, object]:
    """The fields of the json member; none, with a word in `problems`, where it is broken."""
    if "json" not in members:
        return {}
    data = members["json"]
    if data is None or len(data) > MAX_METADATA_BYTES:
        problems.append(f"json: more than {MAX_METADATA_BYTES} bytes")
        return {}
    try:
        # NaN and Infinity are no JSON, but common: they become null.
        value = json.loads(data.decode("utf-8-sig"), parse_constant=lambda _: None)
    except UnicodeDecodeError:
        problems.append("json: not UTF-8")
    except RecursionError:
        problems.append("json: nested too deeply")
    except ValueError as error:
        problems.append(f"json: {clean_text(str(error), 100)}")
    else:
        if isinstance(value, dict):
            return _cleaned_fields(value, "json", problems)
        problems.append("json: not an object")
    return {}


def _cleaned_fields(
    fields: Mapping[str, object], source: str, problems: list[str]
) -> dict[str, object]:
    try:
        return {_text(name): _cleaned(value) for name, value in fields.items()}
    except ValueError as error:
        problems.append(f"{source}: {error}")
        return {}


def _cleaned(value: object, depth: int = 1) -> object:
    """A value that JSON can hold: finite, valid text, not too deep; bytes only by their number."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {_text(name): _cleaned(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner, depth + 1) for inner in value]
    return clean_text(str(value), MAX_META_CHARS)


def _member_text(
    members: Mapping[str, bytes | None], extensions: Iterable[str], problems: list[str]
) -> str | None:
    """The first of some text members that has any text."""
    for extension in extensions:
        if extension not in members:
            continue
        data = members[extension]
        if data is None or len(data) > MAX_METADATA_BYTES:
            problems.append(f"{extension}: more than {MAX_METADATA_BYTES} bytes")
            continue
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            problems.append(f"{extension}: not UTF-8")
            text = data.decode("utf-8", "replace")
        if text := clean_text(text.strip()):
            return text
    return None


def _take(fields: dict[str, object], names: Iterable[str], known: str | None) -> str | None:
    """Take the first field of some names, in any case, that holds a text or a number.

    Where the text is known already, only a field that repeats it is taken; another one stays.
    """
    by_lower = {name.lower(): name for name in sorted(fields, reverse=True)}
    for name in (by_lower[name] for name in names if name in by_lower):
        value = fields[name]
        if isinstance(value, str | int | float) and (text := clean_text(str(value).strip())):
            if known is None or text == known:
                del fields[name]
            return text if known is None else known
    return known


def _text(value: object) -> str:
    return clean_text(str(value), MAX_TEXT_CHARS)


def _dump(fields: dict[str, object], problems: list[str]) -> str:
    """Fields as JSON; where that is too long, the longest ones go and are named."""
    whole = _dumps(fields)
    if not problems and len(whole) <= MAX_META_CHARS:
        return whole
    texts = {name: _dumps(value) for name, value in fields.items()}
    num_chars = sum(len(_dumps(name)) + len(text) + 2 for name, text in texts.items())
    dropped = []
    for name in sorted(texts, key=lambda name: (-len(texts[name]) - len(name), name)):
        if num_chars <= MAX_META_CHARS:
            break
        num_chars -= len(_dumps(name)) + len(texts.pop(name)) + 2
        dropped.append(name)
    if dropped:
        names = clean_text(", ".join(dropped), 200)
        problems = [*problems, f"meta: more than {MAX_META_CHARS} characters, left out: {names}"]
    kept = {name: fields[name] for name in texts}
    if problems:
        kept["_error"] = "; ".join(problems)
    return _dumps(kept)


def _dumps(value: object) -> str:
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)
