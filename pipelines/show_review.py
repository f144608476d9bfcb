"""What `blindpairs review` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from miner.reviewing.agreement import ABOUT, DISPUTES, Agreement, Dispute, mean_kappa
from miner.reviewing.merge import Merged
from miner.store import Store
from pipelines.show import columns

MOST_LISTED = 20
"""Disputes, and unknown pairs, that are printed; the run keeps the list of all disputes."""


def merged(console: Console, store: Store, found: Merged) -> None:
    """What each reviewer said, how far they agree, and what is in dispute."""
    everyone = [*sorted(found.reviewers.items())]
    if len(everyone) > 1:
        everyone.append(("together", found.outcome))
    header = ("reviewer", "accepted", "rejected", "undecided", "with a pattern")
    rows = [header, *((who, *_numbers(counts)) for who, counts in everyone)]
    columns(console, rows, header=True)
    _agreements(console, found.agreements)
    _disputes(console, store, found.disputes)
    if found.unknown:
        console.print(
            f"warning: {len(found.unknown)} pairs are in no join of this run; what was said of "
            f"them is kept: {_first(found.unknown)}"
        )


def _numbers(counts: Counter[str]) -> list[str]:
    return [str(counts[word]) for word in ("accept", "reject", "undecided", "pattern")]


def _agreements(console: Console, found: Sequence[Agreement]) -> None:
    if not found:
        return
    rows = [("reviewers", "about", "pairs of both", "said the same", "Cohen's kappa")]
    for each in found:
        share = f"{each.num_equal / each.num_pairs:.1%}" if each.num_pairs else "-"
        who = f"{each.first}, {each.second}"
        rows.append((who, each.about, str(each.num_pairs), share, _kappa(each)))
    if len(found) > len(ABOUT):
        for about in ABOUT:
            mean = mean_kappa(found, about)
            said = "undefined for all" if mean is None else f"{mean:.3f}"
            rows.append(("mean of those defined", about, "", "", said))
    columns(console, rows, header=True)


def _kappa(found: Agreement) -> str:
    if found.kappa is not None:
        return f"{found.kappa:.3f}"
    return "undefined: both said one word" if found.num_pairs else "undefined: no pair of both"


def _disputes(console: Console, store: Store, found: Sequence[Dispute]) -> None:
    if not found:
        console.print("nothing is in dispute")
        return
    console.print(f"{len(found)} in dispute, listed in {store.place(DISPUTES)}:")
    for each in found[:MOST_LISTED]:
        said = ", ".join(f"{who}: {word}" for who, word in each.said.items())
        console.print(f"  {each.pair_id} {each.about}: {said}", markup=False)
    if len(found) > MOST_LISTED:
        console.print(f"  ... and {len(found) - MOST_LISTED} more")


def _first(names: Sequence[str]) -> str:
    more = f", ... and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
