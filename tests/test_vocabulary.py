"""Vocabularies: trimmed to a domain without making anything unknown, and made from a domain's words."""

from collections.abc import Sequence

import pytest
from tiny_data import items, tiny_dataset
from tiny_training import tiny_arrays, world_arrays

from mtrec_edge_compress.data.arrays import Arrays, build_arrays
from mtrec_edge_compress.text_labels import TextLabels
from mtrec_edge_compress.tokens import tokenize
from mtrec_edge_compress.vocabulary import SPECIAL, trim_vocabulary, word_vocabulary
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tokenizer import WordPiece

LETTERS = sorted("abcdemtx")
WHOLE = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "cat", "mat", "##ted", "bed"]


def titled(*titles: str, cold: Sequence[bool] | None = None) -> Arrays:
    rows = [{"item_id": f"i{n}", "title": title, "cold": bool(cold and cold[n])} for n, title in enumerate(titles)]
    data = tiny_dataset()
    return build_arrays(tiny_dataset(items=items(*rows), events=data.events.clear(), texts=data.texts.clear()))


def trim(arrays: Arrays, *, size: int = 100, min_count: int = 1) -> tuple[list[str], float, float, float]:
    found = trim_vocabulary(WHOLE, arrays, size=size, min_count=min_count, max_tokens=20)
    assert [WHOLE[i] for i in found.teacher_ids] == list(found.tokens)
    return list(found.tokens), found.unknown_rate, found.teacher_unknown_rate, found.growth


def test_what_the_texts_do_not_use_is_dropped() -> None:
    tokens, *_ = trim(titled("cat cat", "matted"))
    assert [token for token in tokens if len(token.removeprefix("##")) > 1] == [*SPECIAL, "cat", "mat", "##ted"]


def test_specials_and_single_characters_are_kept_whatever_the_size() -> None:
    tokens, *_ = trim(titled("cat"), size=1)
    assert tokens == WHOLE[: len(SPECIAL) + 2 * len(LETTERS)]


def test_the_most_frequent_are_kept_first() -> None:
    always = len(SPECIAL) + 2 * len(LETTERS)
    tokens, *_ = trim(titled("cat cat mat"), size=always + 1)
    assert "cat" in tokens and "mat" not in tokens
    tokens, *_ = trim(titled("cat cat mat"), min_count=2)
    assert "cat" in tokens and "mat" not in tokens


def test_growth_by_hand() -> None:
    always = len(SPECIAL) + 2 * len(LETTERS)
    *_, growth = trim(titled("cat cat mat"), size=always + 1)
    assert growth == pytest.approx((2 + 2 + 3) / (2 + 2 + 1))  # [CLS] cat cat m ##a ##t [SEP] over [CLS] ... [SEP]


def test_unknown_rate_by_hand() -> None:
    _, unknown, teachers, growth = trim(titled("cat z", "bed"))  # z is in no vocabulary
    assert unknown == teachers == pytest.approx(1 / (4 + 3))
    assert growth == 1.0


def test_nothing_becomes_unknown_that_was_not() -> None:
    arrays = world_arrays()
    whole = word_vocabulary([*arrays.item_texts, *arrays.texts], 3000)
    trimmed = trim_vocabulary(whole, arrays, size=200, min_count=1, max_tokens=64)
    assert len(trimmed.tokens) == 200
    ids = tokenize(arrays, WordPiece(trimmed.tokens), 64).ids  # cold items' and held-out texts, too
    assert not any(trimmed.tokens.index("[UNK]") in row for row in ids)
    assert trimmed.unknown_rate == trimmed.teacher_unknown_rate == 0.0


def test_cold_items_and_held_out_texts_do_not_shape_the_vocabulary() -> None:
    tokens, *_ = trim(titled("cat", "mat", cold=[False, True]))
    assert "cat" in tokens and "mat" not in tokens
    arrays = tiny_arrays()
    items_and_first_query = len(arrays.item_ids) + 1  # the second query is a test text
    assert TextLabels(arrays).pool(every_text=True).tolist() == list(range(items_and_first_query))


def test_a_vocabulary_without_specials_is_refused() -> None:
    with pytest.raises(StageError, match=r"no \[PAD\], \[UNK\].*no WordPiece vocabulary; the next step: .*student"):
        trim_vocabulary(["<s>", "cat", "[CLS]"], titled("cat"), size=300, min_count=1, max_tokens=8)


def test_a_vocabulary_of_a_domains_own_words() -> None:
    vocabulary = word_vocabulary(["Cat, cat!", "a mat"], 100)
    letters = sorted("cat,!m")
    assert vocabulary == [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), "cat", "mat"]
    assert len(word_vocabulary(["cat mat"], 15)) == 15


def test_every_token_has_one_id() -> None:
    arrays = world_arrays()
    vocabulary = word_vocabulary([*arrays.item_texts, *arrays.texts], 3000)
    assert len(set(vocabulary)) == len(vocabulary)
