"""Shape and check one table: columns, types, missing values, keys, references.

Every message names the file, the column, the row (counted from 0) and the next step. Knows nothing of tasks or folds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mtrec_edge_runtime.errors import DataError

Columns = Mapping[str, Any]  # column name -> polars data type


def conform(frame: pl.DataFrame, columns: Columns, *, labels: Sequence[str] = ()) -> pl.DataFrame:
    """Return the frame with exactly `columns` and `labels`: absent columns become null, others are cast.

    Raises DataError when a column cannot be cast.
    """
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in frame.columns]
    try:
        return frame.with_columns(missing).select(*columns, *labels).cast(pl.Schema(columns))
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise DataError(f"the table does not fit the columns {', '.join(columns)}: {error}") from error


def empty(columns: Columns) -> pl.DataFrame:
    """Return a table with these columns and no rows."""
    return pl.DataFrame(schema=dict(columns))


def check_columns(file: str, frame: pl.DataFrame, columns: Columns) -> None:
    """Refuse a table without one of the columns, with another type, or with an unusable label column."""
    for name, dtype in columns.items():
        if name not in frame.columns:
            raise DataError(f"{file} has no column {name!r}, found {', '.join(frame.columns)}: write it with prepare")
        if frame.schema[name] != dtype:
            found = frame.schema[name]
            raise DataError(f"{file}, column {name}: expected {dtype}, found {found}: cast it or run prepare again")
    for name in set(frame.columns) - set(columns):
        if frame.schema[name] not in (pl.String, pl.List(pl.String)):
            found = frame.schema[name]
            raise DataError(
                f"{file}, column {name}: a label column holds texts or lists of texts, found {found}: cast it"
            )


def check_filled(file: str, frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a null in one of the columns."""
    for name in columns:
        row = first_row(frame, pl.col(name).is_null())
        if row is not None:
            raise DataError(f"{file}, column {name}, row {row}: the value is missing: fill it or drop the row")


def check_unique(file: str, frame: pl.DataFrame, key: Sequence[str]) -> None:
    """Refuse two rows with the same key."""
    row = first_row(frame, pl.struct(key).is_duplicated() & ~pl.struct(key).is_first_distinct())
    if row is not None:
        found = ", ".join(f"{name} {frame[row, name]!r}" for name in key)
        raise DataError(f"{file}, column {key[-1]}, row {row}: {found} stands in an earlier row too: keep one of them")


def check_values(file: str, frame: pl.DataFrame, column: str, *, allowed: Sequence[Any]) -> None:
    """Refuse a value that is not among the allowed ones (null passes)."""
    row = first_row(frame, pl.col(column).is_not_null() & ~pl.col(column).is_in(list(allowed)))
    if row is not None:
        known = ", ".join(str(value) for value in allowed[:20])
        raise DataError(
            f"{file}, column {column}, row {row}: {frame[row, column]!r} is not one of {known}: correct the value"
        )


def check_references(file: str, frame: pl.DataFrame, key: Sequence[str], *, target: pl.DataFrame, other: str) -> None:
    """Refuse a row whose key is not in `target`, the table of file `other`."""
    known = target.select(key).unique().with_columns(pl.lit(True).alias("_known"))
    joined = frame.select(key).join(known, on=list(key), how="left", maintain_order="left")
    row = first_row(joined, pl.col("_known").is_null())
    if row is not None:
        found = ", ".join(f"{name} {frame[row, name]!r}" for name in key)
        raise DataError(f"{file}, column {key[-1]}, row {row}: {found} is not in {other}: add it there or drop the row")


def first_row(frame: pl.DataFrame, condition: pl.Expr) -> int | None:
    """Return the number of the first row that meets the condition."""
    rows = frame.select(pl.arg_where(condition)).to_series()
    return int(rows[0]) if len(rows) else None


def check_range(file: str, rows: pl.DataFrame, *, low: float, high: float, need: str) -> None:
    """Refuse a `value` that is missing or outside [low, high]; `rows` has the rows' numbers in `row`."""
    wrong = rows.filter(~pl.col("value").is_between(low, high).fill_null(False))
    if len(wrong):
        row, value = wrong[0, "row"], wrong[0, "value"]
        raise DataError(
            f"{file}, column value, row {row}: {need} needs a value in [{low:g}, {high:g}], found {value}: drop the row"
        )


def check_labels(file: str, rows: pl.DataFrame, column: str, *, labels: Sequence[str], need: str) -> None:
    """Refuse a label that is not among `labels`; `rows` has the rows' numbers in `row`, no null in the column."""
    unknown = rows.filter(~pl.col(column).is_in(list(labels)))
    if len(unknown):
        raise DataError(
            f"{file}, column {column}, row {unknown[0, 'row']}: label {unknown[0, column]!r} is not among the labels "
            f"of {need} ({', '.join(labels)}): add it there or set it to null"
        )


def check_label_counts(file: str, rows: pl.DataFrame, column: str) -> None:
    """Refuse a row whose list of labels is not as long as its `tokens`; `rows` has the rows' numbers in `row`."""
    uneven = rows.filter(pl.col(column).list.len() != pl.col("tokens").list.len())
    if len(uneven):
        labels, tokens = len(uneven[0, column]), len(uneven[0, "tokens"])
        raise DataError(
            f"{file}, column {column}, row {uneven[0, 'row']}: {labels} labels for {tokens} tokens: give one a token"
        )
