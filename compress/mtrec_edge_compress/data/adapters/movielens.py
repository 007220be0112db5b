"""MovieLens latest-small, with overviews of TMDB 5000 where its file is at hand.

Reads movies.csv, ratings.csv, tags.csv and links.csv of the source folder, and tmdb_5000_movies.csv[.zip] from the same
folder or from a folder `tmdb5000` beside it. The genre is a label, so it is not in the text.
"""

from pathlib import Path

import polars as pl

from mtrec_edge_compress.data.adapters.source_files import keep_labels, most_frequent, read_delimited, require_files
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.tables import conform, empty
from mtrec_edge_runtime.tasks import Kind

FILES = ("movies.csv", "ratings.csv", "tags.csv", "links.csv")
TMDB_FILES = ("tmdb_5000_movies.csv", "tmdb_5000_movies.csv.zip")
GENRES, TAGS = 10, 10
LICENCE = "MovieLens: GroupLens terms, research use, no commercial use without permission (Harper & Konstan 2015)"


def read_movielens(source: Path) -> Dataset:
    """Read domain `movies`: tasks movies.rating, movies.like (rating >= 4) and movies.genre (ten most frequent)."""
    require_files(source, FILES, adapter="movielens")
    overviews = _overviews(source)
    movies = read_delimited(source / "movies.csv", ["movieId", "title", "genres"]).with_columns(
        pl.col("genres").str.split("|").list.first().alias("genre")
    )
    genres = most_frequent(movies["genre"].replace("(no genres listed)", None), GENRES)
    items = (
        movies.with_columns(keep_labels("genre", genres), pl.lit("movies").alias("domain"))
        .join(_tags(source), on="movieId", how="left", maintain_order="left")
        .join(overviews, on="movieId", how="left", maintain_order="left")
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
        licence=LICENCE if overviews.is_empty() else f"{LICENCE}; TMDB 5000: TMDB API terms, attribution",
        notes=(f"movies: {len(overviews)} of {len(movies)} texts have a TMDB overview",),
    )


def _events(source: Path) -> pl.DataFrame:
    ratings = read_delimited(source / "ratings.csv", ["userId", "movieId", "rating", "timestamp"])
    events = ratings.rename({"userId": "user_id", "movieId": "item_id", "rating": "value"}).with_columns(
        pl.lit("movies").alias("domain"), pl.lit("rate").alias("behaviour")
    )
    return conform(events, EVENT_COLUMNS)


def _tags(source: Path) -> pl.DataFrame:
    """Return `movieId, tags`: the tags users gave a movie, most frequent first, compared without case."""
    tags = read_delimited(source / "tags.csv", ["movieId", "tag"]).drop_nulls()
    counted = tags.with_columns(pl.col("tag").str.to_lowercase()).group_by("movieId", "tag").len()
    ordered = counted.sort("movieId", "len", "tag", descending=[False, True, False])
    return ordered.group_by("movieId", maintain_order=True).agg(pl.col("tag").head(TAGS).alias("tags"))


def _overviews(source: Path) -> pl.DataFrame:
    """Return `movieId, description` for the movies that TMDB's file has."""
    places = [folder / name for folder in (source, source.parent / "tmdb5000") for name in TMDB_FILES]
    found = [place for place in places if place.is_file()]
    if not found:
        return empty({"movieId": pl.String, "description": pl.String})
    tmdb = read_delimited(found[0], ["id", "overview"]).drop_nulls().rename({"overview": "description"})
    links = read_delimited(source / "links.csv", ["movieId", "tmdbId"]).drop_nulls()
    return links.join(tmdb, left_on="tmdbId", right_on="id", maintain_order="left").select("movieId", "description")
