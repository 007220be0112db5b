"""HetRec 2011 Last.fm 2K: artists.dat, user_artists.dat, tags.dat (latin-1) and the tag assignments (one or two files).

An artist's most assigned tag is the label music.tag and is never in the text. The text has the five most assigned
others, counted among users who are not known to listen to the artist: a listener's tag would tell of the listening that
is to be predicted. No timestamps.
"""

from pathlib import Path

import polars as pl

from mtrec_edge_compress.data.adapters.source_files import keep_labels, most_frequent, read_delimited, require_files
from mtrec_edge_compress.data.schema import EVENT_COLUMNS, ITEM_COLUMNS, TEXT_COLUMNS, Dataset, TaskSpec
from mtrec_edge_compress.data.tables import conform, empty
from mtrec_edge_runtime.tasks import Kind

FILES = ("artists.dat", "user_artists.dat", "tags.dat", "user_taggedartists.dat")
SECOND_PART = "user_taggedartists_2.dat"  # some copies split the assignments, each part with a header
LABELS, TEXT_TAGS = 20, 5


def read_lastfm(source: Path) -> Dataset:
    """Read domain `music`: tasks music.listened (every listen is a positive) and music.tag (twenty top tags)."""
    require_files(source, FILES, adapter="lastfm")
    artists = _read(source / "artists.dat", ["id", "name"])
    items = artists.join(_artist_tags(source), left_on="id", right_on="artistID", how="left", maintain_order="left")
    labels = most_frequent(items["tag"], LABELS)
    items = items.rename({"id": "item_id", "name": "title"}).with_columns(
        keep_labels("tag", labels), pl.lit("music").alias("domain")
    )
    return Dataset(
        name="lastfm",
        items=conform(items, ITEM_COLUMNS, labels=["tag"]),
        events=_events(source),
        texts=empty(TEXT_COLUMNS),
        tasks=(
            TaskSpec("music.listened", Kind.BINARY, "events", behaviours=("listen",), negatives=True),
            TaskSpec("music.tag", Kind.MULTICLASS, "items", column="tag", labels=tuple(labels)),
        ),
        licence="HetRec 2011 Last.fm: research with attribution, non-commercial",
        notes=("music: no timestamps, split at random within each user; a listen's value is the log of its plays",),
    )


def _events(source: Path) -> pl.DataFrame:
    plays = _read(source / "user_artists.dat", ["userID", "artistID", "weight"])
    events = plays.rename({"userID": "user_id", "artistID": "item_id"}).with_columns(
        pl.col("weight").cast(pl.Float64).log().alias("value"),
        pl.lit("music").alias("domain"),
        pl.lit("listen").alias("behaviour"),
    )
    return conform(events, EVENT_COLUMNS)


def _artist_tags(source: Path) -> pl.DataFrame:
    """Return `artistID, tag, tags`: the most assigned tag, and up to five others; ties by the tag's own count."""
    parts = [source / name for name in (FILES[3], SECOND_PART) if (source / name).is_file()]
    assigned = pl.concat([_read(part, ["userID", "artistID", "tagID"]) for part in parts])
    names = _read(source / "tags.dat", ["tagID", "tagValue"], encoding="latin-1").drop_nulls()
    assigned = assigned.join(names, on="tagID").with_columns(pl.len().over("tagValue").alias("overall"))
    labels = _by_count(assigned).group_by("artistID", maintain_order=True).agg(pl.col("tagValue").first().alias("tag"))
    listened = _read(source / "user_artists.dat", ["userID", "artistID"])
    others = _by_count(assigned.join(listened, on=["userID", "artistID"], how="anti"))
    others = others.join(labels, on="artistID", maintain_order="left").filter(pl.col("tagValue") != pl.col("tag"))
    texts = others.group_by("artistID", maintain_order=True).agg(pl.col("tagValue").head(TEXT_TAGS).alias("tags"))
    return labels.join(texts, on="artistID", how="left", maintain_order="left").with_columns(
        pl.col("tags").fill_null([])
    )


def _by_count(assigned: pl.DataFrame) -> pl.DataFrame:
    counted = assigned.group_by("artistID", "tagValue").agg(pl.len().alias("len"), pl.col("overall").first())
    return counted.sort("len", "overall", "tagValue", descending=[True, True, False])


def _read(path: Path, columns: list[str], encoding: str = "utf-8") -> pl.DataFrame:
    return read_delimited(path, columns, separator="\t", quote=None, encoding=encoding)
