"""Read and write the files of a dataset folder: Parquet tables and TOML settings. Knows nothing of what they hold."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mtrec_edge_runtime.errors import DataError

Value = str | bool | int | float | Sequence[str]


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file; DataError when it is missing or not one."""
    try:
        return pl.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} has no {path.name}: make a dataset with `mtrec-edge prepare`") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}): run prepare again") from error


def read_settings(path: Path, *, format_: int) -> dict[str, Any]:
    """Read a TOML file whose key `format` has this value; DataError when it is missing, not TOML, or of another."""
    missing = f"{path.parent} has no {path.name}: make a dataset with `mtrec-edge prepare`"
    settings = read_toml(path, missing=missing, broken="correct it or run prepare again")
    found = settings.pop("format", None)
    if found != format_:
        raise DataError(f"{path}: format {found} found, this version reads {format_}: run prepare again or upgrade")
    return settings


def read_toml(path: Path, *, missing: str, broken: str) -> dict[str, Any]:
    """Read a TOML file; DataError `missing` when there is none, or with the next step `broken` when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(missing) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML ({error}): {broken}") from error


def toml_text(top: Mapping[str, Value], tables: Mapping[str, Sequence[Mapping[str, Value]]]) -> str:
    """Return TOML text: the top-level keys, then each array of tables.

    >>> print(toml_text({"format": 1}, {"tasks": [{"name": "shop.click"}]}))
    format = 1
    <BLANKLINE>
    [[tasks]]
    name = "shop.click"
    <BLANKLINE>
    """
    lines = [f"{key} = {_value(value)}" for key, value in top.items()]
    for name, rows in tables.items():
        for row in rows:
            lines += ["", f"[[{name}]]"] + [f"{key} = {_value(value)}" for key, value in row.items()]
    return "\n".join(lines) + "\n"


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # what JSON escapes TOML does, but for this one; beyond ASCII JSON would write surrogates, which TOML forbids
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    return "[" + ", ".join(_value(item) for item in value) + "]"
