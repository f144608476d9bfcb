"""Command-line options made from settings models, so that each knob is described once.

A field `clip_above: float` becomes `--clip-above FLOAT`, with the field's docstring as its help
and the model's checks. A YAML file given with `--config` holds the same names; flags win over it.
"""

from __future__ import annotations

import json
import os
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from miner.config import Settings
from miner.objects import is_object_url

_YAML_BREAKS_WITH = (ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What the parser throws at scalars that are not what they seem (`!!bool x`, `2001-99-99`)."""

_MAX_SHOWN_CHARS = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _MAX_SHOWN_CHARS

SettingsT = TypeVar("SettingsT", bound=Settings)
Command = TypeVar("Command", bound=Callable[..., Any])


class RunDirectory(click.ParamType):  # type: ignore[type-arg]
    """A run directory: a local folder, or a URL as `s3://bucket/run`."""

    name = "directory"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """A folder as a path, a URL as it is; another scheme is refused."""
        if isinstance(value, Path) or is_object_url(value):
            return value  # type: ignore[no-any-return]
        if "://" in value:
            self.fail(f"{value}: a run lies in a folder, or at s3:// or gs://", param, ctx)
        if not os.path.isabs(value) and _is_in_ray_package():
            self.fail(
                f"{value}: a Ray job stands in a copy of its --working-dir, which Ray deletes; "
                "give an absolute path that every node has, or s3:// or gs://",
                param,
                ctx,
            )
        return Path(value)


def _is_in_ray_package() -> bool:
    """Whether this process is a Ray job with a `--working-dir`, by what Ray itself sets."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return bool((config.get("runtime_env") or {}).get("working_dir"))


RUN = RunDirectory()


def settings_options(
    model: type[Settings], defaults: Mapping[str, Any] | None = None
) -> Callable[[Command], Command]:
    """Decorate a command with an option for each field of a model, and `--config`.

    Args:
        model: whose fields.
        defaults: values that the help names in the place of the fields' own.
    """
    own = defaults or {}

    def decorate(command: Command) -> Command:
        for name, field in reversed(model.model_fields.items()):
            command = _option(name, field, own.get(name, field.default))(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="YAML file with the same names as these options; options win over it.",
        )(command)

    return decorate


def settings_from(
    model: type[SettingsT],
    flags: dict[str, Any],
    config_file: Path | None,
    defaults: Mapping[str, Any] | None = None,
) -> SettingsT:
    """The settings that flags and a YAML file give.

    Args:
        model: of the settings.
        flags: by name; None where one was not given.
        config_file: with the same names; flags win over it.
        defaults: what counts where neither says anything.

    Raises:
        click.UsageError: a field is unknown or its value is not allowed; the message names it.
    """
    given = dict(defaults or {})
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


def _option(name: str, field: FieldInfo, default: Any) -> Callable[[Command], Command]:
    return click.option(
        "--" + name.replace("_", "-"),
        name,
        type=_parameter_type(field.annotation),
        is_flag=field.annotation is bool,
        default=None,
        help=f"{field.description or ''}{_said(default)}",
    )


def _said(default: Any) -> str:
    return "" if default in (None, False) else f"  [default: {default}]"


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
