"""What `evaluate` and `compare` print: accuracy in per cent with its interval, and cosines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from miner.evaluate import Evaluation, Figure
from miner.measuring.compare import Compared
from miner.measuring.labelled import ALL, LabelledSet
from miner.measuring.measures import Estimate
from miner.measuring.published import PUBLISHED
from pipelines.show import columns

TITLES = {
    "individual": "individual",
    "pair": "pair",
    "pair_by_statement": "pair by statement",
    "both": "both",
    "relaxed": "relaxed",
    "set_of_4": "set of 4",
    "cosine": "cosine",
    "spearman": "rho",
}
"""Headings of the measures."""

MEANS = ("cosine", "spearman")


def evaluation(console: Console, found: Evaluation) -> None:
    """A row for each subset, a column for each measure, what guessing gives, and notes."""
    kinds = list(dict.fromkeys((f.measure, f.num_statements) for f in found.figures))
    by_place = {(f.subset, f.measure, f.num_statements): f for f in found.figures}
    subsets = list(dict.fromkeys(f.subset for f in found.figures))
    sizes = Counter(item.subset for item in found.labelled.items)
    sizes[ALL] = len(found.labelled.items)
    rows = [("", "pairs", *(_title(*kind) for kind in kinds))]
    for subset in subsets:
        cells = [_cell(by_place.get((subset, *kind))) for kind in kinds]
        rows.append((printable(subset), str(sizes[subset]), *cells))
    rows.append(("chance", "", *(_chance(by_place, kind) for kind in kinds)))
    console.print(f"{printable(found.model)} on {printable(found.labelled.place)}", markup=False)
    columns(console, rows, header=True)
    console.print("accuracy in %, [95 % interval]; a tie is wrong", markup=False)
    if any(figure.measure == "individual" for figure in found.figures):
        console.print(
            f"the interval of {TITLES['individual']} takes the two images of a pair as independent",
            markup=False,
        )
    _notes(console, found.notes)


def reference(console: Console, found: Evaluation, benchmark: str) -> None:
    """Published figures, and ours of the same subset and measure where there are any."""
    rows = [("published", "subset", "measure", "value", printable(found.model))]
    for each in PUBLISHED[benchmark]:
        ways = 0 if each.measure in MEANS else 2
        ours = found.figure(each.subset, each.measure, ways)
        value = f"{each.value:.3f}" if each.measure in MEANS else f"{100 * each.value:.1f}"
        rows.append((each.model, each.subset, TITLES[each.measure], value, _cell(ours) or "-"))
    columns(console, rows, header=True)
    if found.labelled.layout != benchmark:
        console.print(
            f"the published figures are of {benchmark}, ours of another set: they show a scale, no "
            "more",
            markup=False,
        )


def compared(
    console: Console, labelled: LabelledSet, rows: Sequence[Compared], measure: str
) -> None:
    """A row for each encoder, a column for each pattern, and the average."""
    subsets = [subset for subset in rows[0].shares if subset != ALL]
    of_run = any(row.above is not None for row in rows)
    # One subset's column, its average and that of the whole would be the same.
    columns_of = [*subsets, ALL] if len(subsets) > 1 else [ALL]
    header = ["encoder", "pixels", "parameters", *(["above"] if of_run else [])]
    header += [printable(subset) for subset in columns_of]
    table = [[*header, "average"]]
    for row in rows:
        cells = [row.encoder_id, str(row.pixels), f"{row.parameters_m:.1f} M"]
        cells += [f"{row.above:.3f}"] if row.above is not None else []
        cells += [_percent(row.shares[subset]) for subset in columns_of]
        table.append([*cells, f"{100 * row.average:.1f}"])
    what = "pairs called the same" if of_run else f"accuracy ({TITLES[measure]})"
    console.print(
        f"{what} in %, of {len(labelled.items)} pairs of {printable(labelled.place)}", markup=False
    )
    columns(console, table, header=True)
    _notes(console, labelled.notes)


def _notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {printable(note)}", markup=False)


def _title(measure: str, ways: int) -> str:
    named = measure != "set_of_4" and ways > 2
    return f"{TITLES[measure]} ({ways} statements)" if named else TITLES[measure]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    estimate = figure.estimate
    if figure.measure not in MEANS:
        return _percent(estimate)
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.value:.1f} [{low:.1f}, {high:.1f}]"


def _chance(by_place: dict[tuple[str, str, int], Figure], kind: tuple[str, int]) -> str:
    figure = by_place.get((ALL, *kind))
    return f"{100 * figure.chance:.1f}" if figure is not None and figure.chance is not None else ""


def printable(text: str) -> str:
    """Text from elsewhere without what would move a terminal's cursor."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
