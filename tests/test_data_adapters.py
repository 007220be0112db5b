import math
from pathlib import Path

import pytest
import source_folders

from mtrec_edge_compress.data.adapters import Adapter, read_source
from mtrec_edge_compress.data.cleaning import clean
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_compress.data.split import split
from mtrec_edge_runtime.errors import DataError

WRITERS = {
    Adapter.MOVIELENS: source_folders.movielens,
    Adapter.GOODBOOKS: source_folders.goodbooks,
    Adapter.LASTFM: source_folders.lastfm,
    Adapter.QUERYNER: source_folders.queryner,
}


def read(adapter: Adapter, folder: Path) -> Dataset:
    return read_source(adapter, WRITERS[adapter](folder))


@pytest.mark.parametrize("adapter", WRITERS)
def test_every_adapter_gives_a_dataset_that_keeps_the_contract_once_cleaned_and_split(
    adapter: Adapter, tmp_path: Path
) -> None:
    source_folders.write_zip(
        tmp_path / "tmdb5000" / "tmdb_5000_movies.csv.zip", {"t.csv": "id,overview,keywords\n862,Led by Woody.,[]\n"}
    )
    split(clean(read(adapter, tmp_path / "source")).dataset).check()


def test_movielens_puts_keywords_and_overview_but_neither_genre_nor_tags_of_users_into_the_text(tmp_path: Path) -> None:
    keywords = '"[{""id"": 1, ""name"": ""toy""}, {""id"": 2, ""name"": ""boy""}]"'
    source_folders.write_zip(
        tmp_path / "tmdb5000" / "tmdb_5000_movies.csv.zip",
        {
            "t.csv": f'id,keywords,overview\n862,{keywords},"Led by Woody, toys live."\n111,[],Other\n',
            "__MACOSX/._t.csv": "x",
        },
    )
    folder = source_folders.movielens(tmp_path / "ml")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,pixar,1\n")
    dataset = read_source(Adapter.MOVIELENS, folder)
    toy, heat, nothing = dataset.items.iter_rows(named=True)
    assert (toy["title"], toy["tags"], toy["description"], toy["genre"]) == (
        *("Toy Story (1995)", ["toy", "boy"], "Led by Woody, toys live."),
        "Animation",
    )
    assert (heat["title"], heat["tags"], heat["description"], heat["genre"]) == (
        "Heat, The (1995)",
        None,
        None,
        "Action",
    )
    assert nothing["genre"] is None
    assert dataset.notes == ("movies: 1 of 3 texts have a TMDB overview and its keywords",)


def test_movielens_works_without_overviews_and_finds_them_in_its_own_folder(tmp_path: Path) -> None:
    assert read(Adapter.MOVIELENS, tmp_path / "ml").items["description"].to_list() == [None] * 3
    (tmp_path / "ml" / "tmdb_5000_movies.csv").write_text("id,overview,keywords\n900,Void.,[]\n")
    assert read_source(Adapter.MOVIELENS, tmp_path / "ml").items["description"].to_list() == [None, None, "Void."]


def test_keywords_that_are_no_lists_are_named(tmp_path: Path) -> None:
    folder = source_folders.movielens(tmp_path / "ml")
    (folder / "tmdb_5000_movies.csv").write_text("id,overview,keywords\n900,Void.,space|war\n")
    with pytest.raises(DataError, match=r"tmdb_5000_movies.csv, column keywords: not lists in JSON"):
        read_source(Adapter.MOVIELENS, folder)


def test_movielens_events_and_tasks(tmp_path: Path) -> None:
    dataset = read(Adapter.MOVIELENS, tmp_path / "ml")
    first = dataset.events.row(0, named=True)
    assert (first["user_id"], first["item_id"], first["behaviour"]) == ("1", "1", "rate")
    assert (first["value"], first["timestamp"]) == (4.0, 30)
    assert [(task.name, task.kind.value) for task in dataset.tasks] == [
        ("movies.rating", "regression"),
        ("movies.like", "binary"),
        ("movies.genre", "multiclass"),
    ]
    assert (dataset.tasks[0].low, dataset.tasks[0].high, dataset.tasks[1].positive_at) == (0.5, 5.0, 4.0)
    assert dataset.tasks[2].labels == ("Action", "Animation")


def test_goodbooks_joins_ratings_by_id_and_genres_by_book_id(tmp_path: Path) -> None:
    dataset = read(Adapter.GOODBOOKS, tmp_path)
    dune, emma = dataset.items.iter_rows(named=True)
    assert (dune["item_id"], dune["title"], dune["genre"]) == ("1", "Dune", "sci-fi")
    assert dune["description"] == "Frank Herbert, Someone"
    assert (emma["item_id"], emma["genre"]) == ("2", "romance")
    assert dataset.events.select("user_id", "item_id", "value").rows()[2:] == [("7", "2", 3.0), ("8", "2", 1.0)]


def test_goodbooks_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    cleaned = clean(read(Adapter.GOODBOOKS, tmp_path))
    assert cleaned.dropped == {"events: same user, item and behaviour": 1}
    assert cleaned.dataset.events["value"].to_list() == [4.0, 3.0, 1.0]
    assert "no timestamps" in cleaned.dataset.notes[0]


def test_lastfm_keeps_the_top_tag_and_the_tags_of_listeners_out_of_the_text(tmp_path: Path) -> None:
    first, second = read(Adapter.LASTFM, tmp_path).items.iter_rows(named=True)
    assert (first["title"], first["tag"], first["tags"]) == ('MALICE "M" MIZER', "visual kei", ["gothic"])
    assert (second["title"], second["tag"], second["tags"]) == ("Beyoncé", "pop français", [])


def test_lastfm_values_are_log_plays(tmp_path: Path) -> None:
    dataset = read(Adapter.LASTFM, tmp_path)
    assert dataset.events["value"].to_list() == pytest.approx([math.log(100), 0.0, math.log(10)])
    assert dataset.tasks[0].positive_at is None
    assert dataset.tasks[0].negatives


def test_queryner_keeps_the_official_parts(tmp_path: Path) -> None:
    texts = read(Adapter.QUERYNER, tmp_path).texts
    assert texts.select("text", "tokens", "fold", "tags").rows() == [
        ("red mug", ["red", "mug"], 0, ["B-color", "O"]),
        ("dark blue", ["dark", "blue"], 1, ["B-color", "I-color"]),
        ("mug", ["mug"], 2, ["O"]),
    ]


@pytest.mark.parametrize("adapter", WRITERS)
def test_a_missing_file_is_named(adapter: Adapter, tmp_path: Path) -> None:
    folder = WRITERS[adapter](tmp_path)
    gone = sorted(folder.iterdir())[0]
    gone.unlink()
    with pytest.raises(DataError, match=f"has no {gone.name}: the {adapter} adapter needs"):
        read_source(adapter, folder)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    folder = source_folders.movielens(tmp_path / "ml")
    (folder / "ratings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"ratings.csv has no column 'userId', found a, b"):
        read_source(Adapter.MOVIELENS, folder)
    folder = source_folders.goodbooks(tmp_path / "gb")
    (folder / "books.csv.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"books.csv.zip is not a zip file"):
        read_source(Adapter.GOODBOOKS, folder)
    folder = source_folders.goodbooks(tmp_path / "gb2")
    (folder / "top1_Tags.xlsx").write_bytes(b"not a sheet")
    with pytest.raises(DataError, match=r"top1_Tags.xlsx is not a readable Excel file"):
        read_source(Adapter.GOODBOOKS, folder)
    folder = source_folders.lastfm(tmp_path / "fm")
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\n7\t1\tmany\n")
    with pytest.raises(DataError, match=r"fm is no usable lastfm source \(.*many"):
        read_source(Adapter.LASTFM, folder)
    folder = source_folders.queryner(tmp_path / "q")
    (folder / "train.json").write_text('{"examples": [{"tokens": ["a"], "ner_tags": [7]}]}')
    with pytest.raises(DataError, match=r"train.json, column ner_tags, row 0: 1 tokens, tags \[7\]"):
        read_source(Adapter.QUERYNER, folder)
