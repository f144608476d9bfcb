"""Which of a command's shards it embeds, where several share the work without a coordinator."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click


class Share(NamedTuple):
    """Every n-th shard of the sorted list, from the i-th on."""

    number: int
    """i, from 1."""
    of: int
    """n."""

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Share(1, 1)


class ShareType(click.ParamType[Share]):
    """An option's value `i/n`."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Share:
        """Read `i/n`.

        Raises:
            click.BadParameter: it is none.
        """
        if isinstance(value, Share):
            return value
        found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", value)
        if not found or int(found[1]) > int(found[2]):
            self.fail(f"{value!r} is no part; those of n are 1/n to n/n, such as 1/3", param, ctx)
        return Share(int(found[1]), int(found[2]))


part_option = click.option(
    "--part",
    "share",
    type=ShareType(),
    default=None,
    help="Embed the i-th of n shares of the shards; n commands, one for each, share --out.",
)
