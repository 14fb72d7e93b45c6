"""Write the rows of a batch as a Parquet file; this needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from aot.errors import ConfigError
from aot.runtime.atomic_writes import write_whole
from aot.runtime.journal import lines_of_rows
from aot.runtime.json_files import parse_json
from aot.serving.batch.results import Row

__all__ = ["check_parquet", "write_parquet"]


def check_parquet() -> None:
    """Check that Parquet files can be written.

    Raises:
        ConfigError: If pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError("--results parquet needs pyarrow: pip install pyarrow, or leave it out for results.jsonl")


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    """Write `rows` to the file `path`, completely or not at all; an old file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    fields = [
        (name, pyarrow.list_(pyarrow.string()) if name == "notices" else kinds[str(field.type).partition(" ")[0]])
        for name, field in Row.__dataclass_fields__.items()
    ]
    plain = [parse_json(lines_of_rows([asdict(row)])) for row in rows]  # as in results.jsonl
    table = pyarrow.Table.from_pylist(plain, schema=pyarrow.schema(fields))
    write_whole(path, lambda temporary: write_table(table, temporary), overwrite=True)
