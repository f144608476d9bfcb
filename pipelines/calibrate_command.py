"""`blindpairs calibrate`: thresholds for encoders for which nobody has published any.

It imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.command_line import folder, out_console
from pipelines.options import RUN

if TYPE_CHECKING:
    from miner.measuring.calibration import Calibration, Rates
    from miner.records import Json

_COSINE = click.FloatRange(-1, 1)
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@folder
@click.option("--clip", required=True, help="Encoder of the run to find --clip-above for.")
@click.option("--dino", required=True, help="Encoder of the run to find --dino-below for.")
@click.option("--reference", type=RUN, help="Run with the reference's vectors; default: DIR.")
@click.option("--reference-clip", help="Encoder whose threshold is known.")
@click.option("--reference-dino", help="Likewise.")
@click.option("--reference-clip-above", type=_COSINE, help="Default: its own, else 0.95.")
@click.option("--reference-dino-below", type=_COSINE, help="Default: its own, else 0.6.")
@click.option("--candidate-rate", type=_SHARE, help="Without a reference: share of all pairs.")
@click.option("--blind-rate", type=_SHARE, help="Without a reference: share of the candidates.")
@click.option(
    "--max-images",
    type=click.IntRange(min=2),
    default=10_000,
    show_default=True,
    help="Of more images a seeded sample is taken; of these, all pairs are compared.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the curve."
)
def calibrate(
    folder: Path | str,
    clip: str,
    dino: str,
    reference: Path | str | None,
    reference_clip: str | None,
    reference_dino: str | None,
    reference_clip_above: float | None,
    reference_dino_below: float | None,
    candidate_rate: float | None,
    blind_rate: float | None,
    max_images: int,
    out: Path | None,
) -> int:
    """Find thresholds for other encoders.

    They lie at the quantiles of a reference, or at given rates.
    """
    from miner.config import JoinSettings
    from miner.measuring.calibrate import calibrate as find
    from miner.measuring.calibration_files import write_calibration
    from miner.measuring.calibration_images import common_images
    from miner.store import Store
    from pipelines import joins

    rates = _rates(
        (candidate_rate, blind_rate),
        (reference_clip, reference_dino),
        any(each is not None for each in (reference, reference_clip_above, reference_dino_below)),
    )
    store = Store(folder)
    pairs = [(store, joins.encoders_of(store, clip, dino))]
    how = None
    if rates is None:
        other = store if reference is None else Store(reference)
        pairs.append((other, joins.encoders_of(other, reference_clip, reference_dino)))
        given = {"clip_above": reference_clip_above, "dino_below": reference_dino_below}
        how = JoinSettings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
        how = joins.with_own_thresholds(other, *pairs[1][1], how)
    images = common_images(pairs, max_images=max_images)
    target = rates or (images.encoders[1], how.clip_above, how.dino_below)  # type: ignore[union-attr]
    found = find(images.encoders[0], target)
    said: Json = {"clip": pairs[0][1][0], "dino": pairs[0][1][1], "num_there": images.num_there}
    if how is not None:
        said |= {"reference_clip": pairs[1][1][0], "reference_dino": pairs[1][1][1]}
        said |= {"reference_clip_above": how.clip_above, "reference_dino_below": how.dino_below}
    _show(folder, found, said)
    if out is not None:
        for path in write_calibration(found, said, out):
            out_console.print(f"wrote {path}", markup=False)
    return 0


def _rates(
    rates: tuple[float | None, float | None],
    reference: tuple[str | None, str | None],
    says_more: bool,
) -> Rates | None:
    """The rates that were given; None where a reference was.

    Raises:
        ValueError: it is neither the one nor the other.
    """
    from miner.measuring.calibration import Rates

    candidates, blind = rates
    if candidates is not None and blind is not None and reference == (None, None):
        if says_more:
            raise ValueError(
                "--reference, --reference-clip-above and --reference-dino-below have no effect "
                "without --reference-clip and --reference-dino; leave them out"
            )
        return Rates(candidates=candidates, blind=blind)
    if None in reference or rates != (None, None):
        raise ValueError(
            "give either --reference-clip and --reference-dino, encoders that have seen the same "
            "images and whose thresholds are known, or --candidate-rate and --blind-rate"
        )
    return None


def _show(folder: Path | str, found: Calibration, said: Json) -> None:
    from pipelines import show

    sampled = "all" if found.num_images == said["num_there"] else "a seeded sample"
    lines = [
        ("images", f"{found.num_images} of {said['num_there']} distinct ones, {sampled}"),
        ("pairs", f"{found.clip.num_of}, all of these images"),
    ]
    if "reference_clip" in said:
        above, below = said["reference_clip_above"], said["reference_dino_below"]
        lines.append(("reference", f"{said['reference_clip']} > {above}"))
        lines.append(("", f"{said['reference_dino']} < {below}"))
    clip, dino = found.clip, found.dino
    lines += [
        ("candidate rate", f"{found.rates.candidates:.3g} of all pairs"),
        ("blind rate", f"{found.rates.blind:.3g} of the candidates"),
        ("CLIP above", f"{clip.value} ({clip.low:.4f} to {clip.high:.4f}), {clip.num_pairs} pairs"),
        ("DINO below", f"{dino.value} ({dino.low:.4f} to {dino.high:.4f}), {dino.num_pairs} pairs"),
    ]
    show.facts(out_console, lines)
    out_console.print("in brackets: 95 % of 200 resamples of the images")
    rows: list[tuple[str, ...]] = [("side", "rate", "pairs", "reference", "threshold")]
    rows += [
        (
            point.side,
            f"{point.rate:g}",
            str(point.num_pairs),
            "" if point.reference is None else f"{point.reference:.4f}",
            f"{point.threshold:.4f}",
        )
        for point in found.curve
    ]
    if all(point.reference is None for point in found.curve):
        rows = [(*row[:3], row[4]) for row in rows]
    show.columns(out_console, rows, header=True)
    command = (
        f"blindpairs join {folder} --clip {said['clip']} --dino {said['dino']} "
        f"--clip-above {clip.value!r} --dino-below {dino.value!r}"
    )
    show.facts(out_console, [("next", command)])
