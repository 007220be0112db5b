import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import events, items, texts, tiny_dataset

from mtrec_edge_compress.data.clean_text import clean_text
from mtrec_edge_compress.data.cleaning import clean


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  Blade\tRunner \n 2049 ", "Blade Runner 2049"),
        ("BallakÃ© Sissoko", "Ballaké Sissoko"),
        ("Connie &amp; Raymond", "Connie & Raymond"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("<p>One</p><p>two <b>bold</b>er</p>", "One two bolder"),
        ("a<br/>b<script>var x = '<p>';</script>c", "a b c"),
        ("ＭＡＮＮＥＱＵＩＮ", "MANNEQUIN"),
        ("bell\x07 and\u200b space\u00a0here", "bell and space here"),
        ("Katy Perry\ue216", "Katy Perry"),
        ("e\u0301te\u0301", "été"),
    ],
)
def test_damage_is_repaired(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


@pytest.mark.parametrize(
    "title",
    [
        "I <3 you",
        "a < b and c > d",
        "<Unknown> tag",
        "AT&T, R&D, Q&A",
        "Tom&para Jerry",
        "“Curly” ‘quotes’",
        "ﬁn",
        "소녀시대",
        "می‌خواهم",
        "👨‍👩‍👧",
        "M*A*S*H",
        "<b>",
    ],
)
def test_what_is_right_stays(title: str) -> None:
    assert clean_text(title) == title


@given(st.text())
def test_cleaning_leaves_no_control_characters_and_no_surplus_space(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned == " ".join(cleaned.split())
    if any(character.isprintable() and not character.isspace() for character in text):
        assert cleaned


def test_a_clean_dataset_is_not_changed() -> None:
    cleaned = clean(tiny_dataset())
    assert cleaned.dropped == {}
    assert cleaned.dataset.events.equals(tiny_dataset().events)
    assert cleaned.dataset.items.equals(tiny_dataset().items)
    assert cleaned.dataset.texts.equals(tiny_dataset().texts)


def test_items_without_id_without_text_or_seen_before_are_dropped_and_counted() -> None:
    rows = items(
        {}, {"title": "again"}, {"item_id": ""}, {"item_id": "b", "title": " "}, {"item_id": "c", "genre": "x"}
    )
    cleaned = clean(tiny_dataset(items=rows))
    assert cleaned.dataset.items["title"].to_list() == ["Alien", "Alien"]
    assert cleaned.dataset.items["genre"].to_list() == [None, None]
    assert {key: value for key, value in cleaned.dropped.items() if key.startswith("items")} == {
        "items: no id": 1,
        "items: id seen before": 1,
        "items: no text": 1,
        "items: label unknown to films.genre (row kept)": 1,
    }


def test_missing_fields_become_empty_ones() -> None:
    cleaned = clean(tiny_dataset(items=items({"description": None, "tags": None}), events=events({"timestamp": None})))
    assert cleaned.dataset.items.row(0, named=True)["description"] == ""
    assert cleaned.dataset.items.row(0, named=True)["tags"] == []
    assert cleaned.dataset.events["timestamp"].to_list() == [0]


def test_equal_tags_are_joined() -> None:
    cleaned = clean(tiny_dataset(items=items({"tags": ["sci-fi", " sci-fi", "", "space"]})))
    assert cleaned.dataset.items["tags"].to_list() == [["sci-fi", "space"]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"user_id": ""}, "events: no user"),
        ({"user_id": None}, "events: no user"),
        ({"item_id": "nowhere"}, "events: unknown item"),
        ({"timestamp": -1}, "events: impossible timestamp"),
        ({"timestamp": 1_700_000_000_000}, "events: impossible timestamp"),
        ({"value": 5.5}, "events: impossible or missing value"),
        ({"value": None}, "events: impossible or missing value"),
        ({"value": float("nan")}, "events: impossible or missing value"),
        ({"behaviour": "view", "value": float("inf")}, "events: impossible or missing value"),
    ],
)
def test_an_impossible_event_is_dropped_and_counted(row: dict[str, object], reason: str) -> None:
    cleaned = clean(tiny_dataset(events=events({"item_id": "b"}, row)))
    assert cleaned.dataset.events["item_id"].to_list() == ["b"]
    assert cleaned.dropped == {reason: 1}


def test_of_two_ratings_of_one_item_the_latest_stays() -> None:
    cleaned = clean(tiny_dataset(events=events({"timestamp": 9, "value": 5.0}, {"timestamp": 3, "value": 1.0})))
    assert cleaned.dataset.events["value"].to_list() == [5.0]
    assert cleaned.dropped == {"events: same user, item and behaviour": 1}


def test_views_at_different_moments_all_stay() -> None:
    view = {"behaviour": "view", "value": None}
    rows = events({**view, "timestamp": 1}, {**view, "timestamp": 2}, {**view, "timestamp": 2})
    assert clean(tiny_dataset(events=rows)).dataset.events["timestamp"].to_list() == [1, 2]


def test_of_equal_texts_the_one_of_the_latest_fold_stays() -> None:
    cleaned = clean(tiny_dataset(texts=texts({"fold": 2}, {"text_id": "q2", "fold": 0})))
    assert cleaned.dataset.texts["text_id"].to_list() == ["q1"]
    assert cleaned.dropped == {"texts: same text": 1}


def test_tokens_stay_as_many_as_their_labels() -> None:
    cleaned = clean(tiny_dataset(texts=texts({"tokens": ["re\x07d", "\x07"], "tags": ["B-color", "O"]})))
    assert cleaned.dataset.texts["tokens"].to_list() == [["red", "?"]]
    assert cleaned.dataset.texts["text"].to_list() == ["red ?"]
    cleaned = clean(tiny_dataset(texts=texts({}, {"text_id": "q2", "tokens": ["blue"]})))
    assert cleaned.dropped == {"texts: labels and tokens differ in number": 1}


def test_a_text_with_an_unknown_token_label_loses_its_labels() -> None:
    cleaned = clean(tiny_dataset(texts=texts({"tags": ["B-size", "O"]})))
    assert cleaned.dataset.texts["tags"].to_list() == [None]
    assert cleaned.dropped == {"texts: label unknown to queries.tags (row kept)": 1}
