"""Command-line options made from settings models, so that each knob is described once.

A field `clip_above: float` becomes `--clip-above FLOAT`, with the field's docstring as its help
and the model's checks. A YAML file given with `--config` holds the same names; flags win over it.
"""

from __future__ import annotations

import reprlib
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from miner.config import Settings

_YAML_BREAKS_WITH = (ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What the parser throws at scalars that are not what they seem (`!!bool x`, `2001-99-99`)."""

_MAX_SHOWN_CHARS = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _MAX_SHOWN_CHARS

SettingsT = TypeVar("SettingsT", bound=Settings)
Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(model: type[Settings]) -> Callable[[Command], Command]:
    """Decorate a command with an option for each field of a model, and `--config`."""

    def decorate(command: Command) -> Command:
        for name, field in reversed(model.model_fields.items()):
            command = _option(name, field)(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="YAML file with the same names as these options; options win over it.",
        )(command)

    return decorate


def settings_from(
    model: type[SettingsT], flags: dict[str, Any], config_file: Path | None
) -> SettingsT:
    """The settings that flags and a YAML file give.

    Raises:
        click.UsageError: a field is unknown or its value is not allowed; the message names it.
    """
    given: dict[str, Any] = {}
    if config_file is not None:
        try:
            loaded = yaml.safe_load(config_file.read_text("utf-8"))
            if not isinstance(loaded, dict | None):
                raise click.UsageError(f"{config_file} has to hold `name: value` lines")
            given |= {str(name).replace("-", "_"): value for name, value in (loaded or {}).items()}
        except (OSError, yaml.YAMLError, *_YAML_BREAKS_WITH) as error:
            raise click.UsageError(f"{config_file} is no readable YAML: {error}") from error
    given |= {name: value for name, value in flags.items() if value is not None}
    try:
        return model(**given)
    except ValidationError as error:
        raise click.UsageError(_advice(error)) from error


def _advice(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        what = problem["msg"].removeprefix("Value error, ")
        lines.append(
            what if not problem["loc"] else f"{name}: {what} (got {_shown(problem['input'])})"
        )
    return "; ".join(lines)


def _shown(value: object) -> str:
    """A value as it was given, but no more of it than fits a line: aliases may make it endless."""
    try:
        text = _SHORT.repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]} ..."


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    return click.option(
        "--" + name.replace("_", "-"),
        name,
        type=_parameter_type(field.annotation),
        is_flag=field.annotation is bool,
        default=None,
        help=f"{field.description or ''}{_default(field)}",
    )


def _default(field: FieldInfo) -> str:
    return "" if field.default in (None, False) else f"  [default: {field.default}]"


def _parameter_type(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
    if get_origin(annotation) is Literal:
        choices: Sequence[str] = get_args(annotation)
        return click.Choice(choices)
    if annotation is Path:
        return click.Path(path_type=Path)
    assert annotation in (int, float, str, bool), annotation
    return annotation
