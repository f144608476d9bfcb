"""The commands that measure: an encoder, or answers, on labelled pairs; encoders side by side.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipelines.command_line import out_console
from pipelines.options import RUN

LAYOUTS = ("review", "jsonl", "mmvp", "mmvp-vlm", "whatsup", "winoground")
BENCHMARKS = ("mmvp", "whatsup")
MEASURES = ("pair", "individual", "pair_by_statement", "both", "relaxed")
DEFAULT_LIMIT = 500

_place = click.argument("place", metavar="SET", type=RUN)
_layout = click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="review",
    show_default=True,
    help="How SET is laid out: review is a run with accepted pairs.",
)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
_prompt = click.option(
    "--prompt", help="What becomes of a statement, {} being it; default: as the set's own scorer."
)
_csv = click.Path(dir_okay=False, path_type=Path)


@click.command(name="evaluate")
@_place
@_layout
@click.option("--encoder", help="A CLIP-like encoder: a registry name or library:model:weights.")
@click.option("--weights", help="Its weights, both towers: a safetensors file, or URL and sha256.")
@click.option(
    "--answers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of an encoder: a model's answers in words, as CSV or JSON lines.",
)
@click.option(
    "--lower-is-better",
    is_flag=True,
    help="Of answers with scores for each option (scores, or score_1, score_2): as perplexities.",
)
@click.option(
    "--reference", type=click.Choice(BENCHMARKS), help="Print published figures beside ours."
)
@click.option(
    "--correct-labels", is_flag=True, help="Swap the answers that the public MMVP has wrong."
)
@_prompt
@_device
@click.option("--out", type=_csv, help="Write every figure, with its interval, to this CSV.")
@click.option("--pairs-out", type=_csv, help="Write what was found of every pair to this CSV.")
def evaluate_command(
    place: Path | str,
    layout: str,
    encoder: str | None,
    weights: str | None,
    answers: Path | None,
    lower_is_better: bool,
    reference: str | None,
    correct_labels: bool,
    prompt: str | None,
    device: str,
    out: Path | None,
    pairs_out: Path | None,
) -> int:
    """Measure an encoder, or a model's answers, on labelled pairs."""
    if (encoder is None) == (answers is None):
        raise click.UsageError("give either --encoder NAME or --answers FILE")
    if answers is not None and (weights is not None or prompt is not None):
        raise click.UsageError("--weights and --prompt are for an encoder; answers need neither")
    if answers is None and lower_is_better:
        raise click.UsageError("--lower-is-better is for --answers; leave it out")
    from miner.measuring.figures_csv import figures_csv, pairs_csv
    from pipelines import measuring, show_figures

    labelled = measuring.read_set(place, layout, correct_labels=correct_labels)
    if answers is not None:
        from miner.measuring.answers import evaluate_answers

        found = evaluate_answers(labelled, answers, lower_is_better=lower_is_better)
    else:
        assert encoder is not None
        found = measuring.measure(labelled, encoder, weights, device, prompt).evaluation
    show_figures.evaluation(out_console, found)
    if reference is not None:
        show_figures.reference(out_console, found, reference)
    measuring.write_csv(out, lambda: figures_csv(found))
    measuring.write_csv(pairs_out, lambda: pairs_csv(found))
    return 0


@click.command(name="compare")
@_place
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    help="How SET is laid out, to compare accuracy; default: SET is a run, and the share of its "
    "selected pairs that each encoder calls the same is compared.",
)
@click.option("--encoders", required=True, help="Encoders with commas between them.")
@click.option("--weights", multiple=True, metavar="NAME=FILE", help="Weights of an encoder.")
@click.option(
    "--above",
    multiple=True,
    metavar="NAME=COSINE",
    help="Of a run: the cosine above which an encoder calls two images the same; default: its own, "
    "or the join's.",
)
@click.option("--name", help="Of a run: the join's name; default: the one that was made last.")
@click.option("--limit", type=click.IntRange(min=1), help="Of a run: pairs.  [default: 500]")
@click.option("--measure", type=click.Choice(MEASURES), help="Of a layout.  [default: pair]")
@_prompt
@_device
@click.option("--out", type=_csv, help="Write the table, with intervals, to this CSV.")
def compare_command(
    place: Path | str,
    layout: str | None,
    encoders: str,
    weights: Sequence[str],
    above: Sequence[str],
    name: str | None,
    limit: int | None,
    measure: str | None,
    prompt: str | None,
    device: str,
    out: Path | None,
) -> int:
    """Compare encoders on one set: who is blind to what."""
    idle: dict[str, object] = {"--measure": measure, "--prompt": prompt}
    if layout is not None:
        idle = {"--above": above or None, "--name": name, "--limit": limit}
    if given := [option for option, value in idle.items() if value is not None]:
        kind = "a run without --layout" if layout is None else f"--layout {layout}"
        raise click.UsageError(f"{' and '.join(given)} says nothing of {kind}; leave it out")
    from miner.measuring.figures_csv import compared_csv
    from pipelines import measuring, show_figures

    names = measuring.names_of(encoders)
    files = measuring.by_name(weights, names, "--weights")
    if layout is None:
        cosines = measuring.by_name(above, names, "--above")
        labelled, rows = measuring.compare_run(
            place, name, names, files, cosines, limit or DEFAULT_LIMIT, device
        )
        measure = "called the same"
    else:
        measure = measure or MEASURES[0]
        labelled = measuring.read_set(place, layout)
        rows = measuring.compare_set(labelled, names, files, measure, device, prompt)
    show_figures.compared(out_console, labelled, rows, measure)
    measuring.write_csv(out, lambda: compared_csv(rows, measure))
    return 0
