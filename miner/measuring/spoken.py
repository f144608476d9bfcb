"""Which option an answer in words means.

Looked for in turn, and the first that finds anything decides: an answer that is an option's text or
letter and nothing else; a first line that is; a letter that is said to be the answer; one that is
called an option; letters in brackets; a line that is a letter; the text of an option among other
words. One option is the answer, several are none. What stands behind a "not" is not chosen.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

_LETTER = r"[(\[{\"']*(?<![^\W_])(?P<letter>[a-z])(?![^\W_]|'[^\W_])"

_SAID = (
    re.compile(
        r"\b(?:answer|option|choice)\b(?:\s+to\s+(?:the|this)\s+question)?"
        r"(?:\s*[:=\u2013\u2014-]+\s*|\s+(?:is|would\s+be|should\s+be|must\s+be)\b\s*:?\s*)+"
        r"(?:(?:option|choice)\s+)?" + _LETTER,
        re.IGNORECASE,
    ),
    re.compile(
        r"(?<![\w'])(?P<letter>[a-z])[)\]}\"']*\s+is\s+(?:the\s+)?"
        r"(?:correct|right|true|best|answer)\b",
        re.IGNORECASE,
    ),
)
"""The answer is b, Answer: (b), the correct option is [b]; B is correct."""

_CALLED = (re.compile(r"\b(?P<name>answer|option|choice)\s+" + _LETTER, re.IGNORECASE),)
"""Option B."""

_MARKED = (
    re.compile(
        r"\(\s*(?P<letter>[a-z])\s*\)|\[\s*(?P<square>[a-z])\s*\]"
        r"|(?<![a-z0-9'.])(?P<behind>[a-z])\s*[).:](?![a-z0-9])",
        re.IGNORECASE,
    ),
)
"""(b)  [b]  b)  B.  b:"""

_ALONE = re.compile(r"([\s\"'(\[{<]*)([a-z])[\s\"'.:)\]}>]*", re.IGNORECASE)
"""Nothing but a letter."""

_REASON = re.compile(r"\s+(?:because|since|as|due|given|and|or|but|is|not)\b", re.IGNORECASE)
"""What may follow a small letter a, and no article."""

_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|neither|never|nor|cannot)|n't)"
    r"(?:[^\w.,:;!?\n]+\w+)?(?:[^\w.,:;!?\n]+\w+[^\w.,:;!?\n]+(?:or|nor))?[^\w.,:;!?\n]*$",
    re.IGNORECASE,
)
_NOT_BEHIND = re.compile(
    r"[)\]}\"'.:]*\s+(?:(?:is|was|looks|seems)\s*)?(?:n't|not\b|wrong\b|incorrect\b|false\b)",
    re.IGNORECASE,
)
"""A negation within two words before, or right behind."""


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer means, from 0 on; None where it means none, or several.

    A bare letter that is also the text of another option is unclear. Of "red" and "dark red" only
    the longer counts where it stands.

    Args:
        text: the answer.
        options: those of the question, in the order (a), (b), ...
    """
    letters = {chr(ord("a") + place): place for place in range(len(options))}
    plain = _without_marks(text)
    if whole := _ALONE.fullmatch(plain):
        return _lone(whole, options, letters)
    if exact := _exact(text, options):
        return exact.pop() if len(exact) == 1 else None
    lines = [line for line in plain.splitlines() if line.strip()]
    alone = [match for line in lines if (match := _ALONE.fullmatch(line))]
    if alone and alone[0].string == lines[0]:
        return _lone(alone[0], options, letters)
    for patterns in (_SAID, _CALLED, _MARKED):
        places = {letters[each] for each in _said(plain, patterns) if each in letters}
        if places:
            return _single(places)
    places = {letters[match[2].lower()] for match in alone if match[2].lower() in letters}
    return _single(places or set(_by_words(_folded(text), options)))


def _single(places: set[int]) -> int | None:
    return next(iter(places)) if len(places) == 1 else None


def _folded(text: str) -> str:
    """A text without case, unseen characters and kinds of spaces, quotes and minus signs."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(each for each in text if unicodedata.category(each) != "Cf")
    text = text.replace("\u2019", "'").replace("\u2212", "-").casefold()
    return re.sub(r"\s+", " ", text).strip()


def _without_marks(text: str) -> str:
    """A text without emphasis, with the answer tags of XML and LaTeX as words."""
    text = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    text = "".join(each for each in text if unicodedata.category(each) != "Cf")
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\boxed\{([^{}]*)\}", r" answer: (\1) ", text)
    text = re.sub(r"<answer>([^<>]*)</answer>", r" answer: \1 \n", text, flags=re.IGNORECASE)
    return re.sub(r"[*`$]|(?<![^\W_])_+|_+(?![^\W_])", "", text).strip()


def _lone(match: re.Match[str], options: Sequence[str], letters: Mapping[str, int]) -> int | None:
    by_letter, exact = letters.get(match[2].lower()), _exact(match[2], options)
    if not exact or "(" in match[1]:
        return by_letter
    return _single(exact) if exact == {by_letter} or by_letter is None else None


def _exact(text: str, options: Sequence[str]) -> set[int]:
    """The options that are the whole text: as it stands, without quotes and a full stop, by words.

    Words alone only where they tell all options apart, which C and C++ do not.
    """
    whole = _folded(text)
    bare = whole.strip("\"'*`_ ").rstrip(".,:;! ").strip("\"'*`_ ")
    for said in (whole, bare):
        if found := {k for k, option in enumerate(options) if said and _folded(option) == said}:
            return found
    if _has_symbols(options):
        return set()
    return {k for k, option in enumerate(options) if _words(option) == _words(whole)}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", _folded(text))


def _has_symbols(options: Sequence[str]) -> bool:
    """Whether options differ in more than their words."""
    words = [" ".join(_words(option)) for option in options]
    return "" in words or len(set(words)) < len({_folded(option) for option in options})


def _said(text: str, patterns: Iterable[re.Pattern[str]]) -> Iterator[str]:
    """Letters that patterns find, in lower case, without those that are denied."""
    for pattern in patterns:
        for match in pattern.finditer(text):
            found = next((name for name, each in match.groupdict().items() if each), "")
            found = match.lastgroup or found
            letter, rest = match[found], text[match.end(found) :]
            if _is_denied(text[: match.start()], rest) or _is_article(match, letter, rest):
                continue
            yield letter.lower()


def _is_denied(before: str, behind: str) -> bool:
    return bool(_NOT_BEFORE.search(before[-200:]) or _NOT_BEHIND.match(behind))


def _is_article(match: re.Match[str], letter: str, rest: str) -> bool:
    """Whether a small a is a word: in "the answer is a bird", not in "option a shows it"."""
    is_option = (match.groupdict().get("name") or "").lower() == "option"
    followed = re.match(r"\s+[^\W_]", rest) and not _REASON.match(rest)
    return letter == "a" and not is_option and bool(followed)


def _by_words(said: str, options: Sequence[str]) -> Iterator[int]:
    """The options whose text stands in an answer and is not denied."""
    token, gap = (
        (r"[^\W_]+|[^\w\s]|_", r"\s*") if _has_symbols(options) else (r"[^\W_]+", r"[\W_]+")
    )
    found = [re.findall(token, _folded(option)) for option in options]
    left = said
    for place in sorted(range(len(options)), key=lambda k: -len("".join(found[k]))):
        if not found[place]:
            continue
        text = gap.join(map(re.escape, found[place]))
        pattern = re.compile(
            (r"(?<![^\W_])" if found[place][0].isalnum() else "")
            + text
            + (r"(?![^\W_])" if found[place][-1].isalnum() else "")
        )
        matches = [*pattern.finditer(left)]
        if any(not _NOT_BEFORE.search(said[: match.start()][-200:]) for match in matches):
            yield place
        # What is left over cannot be found again as part of a longer option.
        left = pattern.sub(lambda match: "\0" * len(match[0]), left)
