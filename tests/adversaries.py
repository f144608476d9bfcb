"""Rows that are hard on a screen: what its bound has to hold for."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

KINDS = (
    "random",
    "low_rank",
    "one_hot",
    "exact_in_bfloat16",
    "anisotropic",
    "clustered",
    "outliers",
    "duplicates",
    "near_threshold",
    "huge_and_tiny",
)
ADVERSARIES = given(
    kind=st.sampled_from(KINDS),
    number=st.integers(1, 40),
    dim=st.integers(1, 90),
    above=st.floats(-0.99, 0.999),
    seed=st.integers(0, 2**31),
)
"""Arguments that make such rows, and a threshold."""


def rows(kind: str, number: int, dim: int, seed: int, above: float = 0.95) -> torch.Tensor:
    """Rows of a kind.

    Args:
        kind: one of `KINDS`.
        number: how many.
        dim: how wide.
        seed: of everything that is drawn.
        above: the threshold that `near_threshold` plants cosines at.

    Returns:
        [number, dim] float32, none zero.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, dim, generator=generator)
    if kind == "low_rank":
        noise = noise[:, :1] * noise[:1] + 1e-3 * noise
    elif kind == "one_hot":
        noise = torch.eye(dim)[torch.randint(dim, (number,), generator=generator)]
    elif kind == "exact_in_bfloat16":
        # Small integers, all of one length, so that coding leaves no residual.
        noise = torch.where(noise > 0, 1.0, -1.0)
        noise[:, dim // 2 :] = 1.0
    elif kind == "anisotropic":
        noise = noise / torch.arange(1, dim + 1).sqrt() + 1.0 / torch.arange(1, dim + 1)
    elif kind == "clustered":
        centres = torch.randn(3, dim, generator=generator)
        noise = centres[torch.randint(3, (number,), generator=generator)] + 0.2 * noise
    elif kind == "outliers":
        noise = noise[:1] + 0.1 * noise
        noise[::7, 0] = 1e3
    elif kind == "duplicates":
        noise = noise[torch.randint(max(number // 4, 1), (number,), generator=generator)]
    elif kind == "near_threshold":
        noise = near(above, number, dim, generator)
    elif kind == "huge_and_tiny":
        noise = (noise + 2) * 10.0 ** torch.randint(-30, 30, (number, 1), generator=generator)
    zero = (noise == 0).all(dim=1)
    noise[zero] = 1.0
    return noise


def near(above: float, number: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Rows whose cosines with the first lie within 1e-4 of a threshold, on both sides."""
    drawn = torch.randn(number, dim, generator=generator).double()
    base = torch.nn.functional.normalize(drawn[:1], dim=1)
    if number < 2 or dim < 2:
        return base.repeat(number, 1).float()
    other = torch.nn.functional.normalize(drawn[1:] - (drawn[1:] @ base.T) * base, dim=1)
    cosine = (above + torch.linspace(-1e-4, 1e-4, number - 1, dtype=torch.float64)).clamp(-1, 1)
    planted = cosine[:, None] * base + (1 - cosine[:, None] ** 2).sqrt() * other
    return torch.cat([base, planted]).float()


def true_cosines(a: torch.Tensor) -> torch.Tensor:
    """All cosines of some rows, in float64."""
    wide = a.double()
    wide = wide / wide.abs().amax(dim=1, keepdim=True)
    wide = wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return wide @ wide.T
