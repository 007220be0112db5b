"""MovieLens latest-small, with overviews and keywords of TMDB 5000 where its file is at hand.

Reads movies.csv, ratings.csv and links.csv of the source folder, and tmdb_5000_movies.csv[.zip] from the same folder or
from a folder `tmdb5000` beside it. The genre is a label, so it is not in the text. Nor are the tags of tags.csv: they
come from users who rated the film, so they would tell of ratings that are to be predicted.
"""

from pathlib import Path

import polars as pl

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

FILES = ("movies.csv", "ratings.csv", "links.csv")
TMDB_FILES = ("tmdb_5000_movies.csv", "tmdb_5000_movies.csv.zip")
GENRES, KEYWORDS = 10, 10
LICENCE = "MovieLens: GroupLens terms, research use, no commercial use without permission (Harper & Konstan 2015)"


def read_movielens(source: Path) -> Dataset:
    """Read domain `movies`: tasks movies.rating, movies.like (rating >= 4) and movies.genre (ten most frequent)."""
    require_files(source, FILES, adapter="movielens")
    described = _described(source)
    movies = read_delimited(source / "movies.csv", ["movieId", "title", "genres"]).with_columns(
        pl.col("genres").str.split("|").list.first().alias("genre")
    )
    genres = most_frequent(movies["genre"].replace("(no genres listed)", None), GENRES)
    items = (
        movies.with_columns(keep_labels("genre", genres), pl.lit("movies").alias("domain"))
        .join(described, on="movieId", how="left", maintain_order="left")
        .rename({"movieId": "item_id"})
    )
    return Dataset(
        name="movielens",
        items=conform(items, ITEM_COLUMNS, labels=["genre"]),
        events=_events(source),
        texts=empty(TEXT_COLUMNS),
        tasks=(
            TaskSpec("movies.rating", Kind.REGRESSION, "events", behaviours=("rate",), low=0.5, high=5.0),
            TaskSpec("movies.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=4.0, negatives=True),
            TaskSpec("movies.genre", Kind.MULTICLASS, "items", column="genre", labels=tuple(genres)),
        ),
        licence=LICENCE if described.is_empty() else f"{LICENCE}; TMDB 5000: TMDB API terms, attribution",
        notes=(f"movies: {len(described)} of {len(movies)} texts have a TMDB overview and its keywords",),
    )


def _events(source: Path) -> pl.DataFrame:
    ratings = read_delimited(source / "ratings.csv", ["userId", "movieId", "rating", "timestamp"])
    events = ratings.rename({"userId": "user_id", "movieId": "item_id", "rating": "value"}).with_columns(
        pl.lit("movies").alias("domain"), pl.lit("rate").alias("behaviour")
    )
    return conform(events, EVENT_COLUMNS)


def _described(source: Path) -> pl.DataFrame:
    """Return `movieId, description, tags` (overview and first keywords) for the movies that TMDB's file has."""
    places = [folder / name for folder in (source, source.parent / "tmdb5000") for name in TMDB_FILES]
    found = [place for place in places if place.is_file()]
    if not found:
        return empty({"movieId": pl.String, "description": pl.String, "tags": pl.List(pl.String)})
    tmdb = read_delimited(found[0], ["id", "overview", "keywords"]).drop_nulls("overview")
    tmdb = tmdb.with_columns(_keywords(tmdb["keywords"], found[0])).rename({"overview": "description"})
    links = read_delimited(source / "links.csv", ["movieId", "tmdbId"]).drop_nulls()
    joined = links.join(tmdb, left_on="tmdbId", right_on="id", maintain_order="left")
    return joined.select("movieId", "description", "tags")


def _keywords(column: pl.Series, path: Path) -> pl.Series:
    """Return the names of the first keywords of each film; the column holds `[{"id": 1, "name": "space"}, ...]`."""
    try:
        listed = column.str.json_decode(pl.List(pl.Struct({"name": pl.String})))
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}, column keywords: not lists in JSON ({in_short(error)}): fetch it again") from error
    return listed.list.eval(pl.element().struct.field("name")).list.head(KEYWORDS).alias("tags")
