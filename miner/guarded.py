"""An engine as a run calls it, and what it does when memory or numbers end.

B images, D dimensions; R rows computed anew
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from miner.encoders import Encoder
from miner.engines import FixedBatch
from miner.errors import ResourceError

log = logging.getLogger(__name__)


class Guarded:
    """An encoder that outlives one shortage of memory, and asks the truth where numbers ended.

    A batch that does not fit is halved once, for all batches to come. Rows with NaN or infinity,
    or of no length, are computed again by the truth; what it cannot compute either stays as it is,
    to be quarantined.

    Args:
        encoder: what computes.
        load_truth: gives `TorchEncoder` in float32, when it is first needed; None where `encoder`
            is that itself.
        batch_size: most images at a time; None takes batches as they come.
        is_halved: whether that is what a shortage has left already.
        prove: proves the encoder again at a batch size to which it was halved, and gives the
            deviation there; ParityError where it does not equal the truth.

    Attributes:
        record, encoder_id, dim, device, backend, precision, deviation: the encoder's.
        batch_size: most images at a time, as it is now.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        load_truth: Callable[[], Encoder] | None,
        batch_size: int | None = None,
        is_halved: bool = False,
        prove: Callable[[int], float] | None = None,
    ) -> None:
        self.record = encoder.record
        self.encoder_id = encoder.encoder_id
        self.dim = encoder.dim
        self.device = encoder.device
        self.backend = encoder.backend
        self.precision = encoder.precision
        self.deviation = encoder.deviation
        self.batch_size = batch_size
        self._encoder = encoder
        self._load_truth = load_truth
        self._truth: Encoder | None = None
        self._is_halved = is_halved
        self._prove = prove

    def __call__(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Encode pixels: `launch`, then `mended`.

        Args:
            pixels_BCHW: [B, 3, S, S] uint8 on any device, S being the record's image size.

        Returns:
            [B, D] float32 on the encoder's device: rows of unit length, or not finite.

        Raises:
            ValueError: the pixels have another type or shape.
            ResourceError: the memory does not suffice, after a batch was halved.
        """
        return self.mended(self.launch(pixels_BCHW), pixels_BCHW)

    @torch.inference_mode()
    def launch(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Vectors by the encoder, in the batches that fit; on a GPU without waiting for them.

        Raises:
            As a call does.
        """
        if not self._is_halved:
            try:
                return self._encode(pixels_BCHW)
            except torch.OutOfMemoryError as error:
                most = min(len(pixels_BCHW), self.batch_size or len(pixels_BCHW))
                self.batch_size = halve(self._encoder, most, error)
                self._is_halved = True
            # Only here has the failed attempt, which the error holds on to, let go of its memory.
            release(self.device)
            if self._prove is not None:
                # Another batch size may take other kernels, which nobody has judged yet.
                self.deviation = max(self.deviation, self._prove(self.batch_size))
        assert self.batch_size is not None
        try:
            return self._encode(pixels_BCHW)
        except torch.OutOfMemoryError as error:
            raise second_shortage(self._encoder, self.batch_size, error) from error

    def _encode(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        if self.batch_size is None or len(pixels_BCHW) <= self.batch_size:
            return self._encoder(pixels_BCHW)
        parts = torch.split(pixels_BCHW, self.batch_size)
        return torch.cat([self._encoder(part_BCHW) for part_BCHW in parts])

    @torch.inference_mode()
    def mended(self, vectors_BD: torch.Tensor, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """The vectors, those that are none computed anew by the truth.

        Args:
            vectors_BD: what `launch` gave, there or copied to the CPU; looked at, so waited for.
            pixels_BCHW: what it was given.
        """
        if self._load_truth is None:
            return vectors_BD
        lost_B = ~vectors_BD.isfinite().all(dim=1) | ~vectors_BD.any(dim=1)
        rows_R = lost_B.nonzero().flatten()
        if len(rows_R) == 0:
            return vectors_BD
        if self._truth is None:
            self._truth = self._load_truth()
        truth = Guarded(self._truth, load_truth=None)
        again_RD = truth(pixels_BCHW[rows_R.to(pixels_BCHW.device)]).to(vectors_BD.device)
        mended_BD = vectors_BD.clone()
        mended_BD[rows_R] = again_RD
        log.warning(
            "%s: %d of %d vectors were not finite by %s in %s; float32 gives %d of them",
            *(self.record.name, len(rows_R), len(vectors_BD), self.backend, self.precision),
            int(again_RD.isfinite().all(dim=1).sum()),
        )
        return mended_BD


def halve(encoder: Encoder, batch_size: int, error: torch.OutOfMemoryError) -> int:
    """Half as many images at a time, after a batch did not fit.

    Args:
        encoder: what ran out of memory; one of a fixed batch is resized.
        batch_size: images that it was given.
        error: what it raised.

    Raises:
        ResourceError: it had a single image in work.
    """
    if isinstance(encoder, FixedBatch):
        # However few it was given, it had that many in work.
        batch_size = encoder.batch_size
    name, device = encoder.record.name, encoder.device
    if batch_size < 2:
        raise ResourceError(
            f"{name} ran out of memory on {device} with a single image ({error}); free some, or "
            "use another --device"
        ) from error
    fits = batch_size // 2
    if isinstance(encoder, FixedBatch):
        encoder.resize(fits)
    log.warning(
        "%s: out of memory on %s at %d images a batch; going on with %d",
        *(name, device, batch_size, fits),
    )
    return fits


def second_shortage(
    encoder: Encoder, batch_size: int, error: torch.OutOfMemoryError
) -> ResourceError:
    """What to raise where a batch that was halved does not fit either."""
    smaller = batch_size // 2
    remedy = f"give --batch-size {smaller} or less" if smaller else "free some"
    return ResourceError(
        f"{encoder.record.name} ran out of memory on {encoder.device} at {batch_size} images a "
        f"batch, after a batch was halved once ({error}); {remedy}, or use another --device"
    )


def release(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
