"""Define the errors that users see; every message has a remedy.

    AOTError
    ├── ConfigError      a setting is unknown, ill-typed or out of range
    │   ├── BudgetError  a method cannot keep as few tokens as asked
    │   └── UnsupportedError the model cannot do what a method needs
    ├── VideoError       the video cannot be opened, holds no picture, or does not decode
    ├── ModelError       the model is unknown, not cached, incomplete or of an unsupported kind
    ├── MemoryLimitError the device or the host ran out of memory
    ├── NumericsError    the model produced NaN or infinite features
    ├── MethodError      a method failed or broke its contract
    ├── TokensFileError  a tokens file is damaged, untrusted, or belongs to another model
    └── OutputError      a result cannot be written

Functions in `aot.compression.ops` raise a `ValueError` that names the axis, the expected size and
the received size.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AOTError",
    "BudgetError",
    "ConfigError",
    "MemoryLimitError",
    "MethodError",
    "ModelError",
    "NumericsError",
    "OutputError",
    "Problem",
    "TokensFileError",
    "UnsupportedError",
    "VideoError",
    "first_line",
    "interruption",
]


class AOTError(Exception):
    """Base class of all errors that users see; the message is one sentence with a remedy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with the setting at `path`; its text is "{lead}{path} {message}"."""

    path: str
    message: str
    lead: str = ""

    def __str__(self) -> str:
        return f"{self.lead}{self.path} {self.message}"


class ConfigError(AOTError):
    """Raised if a setting is unknown, ill-typed or out of range; `problems` lists them all."""

    def __init__(self, *problems: str | Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class BudgetError(ConfigError):
    """Raised if a method cannot reduce a video to the requested number of tokens."""


class UnsupportedError(ConfigError):
    """Raised if the model lacks what a method or a reduction inside the language model needs."""


class VideoError(AOTError):
    """Raised if a video cannot be opened, has no picture, or no frame can be decoded."""


class ModelError(AOTError):
    """Raised if a model is unknown, not cached while offline, incomplete or unsupported."""


class MemoryLimitError(AOTError):
    """Raised if the device or the host runs out of memory."""


class NumericsError(AOTError):
    """Raised if the model produces NaN or infinite features."""


class MethodError(AOTError):
    """Raised if a method or a reduction inside the language model fails or breaks its contract."""


class TokensFileError(AOTError):
    """Raised if a tokens file is damaged, untrusted, or was made by another model."""


class OutputError(AOTError):
    """Raised if a result cannot be written: it exists, or the disk is full or read-only."""


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt that `error` is or that led to it; None if there is none.

    An interrupted lock raises "release unlocked lock" while the KeyboardInterrupt passes it, and
    loaders take that for a fault of their file.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def first_line(error: BaseException) -> str:
    """Return the first line of the message of `error`, without surrounding spaces."""
    return str(error).strip().partition("\n")[0]
