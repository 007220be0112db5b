"""Read a source in its own format into a Dataset that is not yet cleaned, scrubbed or split. One module a format."""

from enum import StrEnum
from pathlib import Path

import polars as pl

from mtrec_edge_compress.data.adapters.goodbooks import read_goodbooks
from mtrec_edge_compress.data.adapters.lastfm import read_lastfm
from mtrec_edge_compress.data.adapters.movielens import read_movielens
from mtrec_edge_compress.data.adapters.queryner import read_queryner
from mtrec_edge_compress.data.adapters.source_files import in_short
from mtrec_edge_compress.data.adapters.table import read_mapped_tables
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_runtime.errors import DataError


class Adapter(StrEnum):
    """The formats `prepare` reads."""

    TABLE = "table"
    MOVIELENS = "movielens"
    GOODBOOKS = "goodbooks"
    LASTFM = "lastfm"
    QUERYNER = "queryner"


def read_source(adapter: Adapter, source: Path) -> Dataset:
    """Read a source folder (for `table`: the mapping file, or a folder with `mapping.toml`).

    Raises DataError when a file is missing or does not look as the format says.
    """
    try:
        return _read(adapter, source)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{source} is no usable {adapter} source ({in_short(error)}): fetch it again") from error


def _read(adapter: Adapter, source: Path) -> Dataset:
    match adapter:
        case Adapter.TABLE:
            return read_mapped_tables(source)
        case Adapter.MOVIELENS:
            return read_movielens(source)
        case Adapter.GOODBOOKS:
            return read_goodbooks(source)
        case Adapter.LASTFM:
            return read_lastfm(source)
        case Adapter.QUERYNER:
            return read_queryner(source)
