from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from mtrec_edge_compress.data.adapters import Adapter, read_source
from mtrec_edge_compress.data.cleaning import clean
from mtrec_edge_compress.data.schema import Dataset
from mtrec_edge_compress.data.split import split
from mtrec_edge_runtime.errors import DataError

MAPPING = """
name = "shop"
licence = "ours"
[[items]]
file = "items.csv"
domain = "shop"
id = "sku"
title = "name"
tags = "words"
labels = { department = "dept" }
[[events]]
file = "log.csv"
domain = "shop"
user = "who"
item = "sku"
behaviour = "rate"
value = "stars"
timestamp = "when"
[[tasks]]
name = "shop.rating"
kind = "regression"
source = "events"
behaviours = ["rate"]
low = 1
high = 5
[[tasks]]
name = "shop.department"
kind = "multiclass"
source = "items"
column = "department"
"""
ITEMS = "sku,name,words,dept\n01,Green Tea,hot | leaf,tea\n02,Mocha,,coffee\n03,Chai,,tea\n04,Mug,,\n"
LOG = "who,sku,stars,when\nann,01,5,2024-05-01\nann,02,3.5,2024-05-01T12:30:00Z\nbob,03,,1714600000\n"


def folder(path: Path, mapping: str = MAPPING, items: str = ITEMS, log: str = LOG) -> Path:
    for name, content in {"mapping.toml": mapping, "items.csv": items, "log.csv": log}.items():
        (path / name).write_text(content, encoding="utf-8")
    return path


def read(source: Path) -> Dataset:
    return read_source(Adapter.TABLE, source)


def test_two_files_and_a_mapping_become_a_dataset(tmp_path: Path) -> None:
    dataset = read(folder(tmp_path))
    assert dataset.name == "shop"
    assert dataset.items.select("item_id", "domain", "title", "tags", "department").rows() == [
        ("01", "shop", "Green Tea", ["hot", "leaf"], "tea"),
        ("02", "shop", "Mocha", None, "coffee"),
        ("03", "shop", "Chai", None, "tea"),
        ("04", "shop", "Mug", None, None),
    ]
    assert dataset.events.select("user_id", "item_id", "value", "timestamp").rows() == [
        ("ann", "01", 5.0, 1714521600),
        ("ann", "02", 3.5, 1714566600),
        ("bob", "03", None, 1714600000),
    ]
    split(clean(dataset).dataset).check()


def test_labels_left_out_come_from_the_data_most_frequent_first(tmp_path: Path) -> None:
    assert read(folder(tmp_path)).tasks[1].labels == ("tea", "coffee")


def test_the_mapping_file_itself_may_be_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "mapping.toml").rename(tmp_path / "mine.toml")
    assert read(tmp_path / "mine.toml").name == "shop"


def test_json_lines_and_parquet_give_what_csv_gives(tmp_path: Path) -> None:
    expected = read(folder(tmp_path))
    items = pl.read_csv(tmp_path / "items.csv", infer_schema=False)
    items = items.with_columns(pl.col("words").str.split(" | "))
    items.write_ndjson(tmp_path / "items.jsonl")
    log = pl.read_csv(tmp_path / "log.csv", infer_schema=False).with_columns(pl.col("stars").cast(pl.Float64))
    moments = [datetime(2024, 5, 1), datetime(2024, 5, 1, 12, 30), datetime(2024, 5, 1, 21, 46, 40)]
    log.with_columns(pl.Series("when", moments)).write_parquet(tmp_path / "log.parquet")
    mapping = MAPPING.replace("items.csv", "items.jsonl").replace("log.csv", "log.parquet")
    found = read(folder(tmp_path, mapping))
    assert found.items.equals(expected.items)
    assert found.events.equals(expected.events)
    log.with_columns(pl.Series("when", [moment.date() for moment in moments])).write_parquet(tmp_path / "log.parquet")
    days = read(folder(tmp_path, mapping)).events["timestamp"]
    assert (days == expected.events["timestamp"] // 86_400 * 86_400).all()


def test_behaviours_may_stand_in_a_column_and_timestamps_in_milliseconds(tmp_path: Path) -> None:
    mapping = MAPPING.replace('behaviour = "rate"', 'behaviour_column = "did"\ntimestamp_unit = "ms"')
    log = "who,sku,stars,when,did\nann,01,5,1714521600999,rate\nann,01,,1714521601000,view\n"
    events = read(folder(tmp_path, mapping, log=log)).events
    assert events["behaviour"].to_list() == ["rate", "view"]
    assert events["timestamp"].to_list() == [1714521600, 1714521601]


def test_without_timestamps_a_note_says_so(tmp_path: Path) -> None:
    dataset = read(folder(tmp_path, MAPPING.replace('timestamp = "when"\n', "")))
    assert dataset.notes == ("shop: no timestamps, split at random within each user",)


def test_texts_with_a_label_and_texts_with_token_labels(tmp_path: Path) -> None:
    (tmp_path / "intents.csv").write_text("say,intent\nplay jazz,music\nbuy tea,order\nbuy a mug,order\n")
    (tmp_path / "queries.tsv").write_text("words\tlabels\nred mug\tB-color O\nmug\tO\n")
    (tmp_path / "mapping.toml").write_text(
        """
        name = "talk"
        [[texts]]
        file = "intents.csv"
        domain = "talk"
        text = "say"
        labels = { intent = "intent" }
        [[texts]]
        file = "queries.tsv"
        domain = "queries"
        tokens = "words"
        labels = { tags = "labels" }
        [[tasks]]
        name = "talk.intent"
        kind = "multiclass"
        source = "texts"
        column = "intent"
        [[tasks]]
        name = "queries.tags"
        kind = "token"
        source = "texts"
        column = "tags"
        """
    )
    dataset = split(clean(read(tmp_path)).dataset)
    dataset.check()
    assert [task.labels for task in dataset.tasks] == [("order", "music"), ("O", "B-color")]
    assert dataset.texts["text"].to_list() == ["play jazz", "buy tea", "buy a mug", "red mug", "mug"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'title = "name"',
            'titel = "name"',
            r"\[\[items\]\] 0: unknown key 'titel', known keys: file, domain, id, title",
        ),
        ('id = "sku"\n', "", r"\[\[items\]\] 0: key 'id' is missing"),
        ('title = "name"', 'title = "label"', "items.csv has no column 'label', found sku, name, words, dept"),
        (
            'file = "items.csv"',
            'file = "items.xml"',
            "files ending in .csv, .tsv, .jsonl, .ndjson, .parquet can be read",
        ),
        ('file = "items.csv"', 'file = "gone.csv"', "gone.csv does not exist: correct `file` in the mapping"),
        ('behaviour = "rate"', "", "give either behaviour or behaviour_column"),
        ('timestamp = "when"', 'timestamp = "when"\ntimestamp_unit = "h"', "timestamp_unit 'h' is neither"),
        ('kind = "regression"', 'kind = "guess"', r"\[\[tasks\]\] 0: kind 'guess' is not one of"),
        ("low = 1", "low = ", "is not TOML"),
        ('name = "shop"', 'called = "shop"', "unknown key 'called'"),
        ('domain = "shop"', "domain = 3", r"\[\[items\]\] 0: domain = 3: expected a text, in quotes"),
        ('labels = { department = "dept" }', 'labels = "dept"', "labels = 'dept': write it as { name = 'column"),
        ("[[items]]", "[items]", r"begin each with \[\[items\]\], in double brackets"),
        ('tags = "words"', 'tags = "words"\ntags_separator = ""', "tags_separator is empty"),
        (
            'column = "department"',
            'column = "dept"',
            r"no table of items has a label 'dept', found department: correct",
        ),
        ('source = "items"', 'source = ["items"]', r"\[\[tasks\]\] 1: source = \['items'\] has the wrong type"),
        ('behaviours = ["rate"]', "behaviours = [1]", r"\[\[tasks\]\] 0: behaviours = \[1\]: expected a list of texts"),
    ],
)
def test_a_mistake_in_the_mapping_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder(tmp_path, MAPPING.replace(old, new, 1)))


TALK = """
name = "talk"
[[texts]]
file = "queries.jsonl"
domain = "queries"
tokens = "words"
labels = { slots = "slots", intent = "intent" }
[[tasks]]
name = "queries.slots"
kind = "token"
source = "texts"
column = "slots"
[[tasks]]
name = "queries.intent"
kind = "multiclass"
source = "texts"
column = "intent"
"""
QUERIES = [
    {"words": ["red", "mug"], "said": "red mug", "slots": ["B-color", "O"], "intent": "buy"},
    {"words": ["mug"], "said": "mug", "slots": ["O"], "intent": "ask"},
]


def talk(path: Path, mapping: str) -> Dataset:
    pl.DataFrame(QUERIES).write_ndjson(path / "queries.jsonl")
    (path / "mapping.toml").write_text(mapping)
    return read(path)


def test_one_query_may_have_a_label_for_each_word_and_one_for_all(tmp_path: Path) -> None:
    dataset = clean(talk(tmp_path, TALK)).dataset
    assert dataset.texts["slots"].to_list() == [["B-color", "O"], ["O"]]
    assert dataset.texts["intent"].to_list() == ["buy", "ask"]
    assert [set(task.labels) for task in dataset.tasks] == [{"B-color", "O"}, {"buy", "ask"}]


def test_a_token_task_needs_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task queries\.slots: a token task labels words: give its texts as `tokens`"):
        talk(tmp_path, TALK.replace('tokens = "words"', 'text = "said"'))


def test_a_label_that_is_one_thing_here_and_another_there(tmp_path: Path) -> None:
    other = TALK[TALK.index("[[texts]]") : TALK.index("[[tasks]]")].replace('tokens = "words"', 'text = "said"')
    with pytest.raises(DataError, match="stands for words in one table and for texts in another"):
        talk(tmp_path, TALK.replace("[[tasks]]", f"{other}[[tasks]]", 1))


def test_tags_may_be_numbers(tmp_path: Path) -> None:
    rows = [("01", "Tea", 7, "tea"), ("02", "Mug", None, "mug")]
    pl.DataFrame(rows, schema=["sku", "name", "words", "dept"], orient="row").write_ndjson(tmp_path / "items.jsonl")
    found = read(folder(tmp_path, MAPPING.replace("items.csv", "items.jsonl")))
    assert found.items["tags"].to_list() == [["7"], None]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3.5", "many", "log.csv, column stars, row 1: 'many' is not a number"),
        ("2024-05-01T12:30:00Z", "noon", "log.csv, column when, row 1: 'noon' is not a number or an ISO 8601 time"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(folder(tmp_path, log=LOG.replace(old, new)))


def test_a_time_no_calendar_knows_is_dropped_and_counted(tmp_path: Path) -> None:
    cleaned = clean(read(folder(tmp_path, log=LOG + "bob,01,4,1e300\nbob,02,4,-1e300\n")))
    assert cleaned.dropped["events: impossible timestamp"] == 2


def test_a_table_in_another_encoding_names_the_file(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "items.csv").write_bytes("sku,name,words,dept\n01,Café,,tea\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"items.csv is not a readable UTF-8 csv file \(invalid utf-8 sequence\): correct"
    ):
        read(tmp_path)


def test_a_folder_without_a_mapping_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mapping.toml does not exist: write a mapping file, see docs/data.md"):
        read(tmp_path)
