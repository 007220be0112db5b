"""Anyone's CSV, TSV, JSON Lines or Parquet files, by a mapping file (adapters/mapping.py, docs/data.md)."""

import math
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from mtrec_edge_compress.data.adapters.mapping import (
    MAPPING_FILE,
    EventsTable,
    ItemsTable,
    Mapping,
    TextsTable,
    read_mapping,
)
from mtrec_edge_compress.data.adapters.source_files import in_short, most_frequent
from mtrec_edge_compress.data.cleaning import LATEST
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, task_from_row
from mtrec_edge_compress.data.tables import Columns, conform, empty
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind

MAX_LABELS = 20  # when a mapping leaves a task's labels out, so many of the most frequent ones are taken


def read_mapped_tables(source: Path) -> Dataset:
    """Read the files that a mapping file names; `source` is that file, or a folder with `mapping.toml`.

    Paths in the mapping are relative to it. Raises DataError naming file, column and row.
    """
    path = source / MAPPING_FILE if source.is_dir() else source
    mapping, folder = read_mapping(path), path.parent
    items = _stack([_items(folder / table.file, table) for table in mapping.items], ITEM_COLUMNS)
    events = _stack([_events(folder / table.file, table) for table in mapping.events], EVENT_COLUMNS)
    of_words = {row.get("column") for row in mapping.tasks if row.get("kind") == Kind.TOKEN}
    texts = _stack([_texts(folder / table.file, table, of_words) for table in mapping.texts], TEXT_COLUMNS)
    rows = [_with_labels(path, row, {"items": items, "texts": texts}) for row in mapping.tasks]
    return Dataset(
        name=mapping.name,
        items=items,
        events=events,
        texts=texts,
        tasks=tuple(task_from_row(row, where=f"{path}, [[tasks]] {number}") for number, row in enumerate(rows)),
        licence=mapping.licence,
        notes=_notes(mapping),
    )


def _items(path: Path, table: ItemsTable) -> pl.DataFrame:
    frame = _read(path)
    return _conformed(
        ITEM_COLUMNS,
        table.domain,
        {
            "item_id": _texts_of(path, frame, table.id),
            "title": _texts_of(path, frame, table.title),
            "description": _texts_of(path, frame, table.description),
            "tags": _lists_of(path, frame, table.tags, table.tags_separator),
        },
        {label: _texts_of(path, frame, column) for label, column in table.labels.items()},
    )


def _events(path: Path, table: EventsTable) -> pl.DataFrame:
    frame = _read(path)
    unit = {"s": 1, "ms": 1000}[table.timestamp_unit]
    behaviour = _texts_of(path, frame, table.behaviour_column)
    values = {
        "user_id": _texts_of(path, frame, table.user),
        "item_id": _texts_of(path, frame, table.item),
        "behaviour": behaviour
        if table.behaviour_column
        else pl.Series([table.behaviour] * len(frame), dtype=pl.String),
        "value": _parsed(path, frame, table.value, float, expected="a number"),
        "timestamp": _parsed(
            path, frame, table.timestamp, lambda text: _seconds(text, unit), expected="a number or an ISO 8601 time"
        ),
    }
    return _conformed(EVENT_COLUMNS, table.domain, values, {})


def _texts(path: Path, table: TextsTable, of_words: Collection[object]) -> pl.DataFrame:
    """Read a table of texts; a label column among `of_words` labels each token, any other the whole text."""
    frame = _read(path)
    numbers = pl.Series([f"{path.stem}-{row}" for row in range(len(frame))], dtype=pl.String)
    labels = {
        label: _lists_of(path, frame, column, table.separator)
        if table.tokens and label in of_words
        else _texts_of(path, frame, column)
        for label, column in table.labels.items()
    }
    return _conformed(
        TEXT_COLUMNS,
        table.domain,
        {
            "text_id": _texts_of(path, frame, table.id) if table.id else numbers,
            "text": _texts_of(path, frame, table.text),
            "tokens": _lists_of(path, frame, table.tokens, table.separator),
        },
        labels,
    )


def _with_labels(path: Path, row: dict[str, Any], tables: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """Add to a multiclass or token task without labels those of the data, most frequent first.

    Raise DataError when its column is in no table, or labels texts where words are asked.
    """
    source, column, name = (row.get(key) for key in ("source", "column", "name"))
    if not (isinstance(source, str) and isinstance(column, str) and source in tables):
        return row  # of events, or not as it must be, which `task_from_row` tells
    frame = tables[source]
    if column not in frame.columns:
        standard = {**ITEM_COLUMNS, **TEXT_COLUMNS}
        known = ", ".join(label for label in frame.columns if label not in standard) or "none"
        raise DataError(
            f"{path}, task {name}: no table of {source} has a label {column!r}, found {known}: correct `column`, or "
            f"name the file's column in that table: labels = {{ {column} = '...' }}"
        )
    if row.get("kind") == Kind.TOKEN and frame[column].dtype != pl.List(pl.String):
        raise DataError(f"{path}, task {name}: a token task labels words: give its texts as `tokens`, not `text`")
    if "labels" in row:
        return row
    found = frame.filter(pl.col("domain") == str(name).split(".")[0])[column]
    if found.dtype == pl.List(pl.String):
        found = found.explode()
    return {**row, "labels": most_frequent(found.drop_nulls(), MAX_LABELS)}


def _notes(mapping: Mapping) -> tuple[str, ...]:
    timeless = dict.fromkeys(table.domain for table in mapping.events if not table.timestamp)
    return tuple(f"{domain}: no timestamps, split at random within each user" for domain in timeless)


def _read(path: Path) -> pl.DataFrame:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".csv": lambda file: pl.read_csv(file, infer_schema=False),
        ".tsv": lambda file: pl.read_csv(file, infer_schema=False, separator="\t"),
        ".jsonl": lambda file: pl.read_ndjson(file, infer_schema_length=None),
        ".ndjson": lambda file: pl.read_ndjson(file, infer_schema_length=None),
        ".parquet": pl.read_parquet,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: files ending in {', '.join(readers)} can be read: convert it to one of them")
    if not path.is_file():
        raise DataError(f"{path} does not exist: correct `file` in the mapping, paths are relative to it")
    try:
        return readers[path.suffix](path)
    except pl.exceptions.PolarsError as error:
        kind = path.suffix[1:]
        raise DataError(f"{path} is not a readable UTF-8 {kind} file ({in_short(error)}): correct it") from error


def _column(path: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    if column not in frame.columns:
        raise DataError(f"{path} has no column {column!r}, found {', '.join(frame.columns)}: correct the mapping")
    return frame[column]


def _texts_of(path: Path, frame: pl.DataFrame, column: str) -> pl.Series:
    """Return a column as text; all null when the mapping names none ("")."""
    if not column:
        return pl.Series([None] * len(frame), dtype=pl.String)
    return pl.Series(
        ["" if value is None else str(value) for value in _column(path, frame, column)], dtype=pl.String
    ).replace("", None)


def _lists_of(path: Path, frame: pl.DataFrame, column: str, separator: str) -> pl.Series:
    """Return a column as lists of texts: lists as they are, texts cut at the separator."""
    if not column:
        return pl.Series([None] * len(frame), dtype=pl.List(pl.String))
    values = _column(path, frame, column)
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String))
    texts = [None if value is None or value == "" else str(value) for value in values]
    cut = [text and [part.strip() for part in text.split(separator) if part.strip()] for text in texts]
    return pl.Series(cut, dtype=pl.List(pl.String))


def _parsed(path: Path, frame: pl.DataFrame, column: str, parse: Callable[[Any], float], *, expected: str) -> pl.Series:
    """Return a column as numbers, null where empty; refuse a cell that is none."""
    if not column:
        return pl.Series([None] * len(frame), dtype=pl.Float64)
    numbers: list[float | None] = []
    for row, value in enumerate(_column(path, frame, column)):
        try:
            numbers.append(None if value is None or value == "" else parse(value))
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{path}, column {column}, row {row}: {value!r} is not {expected}: correct it or leave the cell empty"
            ) from error
    return pl.Series(numbers, dtype=pl.Float64)


def _seconds(value: Any, unit: int) -> int:
    """Return seconds since 1970 of a number, a date, a date-time or an ISO 8601 text; without a zone it is UTC."""
    if isinstance(value, datetime):
        moment = value
    else:
        try:
            return math.floor(max(-1.0, min(float(value) / unit, LATEST + 1)))  # cleaning drops what is outside
        except (ValueError, TypeError):  # a text, or a date of a Parquet file
            moment = datetime.fromisoformat(str(value).strip())
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _conformed(
    columns: Columns, domain: str, values: dict[str, pl.Series], labels: dict[str, pl.Series]
) -> pl.DataFrame:
    frame = pl.DataFrame({**values, **labels}).with_columns(pl.lit(domain).alias("domain"))
    return conform(frame, columns, labels=list(labels))


def _stack(frames: Sequence[pl.DataFrame], columns: Columns) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="diagonal") if frames else empty(columns)
    except pl.exceptions.SchemaError as error:
        raise DataError(
            f"a label column stands for words in one table and for texts in another ({in_short(error)}): give the two "
            "different names"
        ) from error
