"""Everything a user can meet goes wrong as one of these; the message says what to do.

    AOTError
    ├── ConfigError      a setting is unknown, ill-typed or out of range
    │   ├── BudgetError  a method cannot keep as few tokens as asked
    │   └── UnsupportedError the model cannot do what a method needs
    ├── VideoError       the video cannot be opened, holds no picture, or does not decode
    ├── ModelError       the model is unknown, not cached, incomplete or of an unsupported kind
    ├── MemoryLimitError the device or the host ran out of memory
    ├── NumericsError    the model produced NaN or infinite features
    ├── MethodError      a method failed, or returned something other than it promises
    ├── TokensFileError  a tokens file is damaged, untrusted, or belongs to another model
    └── OutputError      a result cannot be written

Pure tensor code (`aot.compression.ops`) raises `ValueError` naming the axis, what was expected and what came.
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
]


class AOTError(Exception):
    """Base of every error a user can cause or meet. The message is one sentence with a remedy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the setting at `path`: "lead path message"."""

    path: str
    message: str
    lead: str = ""

    def __str__(self) -> str:
        return f"{self.lead}{self.path} {self.message}"


class ConfigError(AOTError):
    """A setting is unknown, ill-typed or out of range; `problems` lists everything found."""

    def __init__(self, *problems: str | Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class BudgetError(ConfigError):
    """A method cannot keep as few tokens of this video as asked."""


class UnsupportedError(ConfigError):
    """The model cannot do what a method, or a reduction inside the language model, needs of it."""


class VideoError(AOTError):
    """The video cannot be opened, holds no picture stream, or nothing in the range decodes."""


class ModelError(AOTError):
    """The model is unknown, not cached while offline, incomplete, or of an unsupported kind."""


class MemoryLimitError(AOTError):
    """The device or the host ran out of memory."""


class NumericsError(AOTError):
    """The model produced NaN or infinite features."""


class MethodError(AOTError):
    """A method, or a reduction inside the language model, failed or returned something other than it promises."""


class TokensFileError(AOTError):
    """A tokens file is damaged, not ours, or was made by another model."""


class OutputError(AOTError):
    """A result cannot be written: it exists already, or the disk is full or read-only."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to be part of a sentence."""
    return str(error).strip().partition("\n")[0]
