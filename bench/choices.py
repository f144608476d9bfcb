"""What the options of the benchmarks name: providers and sizes."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bench.providers import Provider


def chosen(names: str, known: Sequence[Provider]) -> list[Provider]:
    """The providers of these names, comma-separated; all that are installed where it is empty.

    Raises:
        click.UsageError: a name is unknown, or what it needs is not installed.
    """
    by_name = {provider.name: provider for provider in known}
    if not names:
        for provider in known:
            if not provider.is_here:
                click.echo(f"{provider.name} is left out: {provider.needs} is not installed")
        return [provider for provider in known if provider.is_here]
    for name in names.split(","):
        if name not in by_name:
            raise click.UsageError(f"provider {name!r} is unknown; there are {', '.join(by_name)}")
        if not by_name[name].is_here:
            raise click.UsageError(
                f"{name} needs {by_name[name].needs}, which is not installed; the extra `bench` "
                "of this project installs what its benchmarks need"
            )
    return [by_name[name] for name in names.split(",")]


def numbers(text: str) -> list[int]:
    """Comma-separated numbers of rows, in the order of their size.

    Raises:
        click.UsageError: a word is no number.
    """
    if not all(word.isdecimal() and int(word) > 1 for word in text.split(",")):
        raise click.UsageError(f"--rows is {text!r}; it takes N above 1, as in 1000,50000")
    return sorted(int(word) for word in text.split(","))
