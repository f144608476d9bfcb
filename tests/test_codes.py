"""The shelf on which workers share codes: made once, of one plan."""

from pathlib import Path

import pytest
import torch

from kernels import cpu
from kernels.prepare import Plan, make_plan, prepare
from miner.codes import CodeShelf


def rows(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, 12, (number,), generator=generator)
    centres = torch.randn(12, 96, generator=generator)
    return centres[groups] + 0.2 * torch.randn(number, 96, generator=generator)


@pytest.mark.parametrize("screen", ["int8-64", "float32"])
def test_what_lies_on_a_shelf_is_what_was_made(tmp_path: Path, screen: str) -> None:
    rows_ND = rows(700)
    made = make_plan(rows_ND, None, 0.9, screen=screen)
    shelf = CodeShelf(tmp_path / "codes")
    plan = shelf.plan(lambda: made)
    assert (plan.format, plan.width, plan.tile) == (made.format, made.width, made.tile)
    own = prepare(rows_ND, made)
    for _ in range(2):
        shared = shelf.prepared("a", rows_ND, plan)
        if own.codes is None:
            assert shared.codes is None
            continue
        assert shared.codes is not None
        assert own.order_N is not None
        assert shared.order_N is not None
        assert torch.equal(shared.order_N, own.order_N)
        assert torch.equal(shared.codes.codes_NK, own.codes.codes_NK)
        assert torch.equal(shared.codes.error_B, own.codes.error_B)
        assert shared.codes.axes_error == own.codes.axes_error
    assert not [path for path in shelf.folder.iterdir() if path.name.startswith(".")]


def test_the_first_plan_stands(tmp_path: Path) -> None:
    """Whoever comes second takes the first one's plan, or its codes would be of another."""
    rows_ND = rows(300)
    plans = [make_plan(rows_ND, None, 0.9, screen=f"int8-{width}") for width in (64, 32)]
    first = CodeShelf(tmp_path).plan(lambda: plans[0])

    def never() -> Plan:
        raise AssertionError("there is a plan")

    assert CodeShelf(tmp_path).plan(never).width == first.width == 64


def test_who_loses_the_race_takes_the_winners_plan(tmp_path: Path) -> None:
    rows_ND = rows(300)
    shelf = CodeShelf(tmp_path)

    def beaten() -> Plan:
        CodeShelf(tmp_path).plan(lambda: make_plan(rows_ND, None, 0.9, screen="int8-32"))
        return make_plan(rows_ND, None, 0.9, screen="int8-64")

    assert shelf.plan(beaten).width == 32


def test_codes_are_not_made_again(tmp_path: Path) -> None:
    """Whoever finds a segment's codes on the shelf needs only the rows of surviving pairs."""
    generator = torch.Generator().manual_seed(1)
    rows_ND = torch.cat([rows(300), torch.randn(50, 96, generator=generator)])
    shelf = CodeShelf(tmp_path)
    plan = shelf.plan(lambda: make_plan(rows_ND, None, 0.9, screen="int8-64"))
    dino = (torch.ones(len(rows_ND), 1), None)

    def pairs(of_ND: torch.Tensor) -> list[tuple[int, int]]:
        prepared = shelf.prepared("a", of_ND, plan)
        found = cpu.search(prepared, None, dino, plan, clip_above=0.9)
        return sorted(
            (i, j) for f in found for i, j in zip(f.i.tolist(), f.j.tolist(), strict=True)
        )

    expected = pairs(rows_ND)
    assert expected
    assert max(j for _, j in expected) < 300
    spoilt = rows_ND.clone()
    spoilt[300:] = float("nan")
    assert pairs(spoilt) == expected


def test_codes_of_another_plan_are_no_codes(tmp_path: Path) -> None:
    """A worker of a driver that is dead may still put codes, and of the same width."""
    rows_ND = rows(400)
    stale = CodeShelf(tmp_path)
    old = stale.plan(lambda: make_plan(rows(300, seed=5), None, 0.9, screen="int8-64"))
    (tmp_path / "plan.safetensors").unlink()
    shelf = CodeShelf(tmp_path)
    new = shelf.plan(lambda: make_plan(rows_ND, None, 0.9, screen="int8-64"))
    late = stale.prepared("b", rows_ND, old).codes
    own = shelf.prepared("b", rows_ND, new).codes
    assert late is not None
    assert own is not None
    assert not torch.equal(late.codes_NK, own.codes_NK)
    assert torch.equal(own.codes_NK, prepare(rows_ND, new).codes.codes_NK)  # type: ignore[union-attr]
