"""Where synthetic vectors point: a common mean and a decaying spectrum around it, as CLIP has.

A row is sqrt(c) m + sqrt(1 - c) z / |z|: m is the mean direction, c the cosine of a random pair of
rows, and z a Gaussian whose k-th variance is k^-alpha along random axes orthogonal to m.

Shape suffixes: N rows, D width, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch


def seeded(device: torch.device, *words: int) -> torch.Generator:
    """A generator that depends on these numbers alone, and on the kind of device."""
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state >> 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cone:
    """Axes of one encoder's space.

    Attributes:
        common: cosine of a random pair of rows.
        mean_D: [D] float32, the mean direction.
        axes_DD: [D - 1, D] float32, axis k of length k^(-alpha / 2); all orthogonal to the mean.
    """

    common: float
    mean_D: torch.Tensor
    axes_DD: torch.Tensor

    def directions(self, num_rows: int, generator: torch.Generator) -> torch.Tensor:
        """[N, D] float32 unit rows z / |z|, orthogonal to the mean, with the cone's spectrum."""
        gaussian = torch.randn(
            num_rows, len(self.axes_DD), generator=generator, device=self.axes_DD.device
        )
        return torch.nn.functional.normalize(gaussian @ self.axes_DD)

    def rows(self, num_rows: int, generator: torch.Generator) -> torch.Tensor:
        """[N, D] float32 unit rows; a random pair has the cosine `common` on average."""
        around = self.directions(num_rows, generator)
        return math.sqrt(self.common) * self.mean_D + math.sqrt(1 - self.common) * around

    def near(
        self, centres_ND: torch.Tensor, within: float, generator: torch.Generator, *, flat: bool
    ) -> torch.Tensor:
        """[N, D] float32 unit rows; two that share a centre have about the cosine `within`.

        Args:
            centres_ND: [N, D] unit rows, a row's class.
            within: see above.
            generator: of the rest of every row.
            flat: whether the rest is spread over all D axes alike and not along the spectrum.
        """
        if flat:
            size = centres_ND.shape
            around = torch.randn(size, generator=generator, device=centres_ND.device)
            around = torch.nn.functional.normalize(around)
        else:
            around = self.directions(len(centres_ND), generator)
        return torch.nn.functional.normalize(
            math.sqrt(within) * centres_ND + math.sqrt(1 - within) * around
        )


def make_cone(
    dim: int, *, common: float, alpha: float, seed: int, stream: int, device: torch.device
) -> Cone:
    """A cone with random axes.

    Args:
        dim: D.
        common: cosine of a random pair of rows.
        alpha: the k-th eigenvalue around the mean is proportional to k^-alpha.
        seed: of everything.
        stream: tells the encoders apart that share a seed.
        device: where the rows are made.
    """
    gaussian = torch.randn(dim, dim, generator=seeded(torch.device("cpu"), seed, stream))
    basis_DD = torch.linalg.qr(gaussian)[0].T
    lengths = torch.arange(1, dim).float() ** (-alpha / 2)
    return Cone(
        common=common,
        mean_D=basis_DD[0].contiguous().to(device),
        axes_DD=(lengths[:, None] * basis_DD[1:]).to(device),
    )
