"""What a join's screen needs of its rows, in a folder that its workers share.

The plan is made once for a folder. A segment's codes are made by whoever needs them first and
memory-mapped by all, so a worker reads codes of both segments of its block, and of the rows
themselves only those of the pairs that survive. Codes lie by the plan that made them: codes of two
plans have no products, and a worker of a driver that is dead may still put some.

Shape suffixes: N rows, D row width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kernels.axes import Axes
from kernels.codes import Codes
from kernels.prepare import Plan, Prepared, prepare
from kernels.screens import exact_products
from miner.records import Json, flush_to_disk, new_attempt

_NUMBERS = ("width", "tile", "format", "expected_s")


class CodeShelf:
    """Codes of the segments of one join.

    Attributes:
        folder: where they lie; it goes when the join is done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._codes = folder

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan of the join; made and put there if there is none yet."""
        path = self.folder / "plan.safetensors"
        if not path.exists():
            plan = make()
            numbers: Json = {name: getattr(plan, name) for name in _NUMBERS}
            tensors: dict[str, torch.Tensor] = {}
            if plan.centre_CK is not None:
                tensors["centre_CK"] = plan.centre_CK
            if plan.axes is not None:
                numbers["axes_error"] = plan.axes.error
                tensors["turned_DK"] = plan.axes.turned_DK
                if plan.axes.rest_K is not None:
                    tensors["rest_K"] = plan.axes.rest_K
            _put(path, tensors, numbers)
        # Read again, since another's may have been first, and codes have to be of one plan.
        tensors, numbers = _read(path)
        self._codes = self.folder / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        axes = None
        if "turned_DK" in tensors:
            rest_K, error = tensors.get("rest_K"), numbers["axes_error"]
            axes = Axes(turned_DK=tensors["turned_DK"], rest_K=rest_K, error=error)
        return Plan(
            format=numbers["format"],
            width=numbers["width"],
            tile=(numbers["tile"][0], numbers["tile"][1]),
            axes=axes,
            centre_CK=tensors.get("centre_CK"),
            expected_s=numbers["expected_s"],
        )

    def prepared(self, name: str, rows_ND: torch.Tensor, plan: Plan) -> Prepared:
        """A segment's rows, ready for the plan's screen.

        Args:
            name: of the segment.
            rows_ND: [N, D] its rows; read whole only where nobody made their codes yet.
            plan: what `plan` gave last.
        """
        if plan.format != "int8":
            # Rounded rows would be as large as the rows are.
            with exact_products(None):
                return prepare(rows_ND, plan)
        path = self._codes / f"{name}.safetensors"
        if not path.exists():
            with exact_products(None):
                made = prepare(rows_ND, plan)
            assert made.codes is not None
            assert made.order_N is not None
            codes = made.codes
            tensors = {
                "order_N": made.order_N,
                "codes_NK": codes.codes_NK,
                "scale_B": codes.scale_B,
                "error_B": codes.error_B,
                "length_B": codes.length_B,
            }
            _put(path, tensors, {"axes_error": codes.axes_error})
        tensors, numbers = _read(path)
        order_N = tensors.pop("order_N")
        codes = Codes(**tensors, axes_error=numbers["axes_error"])
        return Prepared(rows_ND=rows_ND, order_N=order_N, codes=codes)


def _put(path: Path, tensors: dict[str, torch.Tensor], numbers: Json) -> None:
    """Write a file whole, unless there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{new_attempt()}.unfinished")
    # Without a tensor there is no file.
    whole = {name: each.contiguous() for name, each in tensors.items()} or {"none": torch.empty(0)}
    save_file(whole, unfinished, {"numbers": json.dumps(numbers)})
    flush_to_disk(unfinished)
    try:
        os.link(unfinished, path)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Json]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = json.loads(file.metadata()["numbers"])
    tensors.pop("none", None)
    return tensors, numbers
