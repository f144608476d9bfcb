"""What the parity gate found: every figure with its limit, and whether it lets an engine pass."""

from __future__ import annotations

from dataclasses import dataclass

from miner.errors import ParityError


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure and its limit.

    Attributes:
        name: of the check, see `export.verify`.
        group: kind of images that it is about; `all` for all of them together.
        value: what was measured; NaN where it could not be.
        limit: the most that it may be.
    """

    name: str
    group: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its limit; NaN does not."""
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} of {self.group} is {self.value:.3g}, limit {self.limit:.3g}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found about an engine.

    Attributes:
        encoder_id: the encoder's.
        backend: what computed it.
        precision: in which it computed.
        device: where.
        num_images: on how many images.
        num_near_pairs: how many of their pairs lie near the threshold.
        spread: highest minus lowest pair cosine of the truth.
        checks: every figure with its limit.
    """

    encoder_id: str
    backend: str
    precision: str
    device: str
    num_images: int
    num_near_pairs: int
    spread: float
    checks: tuple[Check, ...]

    @property
    def failures(self) -> list[Check]:
        """Checks that the engine does not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def deviation(self) -> float:
        """How far a pair's cosine was from the truth, at most; widens the borderline band."""
        kinds = ("pair max", "moved pair")
        return max(check.value for check in self.checks if check.name in kinds)

    def refuse(self) -> None:
        """Raise if the engine failed.

        Raises:
            ParityError: it did; with every figure beyond its limit.
        """
        if self.failures:
            remedy = "another --precision, or --backend torch"
            remedy = "--precision fp32" if self.backend == "torch" else remedy
            raise ParityError(
                f"{self.encoder_id} by {self.backend} in {self.precision} on {self.device} does "
                f"not equal TorchEncoder in fp32: {'; '.join(map(str, self.failures))} "
                f"({self.num_images} images); use {remedy}"
            )
