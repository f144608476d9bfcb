"""How far reviewers agree: Cohen's kappa between any two, and the pairs that they see differently.

Kappa is the agreement beyond chance, (p_o - p_e) / (1 - p_e), where p_o is the share of items on
which two people say the same and p_e the share that would come about if each kept to their own
frequencies and chose blindly (Cohen 1960). Where p_e is 1, as when both gave every item the same
one word, it is undefined, which is None here and never a number.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from miner.review import Decision

DISPUTES = "review/disputes.csv"
"""Where a run keeps the list of what its reviewers see differently."""

Said = Literal["decision", "pattern"]
ABOUT: tuple[Said, ...] = ("decision", "pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What two reviewers say of the pairs of which both said something.

    Attributes:
        first: a reviewer.
        second: another one.
        about: the decision (accept, reject), or the number of the pattern.
        num_pairs: of which both said it.
        num_equal: of these, on how many they say the same.
        kappa: Cohen's; None where it is undefined.
    """

    first: str
    second: str
    about: Said
    num_pairs: int
    num_equal: int
    kappa: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A pair of which reviewers say different things.

    Attributes:
        pair_id: the pair's.
        about: decision or pattern.
        said: what each reviewer says of it.
    """

    pair_id: str
    about: Said
    said: dict[str, str]


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Agreement of two people beyond chance; None where chance alone makes them agree.

    Args:
        first: what one says of each item.
        second: what the other says of the same items.

    Raises:
        ValueError: they speak of a different number of items.
    """
    if len(first) != len(second):
        raise ValueError(
            f"one list has {len(first)} items, the other {len(second)}; give the same items"
        )
    num = len(first)
    counts_1, counts_2 = Counter(first), Counter(second)
    # Whole numbers, so that "undefined" is decided without rounding.
    equal = num * sum(a == b for a, b in zip(first, second, strict=True))
    by_chance = sum(counts_1[word] * counts_2[word] for word in counts_1)
    if by_chance == num * num:
        return None
    return (equal - by_chance) / (num * num - by_chance)


def agreements(decisions: Iterable[Decision]) -> list[Agreement]:
    """The agreement of every two reviewers, on decisions and on patterns.

    Args:
        decisions: at most one of each reviewer on a pair.

    Returns:
        For each two reviewers in the order of their names, first on the decision, then on the
        pattern; both are there even if the two have no pair in common.
    """
    by_reviewer = _by_reviewer(decisions)
    return [
        _agreement(one, two, about, by_reviewer[one], by_reviewer[two])
        for one, two in combinations(sorted(by_reviewer), 2)
        for about in ABOUT
    ]


def _word(said: Decision, about: Said) -> str | int | None:
    """What is said; of the pattern of a pair that is rejected nothing."""
    if about == "pattern" and said.decision == "reject":
        return None
    word: str | int | None = getattr(said, about)
    return word


def _by_reviewer(decisions: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    found: dict[str, dict[str, Decision]] = defaultdict(dict)
    for said in decisions:
        found[said.reviewer][said.pair_id] = said
    return found


def _agreement(
    one: str, two: str, about: Said, first: dict[str, Decision], second: dict[str, Decision]
) -> Agreement:
    words = [
        (_word(first[pair], about), _word(second[pair], about))
        for pair in sorted(first.keys() & second.keys())
    ]
    both = [(a, b) for a, b in words if a is not None and b is not None]
    return Agreement(
        first=one,
        second=two,
        about=about,
        num_pairs=len(both),
        num_equal=sum(a == b for a, b in both),
        kappa=cohens_kappa([a for a, _ in both], [b for _, b in both]),
    )


def mean_kappa(found: Iterable[Agreement], about: Said) -> float | None:
    """The mean kappa of every two reviewers (Light 1971), over those for whom it is defined."""
    kappas = [each.kappa for each in found if each.about == about and each.kappa is not None]
    return sum(kappas) / len(kappas) if kappas else None


def disputes(decisions: Iterable[Decision]) -> list[Dispute]:
    """Pairs of which reviewers say different things, by pair_id; decisions before patterns.

    A pattern is in dispute among those who do not reject the pair.
    """
    by_pair: dict[str, list[Decision]] = defaultdict(list)
    for said in decisions:
        by_pair[said.pair_id].append(said)
    found = []
    for pair, spoke in sorted(by_pair.items()):
        for about in ABOUT:
            heard = {each.reviewer: _word(each, about) for each in spoke}
            said_by = {who: str(word) for who, word in sorted(heard.items()) if word}
            if len(set(said_by.values())) > 1:
                found.append(Dispute(pair_id=pair, about=about, said=said_by))
    return sorted(found, key=lambda each: (ABOUT.index(each.about), each.pair_id))


def disputes_csv(found: Iterable[Dispute]) -> bytes:
    """Disputes as CSV, a row for what each reviewer says; no cell holds free text."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("about", "pair_id", "reviewer", "said"))
    for each in found:
        rows.writerows((each.about, each.pair_id, who, word) for who, word in each.said.items())
    return text.getvalue().encode()
