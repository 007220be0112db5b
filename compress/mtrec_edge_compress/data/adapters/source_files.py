"""Open the files of a source as they lie there (plain or zipped) as tables of text, with errors that name the file."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mtrec_edge_runtime.errors import DataError


def read_delimited(
    path: Path, columns: Sequence[str], *, separator: str = ",", quote: str | None = '"', encoding: str = "utf-8"
) -> pl.DataFrame:
    """Return the named columns of a delimited file with a header, every value as text (null where empty).

    A name ending in `.zip` is read without unpacking. Raises DataError when the file or a column is missing.
    """
    text = _read_bytes(path).decode(encoding, errors="replace")
    try:
        frame = pl.read_csv(io.BytesIO(text.encode()), separator=separator, quote_char=quote, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is not a readable delimited file ({in_short(error)}): fetch it again") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}, found {', '.join(frame.columns)}: is it the right file?")
    return frame.select(columns)


def in_short(error: Exception) -> str:
    """Return the first line of an error's message: polars goes on with advice on its own parameters."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def require_files(source: Path, names: Sequence[str], *, adapter: str) -> None:
    """Refuse a source folder without one of the files."""
    for name in names:
        if not (source / name).is_file():
            raise DataError(f"{source} has no {name}: the {adapter} adapter needs {', '.join(names)} in that folder")


def most_frequent(labels: pl.Series, count: int) -> list[str]:
    """Return the `count` most frequent labels, most frequent first, ties in order of the alphabet."""
    table = labels.drop_nulls().value_counts(name="n").sort("n", labels.name, descending=[True, False])
    return [str(label) for label in table[labels.name].head(count)]


def keep_labels(column: str, labels: Sequence[str]) -> pl.Expr:
    """Return the column with every label that is not in `labels` made null (missing)."""
    return pl.when(pl.col(column).is_in(list(labels))).then(pl.col(column)).alias(column)


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".zip":
        return path.read_bytes()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and not name.endswith("/")]
            if len(names) != 1:
                raise DataError(f"{path} holds {', '.join(names) or 'nothing'}: expected one file: fetch it again")
            return archive.read(names[0])
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not a zip file ({error}): fetch it again") from error
