"""The CSV row of a benchmark: one metric of one provider, and on what it was measured."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from miner.versions import versions

VERSIONS = (
    *("python", "torch", "numpy", "faiss-gpu", "faiss-cpu", "scikit-learn", "triton", "cuvs"),
    *("pillow", "simplejpeg", "torchvision", "opencv-python-headless", "webdataset"),
)
"""Packages whose version travels with a row, where they are installed."""

AMX_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""What oneDNN, and so torch's bfloat16 and int8 products, reads for the instructions to use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a CSV file.

    Attributes:
        name: the benchmark.
        provider: what was measured.
        data: which vectors.
        shape: N x D + E of them.
        dtype: of the provider's arithmetic.
        metric: what was measured of it.
        unit: of the values; empty for a plain number.
        median: None where there is no value; `note` says why.
        p20: the 20th percentile of the repeats.
        p80: the 80th.
        repeats: how many values there were.
        note: what one has to know to read the value.
        device: processor, cores or threads, and whether it has AMX.
        versions: of what computed it.
        commit: of this project, with `+` where files differ from it.
        date: of the row, UTC.
    """

    name: str
    provider: str = ""
    data: str = ""
    shape: str = ""
    dtype: str = ""
    metric: str = ""
    unit: str = ""
    median: float | None = None
    p20: float | None = None
    p80: float | None = None
    repeats: int = 0
    note: str = ""
    device: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""

    @property
    def num_rows(self) -> int:
        """N of the shape; 0 where there is none."""
        return int(self.shape.partition("x")[0] or 0)

    def measured(
        self, metric: str, values: Iterable[float], *, unit: str = "", note: str = ""
    ) -> Row:
        """The row of a metric, with everything but its values taken from this one.

        Args:
            metric: what was measured.
            values: of every repeat; none leave the cells empty.
            unit: of the values.
            note: what one has to know to read them.
        """
        numbers = np.array(list(values), np.float64)
        low, middle, high = np.quantile(numbers, (0.2, 0.5, 0.8)) if len(numbers) else [None] * 3
        return replace(
            self,
            metric=metric,
            unit=unit,
            median=None if middle is None else float(middle),
            p20=None if low is None else float(low),
            p80=None if high is None else float(high),
            repeats=len(numbers),
            note=note,
        )


MEASURING = (":(top)", ":(top,exclude)bench/results", ":(top,exclude)docs")
"""Files that may change a figure; results and pictures change while measuring."""

NAMES = [field.name for field in fields(Row)]
NUMBERS = ("median", "p20", "p80")


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a CSV file, which begins with the names of the columns.

    Raises:
        ValueError: the file there has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists() or path.stat().st_size == 0
    if not is_new:
        _check_columns(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(NAMES)
        for row in rows:
            values = [getattr(row, name) for name in NAMES]
            writer.writerow(["" if value is None else value for value in values])


def read_rows(path: Path) -> list[Row]:
    """Every row of a CSV file.

    Raises:
        ValueError: the file has other columns.
    """
    _check_columns(path)
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(record) for record in csv.DictReader(file)]


def _row(record: dict[str, str]) -> Row:
    values: dict[str, Any] = dict(record)
    values |= {name: float(record[name]) if record[name] else None for name in NUMBERS}
    return Row(**values | {"repeats": int(record["repeats"])})


def _check_columns(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        found = next(csv.reader(file), [])
    if found != NAMES:
        raise ValueError(
            f"{path} has the columns {', '.join(found)}; rows have {', '.join(NAMES)}: "
            "write to another file"
        )


def blank_row(name: str, device: str = "cpu") -> Row:
    """A row that says where and when: device, versions, commit and date, and nothing measured.

    Args:
        name: the benchmark.
        device: torch's name of what is measured.
    """
    return Row(
        name=name,
        device=describe_device(device),
        versions=_versions(),
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


@cache
def describe_device(device: str) -> str:
    """What a row calls the machine: a GPU's name, or processor, threads and AMX."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads, AMX {amx_state()}"


def amx_state() -> str:
    """`absent` where the processor has no AMX, `off` where it is not to be used, else `on`."""
    if "amx_tile" not in _cpuinfo("flags").split():
        return "absent"
    limit = os.environ.get(AMX_LIMIT, "").upper()
    return "on" if not limit or "AMX" in limit or limit == "ALL" else "off"


def _processor() -> str:
    return _cpuinfo("model name") or "unknown processor"


@cache
def _cpuinfo(name: str) -> str:
    """The first value of a name in /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


@cache
def _versions() -> str:
    known = versions()
    found = []
    for package in VERSIONS:
        try:
            found.append(f"{package} {known.get(package) or version(package)}")
        except PackageNotFoundError:
            continue
    return "; ".join(entry for entry in found if not entry.endswith(" missing"))


@cache
def _commit() -> str:
    """The checked-out commit, with `+` where its code differs; empty outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--short=10", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", *MEASURING),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changes else "")
