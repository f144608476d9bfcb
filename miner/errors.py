"""The exceptions that blindpairs raises.

    ValueError                  a setting or an argument is wrong (exit code 2)
    MinerError                  data or engines are (subclasses below)
    ├── ShardError              a shard cannot be listed, read or told from another (4)
    ├── ImageError              one image is refused; carries its reason
    ├── StoreError              the run directory is missing or contradicts itself (4)
    │   └── FingerprintError    it holds work made with other settings (2)
    ├── LabelError              a labelled set, or answers to it, cannot be read (4)
    ├── ResourceError           weights, a device or a dependency is missing (exit code 4)
    ├── EngineError             an engine cannot be exported, built or loaded (exit code 4)
    ├── ParityError             an engine does not equal the encoder (exit code 5)
    └── ServiceError            a service refuses a request, or does not answer (exit code 4)

Every message gives the fact, the values against their limits, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miner.schema import Reason


USAGE = 2
"""Exit code where a setting or an argument is wrong."""


class MinerError(Exception):
    """Data, the run directory, a resource or an engine is not as it has to be."""

    exit_code = 3


class ShardError(MinerError):
    """A shard cannot be listed, read, or told from another one."""

    exit_code = 4


class ImageError(MinerError):
    """One image is refused.

    Attributes:
        reason: the word that goes into the quarantine table.
        detail: what was seen, against which limit.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class StoreError(MinerError):
    """The run directory is missing, damaged or contradicts itself."""

    exit_code = 4


class FingerprintError(StoreError):
    """The run directory holds work made with other settings, weights or bytes."""

    exit_code = 2


class LabelError(MinerError):
    """A labelled set, or answers to its questions, cannot be read or contradict themselves."""

    exit_code = 4


class ResourceError(MinerError):
    """Weights, a device or a dependency is missing."""

    exit_code = 4


class EngineError(MinerError):
    """An engine cannot be exported, built or loaded."""

    exit_code = 4


class ParityError(MinerError):
    """An engine's cosines differ from the encoder's by more than is allowed."""

    exit_code = 5


class ServiceError(MinerError):
    """A service refuses a request, does not answer, or answers nonsense.

    Attributes:
        status: of HTTP; None where there was no answer, or none that can be read.
        code: the service's own word for what is wrong, if it has one.
    """

    exit_code = 4

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def exit_of(error: MinerError | ValueError | OSError) -> tuple[int, str]:
    """The exit code of a command that an error ends, and what it says to its user."""
    if isinstance(error, MinerError):
        return error.exit_code, str(error)
    if isinstance(error, ValueError):
        return USAGE, str(error)
    return ResourceError.exit_code, f"{error}; see to it and run again"
