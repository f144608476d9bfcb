"""A CUDA stream of an engine's own, in order with torch's current one.

Engines cannot work on torch's default stream: TensorRT synchronises the whole device on it, and
ONNX Runtime takes its handle, 0, for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_order(stream: torch.cuda.Stream) -> Iterator[None]:
    """Order a block's work on a stream after the current one's, and what comes next after it.

    The host waits for nothing. What the current stream's tensors hold may be used in the block and
    freed after it.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    try:
        yield
    finally:
        current.wait_stream(stream)
