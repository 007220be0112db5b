import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_data import ALL_TASKS, GENRE, RATING, TAGS, events, items, texts, tiny_dataset

from mtrec_edge_compress.data.schema import Dataset, TaskSpec, task_from_row
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    dataset.write(tmp_path / "data")
    again = Dataset.read(tmp_path / "data")
    for table in ("items", "events", "texts"):
        assert getattr(again, table).equals(getattr(dataset, table))
    assert (again.tasks, again.notes, again.name, again.seed) == (ALL_TASKS, ('says "hi"',), "tiny", 3)
    assert (again.split_hash, again.licence) == ("feed", "ours")


def test_the_settings_file_is_toml_that_states_the_tasks(tmp_path: Path) -> None:
    tiny_dataset().write(tmp_path)
    settings = tomllib.loads((tmp_path / "dataset.toml").read_text())
    assert settings["format"] == 1
    assert settings["tasks"][0] == {
        **{"name": "films.rating", "kind": "regression", "source": "events", "behaviours": ["rate"]},
        **{"low": 1.0, "high": 5.0, "weight": 1.0},
    }


def test_zeros_and_characters_beyond_the_basic_plane_come_back(tmp_path: Path) -> None:
    rating = replace(RATING, low=0.0, high=5.0, weight=0.0)
    like = TaskSpec("films.like", Kind.BINARY, "events", behaviours=("rate",), positive_at=0.0, negatives=True)
    dataset = replace(tiny_dataset(tasks=(rating, like)), licence="\U0001f375 \x7f tea", notes=("\u00e9 \U0001f600",))
    dataset.write(tmp_path)
    again = Dataset.read(tmp_path)
    assert again.tasks == dataset.tasks and (again.licence, again.notes) == (dataset.licence, dataset.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": tiny_dataset().items.drop("title")}, "items.parquet has no column 'title'"),
        ({"items": tiny_dataset().items.cast({"fold": pl.Int64})}, "items.parquet, column fold: expected Int8"),
        (
            {"items": items({"title": None, "genre": "drama"})},
            "items.parquet, column title, row 0: the value is missing",
        ),
        ({"items": items({"genre": "drama"}, {})}, "items.parquet, column item_id, row 1: .*stands in an earlier row"),
        (
            {"items": items({"genre": "noir"}, {"item_id": "b"})},
            "column genre, row 0: label 'noir' is not among the labels of films.genre",
        ),
        ({"events": events({"item_id": "z"})}, "events.parquet, column item_id, row 0: .*'z' is not in items.parquet"),
        (
            {"events": events({}, {"value": 9.0, "timestamp": 2})},
            r"column value, row 1: .* a value in \[1, 5\], found 9",
        ),
        ({"events": events({}, {"value": None, "timestamp": 2})}, "column value, row 1: .* found None"),
        ({"events": events({"value": float("nan")})}, "column value, row 0: nan is not a number"),
        ({"events": events({"timestamp": 5}, {"timestamp": 4})}, "column timestamp, row 1: earlier than"),
        ({"events": events({"fold": 7})}, "column fold, row 0: 7 is not one of 0, 1, 2"),
        ({"events": events({"behaviour": "view"})}, "no row carries a label of films.rating"),
        ({"texts": texts({"tags": ["O"]})}, "texts.parquet, column tags, row 0: 1 labels for 2 tokens"),
        ({"texts": texts({"tags": ["O", "B-size"]})}, "column tags, row 0: label 'B-size' is not among"),
        ({"texts": texts({}, {})}, "column text_id, row 1"),
        ({"tasks": ()}, "give at least one task"),
        ({"tasks": (RATING, RATING)}, "each name once"),
        ({"tasks": (TaskSpec("films.era", Kind.MULTICLASS, "items", column="era", labels=("a", "b")),)}, "'era'"),
    ],
)
def test_a_breach_is_named_with_file_column_and_row(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny_dataset(**changes).check()


def test_a_dataset_that_is_not_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"items.parquet, column fold, row 0: the value is missing"):
        tiny_dataset(items=items({"fold": None, "genre": "drama"})).check()


def test_a_folder_without_a_dataset_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no dataset.toml: make a dataset with `mtrec-edge prepare`"):
        Dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format 2 found, this version reads 1"),
        ("seed = 3", "sead = 3", "unknown key 'sead', known keys: format, name"),
        ("seed = 3", "seed = ", "is not TOML"),
        ('source = "events"', 'sauce = "events"', "unknown key 'sauce', known keys: name, kind"),
    ],
)
def test_damaged_settings_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    tiny_dataset().write(tmp_path)
    path = tmp_path / "dataset.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        Dataset.read(tmp_path)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    tiny_dataset().write(tmp_path)
    (tmp_path / "events.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"events.parquet is not a readable Parquet file"):
        Dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "a.b", "kind": "binary"}, "key 'source' is missing"),
        ({"name": "a.b", "kind": "ranking", "source": "events"}, "kind 'ranking' is not one of regression"),
        ({"name": "a.b", "kind": "binary", "source": "events", "behaviours": "click"}, "behaviours = 'click' has the"),
        ({"name": "a.b", "kind": "binary", "source": "events", "behaviours": ["x"], "weight": True}, "weight = True"),
        ({"name": "a.b", "kind": "binary", "source": "items", "column": "c"}, "takes its label from events"),
        ({"name": "ab", "kind": "binary", "source": "events", "behaviours": ["x"]}, "write it as domain.signal"),
        ({"name": "a.b", "kind": "regression", "source": "events", "behaviours": ["x"]}, "needs low < high"),
        (
            {"name": "a.b", "kind": "regression", "source": "events", "behaviours": ["x"], "low": 1.0, "high": 5.0}
            | {"negatives": True},
            "negatives and positive_at belong to binary tasks, this is regression",
        ),
        ({"name": "a.b", "kind": "binary", "source": "events", "behaviours": ["x"]}, "every event would be a positive"),
        (
            {"name": "a.b", "kind": "binary", "source": "events", "behaviours": ["x"], "positive_at": 1.0}
            | {"metric": "ndcg@10"},
            "metric 'ndcg@10' cannot stand for it; write one of auc, gauc, or leave it out",
        ),
        (
            {"name": "a.b", "kind": "binary", "source": "events", "behaviours": ["x"], "negatives": True}
            | {"metric": "ndcg"},
            "write one of auc, gauc, ndcg@10, recall@10, mrr",
        ),
    ],
)
def test_an_impossible_task_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_from_row(row, where="task 0")


def test_headline_metric_follows_the_kind() -> None:
    assert [task.headline for task in ALL_TASKS] == ["rmse", "ndcg@10", "macro_f1", "span_f1"]
    assert TaskSpec("a.b", Kind.BINARY, "events", behaviours=("x",), positive_at=1.0).headline == "auc"
    assert GENRE.device_task().labels == ("drama", "comedy")
    assert TAGS.domain == "queries"


def test_a_dataset_that_is_half_written_over_another_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_dataset().write(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_parquet", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny_dataset().write(tmp_path)
    with pytest.raises(DataError, match=r"has no dataset\.toml"):
        Dataset.read(tmp_path)
