import json
import tomllib
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import source_folders

from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.prepare import prepare
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_runtime.errors import DataError

OWN_DATA = Path(__file__).parent.parent / "examples" / "own-data"


def sources(folder: Path) -> list[tuple[str, Path]]:
    return [
        ("movielens", source_folders.movielens(folder / "ml")),
        ("goodbooks", source_folders.goodbooks(folder / "gb")),
        ("lastfm", source_folders.lastfm(folder / "fm")),
        ("queryner", source_folders.queryner(folder / "qn")),
    ]


def test_several_sources_become_one_dataset(tmp_path: Path) -> None:
    steps: list[str] = []
    report = prepare(sources(tmp_path), tmp_path / "out" / "all", progress=steps.append)
    dataset = Dataset.read(tmp_path / "out" / "all")
    assert dataset.name == "all"
    assert [task.name for task in dataset.tasks][::2] == [
        *("movies.rating", "movies.genre", "books.like"),
        *("music.listened", "queries.tags"),
    ]
    assert report.domains["books"] == {"users": 2, "items": 2, "cold_items": 0, "events": 3, "texts": 0}
    assert report.split_hash == dataset.split_hash
    assert len(steps) == 5
    genres = dataset.items.filter(pl.col("domain") != "movies")["genre"].to_list()
    assert genres == ["sci-fi", "romance", None, None]  # one column serves two domains and is missing in the third


def test_one_user_id_in_two_sources_is_two_people(tmp_path: Path) -> None:
    log = "userID\tartistID\tweight\n7\t1\t100\n"
    folders = sources(tmp_path)
    (tmp_path / "fm" / "user_artists.dat").write_text(log)
    prepare(folders, tmp_path / "all")
    users = Dataset.read(tmp_path / "all").events.group_by("domain").agg(pl.col("user_id").unique())
    by_domain = dict(users.iter_rows())
    assert not set(by_domain["music"]) & set(by_domain["books"])


def test_the_key_lies_outside_and_a_second_run_gives_the_same_pseudonyms(tmp_path: Path) -> None:
    for _ in range(2):
        prepare(sources(tmp_path), tmp_path / "all")
    first = Dataset.read(tmp_path / "all").events
    assert (tmp_path / "all.key").is_file()
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        *("data_report.json", "data_report.txt", "dataset.toml"),
        *("events.parquet", "items.parquet", "texts.parquet"),
    ]
    prepare(sources(tmp_path), tmp_path / "again", key_file=tmp_path / "all.key")
    assert Dataset.read(tmp_path / "again").events.equals(first)
    prepare(sources(tmp_path), tmp_path / "other")
    other = Dataset.read(tmp_path / "other")
    assert not set(other.events["user_id"]) & set(first["user_id"])
    assert other.split_hash == Dataset.read(tmp_path / "all").split_hash


def test_users_are_counted_by_appearance_not_by_their_pseudonyms(tmp_path: Path) -> None:
    prepare(sources(tmp_path), tmp_path / "all")
    dataset = Dataset.read(tmp_path / "all")
    users = dataset.events["user_id"].unique(maintain_order=True).to_list()
    backwards = {user: f"u{len(users) - number:04}" for number, user in enumerate(users)}
    events = dataset.events.with_columns(pl.col("user_id").replace_strict(backwards))
    arrays, renamed = build_arrays(dataset), build_arrays(replace(dataset, events=events))
    assert arrays.user_ids == tuple(users) and renamed.user_ids == tuple(backwards.values())
    assert arrays.event_item.tolist() == renamed.event_item.tolist()
    assert arrays.user_start.tolist() == renamed.user_start.tolist()


def test_a_key_inside_the_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lies in the dataset"):
        prepare(sources(tmp_path), tmp_path / "all", key_file=tmp_path / "all" / "key")
    assert not (tmp_path / "all").exists()


def test_a_sample_keeps_that_many_users_and_all_items(tmp_path: Path) -> None:
    report = prepare(sources(tmp_path), tmp_path / "all", sample_users={"goodbooks": 1})
    books = next(source for source in report.sources if source.adapter == "goodbooks")
    assert (books.read["users"], books.kept["users"], books.kept["items"]) == (2, 1, 2)
    assert books.dropped["events: user not in the sample"] == 3 - books.kept["events"]
    assert "goodbooks: a random sample of 1 of 2 users" in report.notes


def test_the_report_is_written_as_text_and_json(tmp_path: Path) -> None:
    report = prepare(sources(tmp_path), tmp_path / "all")
    text = (tmp_path / "all" / "data_report.txt").read_text()
    assert text == report.text()
    assert "  events: 3 kept of 4\n" in text
    assert "  dropped 1  events: same user, item and behaviour\n" in text
    content = json.loads((tmp_path / "all" / "data_report.json").read_text())
    assert content["folds"]["texts"] == {"train": 1, "validation": 1, "test": 1}
    assert content["labels"]["queries.tags"]["balance"] == {"O": 0.5, "B-color": 0.5, "I-color": 0.0}
    assert content["labels"]["queries.tags"]["class_weights"] == {"O": 1.0, "B-color": 1.0, "I-color": 1.0}
    assert content["labels"]["books.genre"]["labelled"] == 2
    assert content["lengths"]["queries"] == {"mean": 5 / 3, "p50": 2.0, "p95": 2.0, "max": 2.0}


def test_personal_data_in_a_source_is_replaced_and_counted(tmp_path: Path) -> None:
    folder = source_folders.movielens(tmp_path / "ml")
    keywords = '"[{""name"": ""ask ann@x.org""}]"'
    (folder / "tmdb_5000_movies.csv").write_text(f"id,overview,keywords\n862,Toys.,{keywords}\n")
    report = prepare([("movielens", folder)], tmp_path / "out")
    assert report.sources[0].scrubbed == {"email": 1}
    assert Dataset.read(tmp_path / "out").items["tags"].to_list()[0] == ["ask email"]


def test_texts_that_scrubbing_makes_equal_are_one(tmp_path: Path) -> None:
    rows = [f"reset the password of user{n}@mail.example,ask" for n in range(20)] + ["buy tea,buy", "buy a mug,buy"]
    (tmp_path / "said.csv").write_text("\n".join(["say,intent", *rows]) + "\n")
    (tmp_path / "mapping.toml").write_text(
        'name = "talk"\n[[texts]]\nfile = "said.csv"\ndomain = "talk"\ntext = "say"\nlabels = { intent = "intent" }\n'
        '[[tasks]]\nname = "talk.intent"\nkind = "multiclass"\nsource = "texts"\ncolumn = "intent"\n'
    )
    report = prepare([("table", tmp_path)], tmp_path / "out")
    assert report.sources[0].dropped == {"texts: same text once scrubbed": 19}
    assert sorted(Dataset.read(tmp_path / "out").texts["text"]) == [
        "buy a mug",
        "buy tea",
        "reset the password of email",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no source given"),
        (["netflix"], "adapter 'netflix' is unknown: choose one of table, movielens"),
        (["queryner", "queryner"], "domain 'queries' comes from two sources"),
    ],
)
def test_sources_that_cannot_be_merged_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    source = source_folders.queryner(tmp_path / "qn")
    with pytest.raises(DataError, match=message):
        prepare([(name, source) for name in names], tmp_path / "out")


def test_a_source_of_which_nothing_is_usable_says_what_was_dropped(tmp_path: Path) -> None:
    folder = source_folders.movielens(tmp_path / "ml")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,77,4,1\n2,78,5,1\n")
    message = r"none of 2 events is usable \(2 events: unknown item\): are the right columns named\?"
    with pytest.raises(DataError, match=message):
        prepare([("movielens", folder)], tmp_path / "out")


def test_sampling_the_users_of_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"users of lastfm are to be sampled, but no source has that adapter"):
        prepare([("table", OWN_DATA)], tmp_path / "out", sample_users={"lastfm": 5})


def test_the_documentation_shows_the_mapping_of_the_example() -> None:
    shown = (OWN_DATA.parent.parent / "docs" / "data.md").read_text(encoding="utf-8").split("```toml\n")[1]
    written = (OWN_DATA / "mapping.toml").read_text(encoding="utf-8")
    assert tomllib.loads(shown.split("```")[0]) == tomllib.loads(written)


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    report = prepare([("table", OWN_DATA)], tmp_path / "data")
    assert report.sources[0].dropped == {}
    assert report.domains == {"shop": {"users": 60, "items": 120, "cold_items": 10, "events": 2046, "texts": 0}}
    assert [task.name for task in Dataset.read(tmp_path / "data").tasks] == [
        *("shop.rating", "shop.like"),
        "shop.department",
    ]
