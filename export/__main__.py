"""`python -m export`, which is `blindpairs export-engine`: an encoder as an engine, proven equal.

The command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

    from export.cache import EngineCache, Entry
    from export.look import Group
    from miner.engine_tensorrt import Flavour
    from miner.registry import EncoderRecord


@click.command("export-engine")
@click.option(
    "--encoder",
    "name",
    required=True,
    help="A registry name or library:name:weights.",
)
@click.option("--to", required=True, type=click.Choice(["onnx", "tensorrt"]))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Number format of the tower; pixels and lengths are computed in fp32.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="safetensors file; default: bundled, or the hub's local cache, or the hub.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:N: where the engine is to run, and is proven.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Largest batch of a TensorRT engine, and the one it is optimised for.",
)
@click.option(
    "--flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    default="tensorrt",
    show_default=True,
    help="Which TensorRT: the one for data centres, or TensorRT for RTX.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="SHARD",
    help="Shards whose first images the engine is proven on too, beside rendered scenes.",
)
@click.option(
    "--compute-capability",
    help="Build for another machine's GPU, such as 8.9, without running it (tensorrt-rtx).",
)
@click.option(
    "--pack",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Then write every proven engine of the cache to this tar, for `mine --engines`.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder of exports and engines.  [default: ~/.cache/blindpairs/engines]",
)
def export_engine(
    name: str,
    to: str,
    precision: str,
    weights: Path | None,
    device: str,
    batch_size: int,
    flavour: Flavour,
    images: tuple[str, ...],
    compute_capability: str | None,
    pack: Path | None,
    cache: Path | None,
) -> int:
    """Export an encoder to ONNX or TensorRT, proven equal.

    It is kept for mining.
    """
    from export.cache import EngineCache
    from export.engines import build_ahead, find_source, open_onnx, open_tensorrt
    from export.gate import Gate, usual_threshold
    from miner.encoders import find_device, load_encoder

    if compute_capability is not None and (to != "tensorrt" or flavour != "tensorrt-rtx"):
        raise click.UsageError(
            f"--compute-capability is {compute_capability}, which only --to tensorrt --flavour "
            "tensorrt-rtx builds for; leave it out, or give both"
        )
    if compute_capability is not None and pack is not None:
        raise click.UsageError(
            "--pack writes what is proven, which --compute-capability leaves to the other machine; "
            "leave one of them out"
        )
    source = find_source(name, weights, precision)
    engines = EngineCache(cache)
    if compute_capability is not None:
        built = build_ahead(
            engines, source, compute_capability=compute_capability, max_batch=batch_size
        )
        _show(built, "built, never executed; mining does not load it")
        return 0
    where = find_device(_auto() if device == "auto" else device)
    prove = Gate(
        load_truth=lambda: load_encoder(source.record, device=where, weights=source.weights),
        own=_images(images, source.record, where),
        batch_size=batch_size,
        threshold=usual_threshold(source.record),
        proofs=engines.prepare("proofs"),
    )
    if to == "onnx":
        proven = open_onnx(engines, source, where, prove)
    else:
        proven = open_tensorrt(engines, source, where, prove, flavour=flavour, max_batch=batch_size)
    if pack is not None:
        _pack(engines, pack)
    _show(proven.entry, f"proven, largest deviation of a pair {proven.encoder.deviation:.1e}")
    return 0


def _images(patterns: tuple[str, ...], record: EncoderRecord, device: torch.device) -> Group | None:
    """The user's own images, where shards are named."""
    from export.gate import amounts_on, first_images
    from export.verify import MIN_IMAGES
    from miner.config import ImageLimits
    from miner.errors import ShardError
    from miner.shards import list_shards

    if not patterns:
        return None
    (own,) = first_images(
        list_shards(patterns), [record], amounts_on(device).read, limits=ImageLimits()
    )
    if len(own) < MIN_IMAGES:
        raise ShardError(
            f"{', '.join(patterns)}: {len(own)} images can be decoded, an engine is judged on "
            f"{MIN_IMAGES} at least; give more shards, or leave --images out"
        )
    return own


def _pack(engines: EngineCache, path: Path) -> None:
    from export.parcel import pack

    click.echo(f"{'packed':<20} {path}#sha256={pack(engines, path)}")


def _auto() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _show(entry: Entry, verdict: str) -> None:
    """What was made: its key, its files with their hashes, and the verdict."""
    facts = [(name, str(value)) for name, value in entry.key.items() if value != ""]
    for name, sha256 in entry.files.items():
        facts += [("file", str((entry.folder / name).resolve())), ("sha256", sha256)]
    for name, value in [*facts, ("verdict", verdict)]:
        click.echo(f"{name.replace('_', ' '):<20} {value}")


def run(arguments: list[str] | None = None) -> int:
    """Run the command; its exit code: 0, 2, 4, 5 or 130, as of `blindpairs`.

    Args:
        arguments: the words after `python -m export`; None takes the process's own.
    """
    from miner.exits import run_command

    return run_command(
        export_engine,
        arguments,
        called="python -m export",
        name="export",
        say=lambda line: click.echo(line, err=True),
    )


if __name__ == "__main__":
    sys.exit(run())
