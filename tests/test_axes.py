"""Axes of short codes: their span, and that an image along them loses no cosine."""

import pytest
import torch

from kernels.axes import find_axes, principal_axes, project, turn_axes
from kernels.bounds import unit_rows
from tests.adversaries import rows, true_cosines


def test_code_keeps_what_a_prefix_promises() -> None:
    given_rows = rows("anisotropic", 200, 300, 8)
    unit = unit_rows(given_rows)
    axes = find_axes(unit, 64)
    image = project(unit, axes)
    slack = 2 * axes.error * float(image.norm(dim=1).max()) + axes.error**2
    assert bool((image @ image.T >= true_cosines(given_rows) - slack).all())
    assert image.norm(dim=1).tolist() == pytest.approx([1.0] * 200, abs=1e-3)


def test_axes_are_orthonormal_and_near_the_principal_ones() -> None:
    given_rows = rows("anisotropic", 2000, 300, 9)
    unit = unit_rows(given_rows)
    axes = principal_axes(unit, 31)
    assert float((axes.T @ axes - torch.eye(31, dtype=torch.float64)).abs().max()) < 1e-12
    kept = float((unit.double() @ axes).square().sum())
    best = torch.linalg.svdvals(unit.double())[:31].square().sum()
    assert kept > 0.98 * float(best)
    # The first of many axes serve as well as if they alone had been sought.
    few = float((unit.double() @ axes[:, :8]).square().sum())
    assert few > 0.98 * float(torch.linalg.svdvals(unit.double())[:8].square().sum())


def test_turned_axes_take_the_first_of_the_principal_ones() -> None:
    principal = principal_axes(unit_rows(rows("anisotropic", 500, 300, 2)), 127)
    turned = turn_axes(principal, 64)
    assert turned.width == 64
    # The span of the turned axes is that of the first 63, whatever the rotation.
    inside = principal[:, :63] @ (principal[:, :63].T @ turned.turned_DK.double())
    assert float((inside - turned.turned_DK).abs().max()) < 1e-6


def test_seeds_repeat() -> None:
    unit = unit_rows(rows("random", 100, 80, 1))
    assert torch.equal(find_axes(unit, 16).turned_DK, find_axes(unit, 16).turned_DK)
    assert not torch.equal(find_axes(unit, 16).turned_DK, find_axes(unit, 16, seed=1).turned_DK)
