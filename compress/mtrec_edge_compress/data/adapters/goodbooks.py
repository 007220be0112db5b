"""goodbooks-10k, first release: books.csv.zip, ratings.csv.zip and top1_Tags.xlsx.

Traps of the files: `ratings.book_id` joins `books.id` (1..10000), not `books.book_id`; `top1_Tags.goodreads_book_id`
joins `books.book_id`; some (user, book) pairs are rated twice (cleaning drops and counts them); no timestamps.
"""

from pathlib import Path

import polars as pl
from fastexcel import FastExcelError

from mtrec_edge_compress.data.adapters.source_files import (
    in_short,
    keep_labels,
    most_frequent,
    read_delimited,
    require_files,
)
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.tables import conform, empty
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind

FILES = ("books.csv.zip", "ratings.csv.zip", "top1_Tags.xlsx")
GENRES = 10


def read_goodbooks(source: Path) -> Dataset:
    """Read domain `books`: tasks books.rating, books.like (rating >= 4) and books.genre (ten most frequent)."""
    require_files(source, FILES, adapter="goodbooks")
    books = read_delimited(source / "books.csv.zip", ["id", "book_id", "title", "authors"])
    genres_of = _genres(source / "top1_Tags.xlsx")
    items = books.join(genres_of, on="book_id", how="left", maintain_order="left").rename(
        {"id": "item_id", "authors": "description"}
    )
    genres = most_frequent(items["genre"], GENRES)
    items = items.with_columns(keep_labels("genre", genres), pl.lit("books").alias("domain"))
    return Dataset(
        name="goodbooks",
        items=conform(items, ITEM_COLUMNS, labels=["genre"]),
        events=_events(source),
        texts=empty(TEXT_COLUMNS),
        tasks=(
            TaskSpec("books.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=1.0, high=5.0),
            TaskSpec("books.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True),
            TaskSpec("books.genre", Kind.MULTICLASS, "items", column="genre", labels=tuple(genres)),
        ),
        licence="goodbooks-10k: CC BY-SA 4.0",
        notes=("books: no timestamps, split at random within each user",),
    )


def _events(source: Path) -> pl.DataFrame:
    ratings = read_delimited(source / "ratings.csv.zip", ["user_id", "book_id", "rating"])
    events = ratings.rename({"book_id": "item_id", "rating": "value"}).with_columns(
        pl.lit("books").alias("domain"), pl.lit("rate").alias("behaviour")
    )
    return conform(events, EVENT_COLUMNS)


def _genres(path: Path) -> pl.DataFrame:
    """Return `book_id, genre` from the sheet of top tags."""
    try:
        sheet = pl.read_excel(path)
    except FastExcelError as error:
        raise DataError(f"{path} is not a readable Excel file ({in_short(error)}): fetch it again") from error
    missing = {"goodreads_book_id", "tag"} - set(sheet.columns)
    if missing:
        raise DataError(
            f"{path} has no column {sorted(missing)[0]!r}, found {', '.join(sheet.columns)}: fetch it again"
        )
    table = sheet.select(
        pl.col("goodreads_book_id").cast(pl.String).alias("book_id"), pl.col("tag").cast(pl.String).alias("genre")
    )
    return table.drop_nulls().unique("book_id", keep="first", maintain_order=True)
