"""Run the command line as `python -m aot_cli`, for systems where `aot` is not on the PATH."""

from __future__ import annotations

from aot_cli.entry import script

__all__: list[str] = []

if __name__ == "__main__":
    script()
