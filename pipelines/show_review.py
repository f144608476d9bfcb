"""What `blindpairs review` prints, and `status` of reviews and selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from miner.review import consensus
from miner.reviewing.agreement import ABOUT, DISPUTES, Agreement, Dispute, mean_kappa
from miner.reviewing.kept import decisions_of
from miner.reviewing.merge import Merged
from miner.selecting.verdicts import KEPT
from miner.store import Store
from pipelines.show import columns, facts

MOST_LISTED = 20
"""Unknown pairs that are printed."""

MOST_DISPUTES = 5
"""Disputes that are printed; the run keeps the list of all."""

CONSENSUS = (
    "until it is settled, the majority decides on a pair (undecided where both are as many), and "
    "its pattern is that of most who agree with the outcome, of as many the lower number"
)
"""What becomes of a pair in dispute, as `miner.review.consensus` has it."""


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
    about = Counter(each.about for each in found)
    counts = ", ".join(f"{about[each]} on {each}" for each in ABOUT)
    console.print(f"{len(found)} in dispute ({counts}), listed in {store.place(DISPUTES)}:")
    for each in found[:MOST_DISPUTES]:
        said = ", ".join(f"{who}: {word}" for who, word in each.said.items())
        console.print(f"  {each.pair_id} {each.about}: {said}", markup=False)
    if len(found) > MOST_DISPUTES:
        console.print(f"  ... and {len(found) - MOST_DISPUTES} more")
    console.print(CONSENSUS)


def _first(names: Sequence[str]) -> str:
    more = f", ... and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


def reviews_and_joins(console: Console, store: Store) -> None:
    """What reviewers together said in a run, and its joins with the pairs selected from each."""
    said = consensus(decisions_of(store)).values()
    if said:
        words = Counter(each.decision for each in said)
        facts(console, [("reviews", f"{words['accept']} accepted, {words['reject']} rejected")])
    rows = []
    for name in store.joins():
        record = store.join_record(name)
        if record is None or "selection" not in record:
            rows.append((f"join: {name}", "no whole selection"))
        else:
            rows.append((f"join: {name}", f"{record['selection']['counts'].get(KEPT, 0)} selected"))
    if rows:
        columns(console, rows)
