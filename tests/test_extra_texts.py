"""Extra texts: halves of readable texts in new company; held-out texts are neither used nor made."""

from pathlib import Path

import numpy as np
from tiny_training import world_arrays

from mtrec_edge_compress.extra_texts import cross_texts, load_extra, save_extra
from mtrec_edge_compress.text_labels import TextLabels

NONE = np.zeros(0, np.int64)


def test_crossed_texts_are_a_head_and_a_tail_of_readable_texts_of_one_domain() -> None:
    arrays = world_arrays()
    items = len(arrays.item_ids)
    readable = TextLabels(arrays).pool(every_text=True)
    made = [text for text in cross_texts(arrays, NONE, share=1.0, seed=0) if text.table == "items"]
    assert len(made) > 50
    for extra in made[:50]:
        rows = arrays.domains[extra.domain]
        texts = [arrays.item_texts[row].split() for row in readable if rows.start <= row < min(rows.stop, items)]
        words = extra.text.split()
        assert any(
            any(words[:cut] == text[:cut] for text in texts)
            and any(text[len(text) - len(words) + cut :] == words[cut:] for text in texts)
            for cut in range(1, len(words))
        )


def test_a_tagged_text_keeps_its_words_and_no_other_has_any() -> None:
    made = cross_texts(world_arrays(), NONE, share=1.0, seed=0)
    assert {extra.domain for extra in made if extra.words} == {"queries"}
    assert all(" ".join(extra.words) == extra.text for extra in made if extra.words)


def test_no_extra_text_stands_in_the_corpus_and_none_comes_twice() -> None:
    arrays = world_arrays()
    made = [extra.text for extra in cross_texts(arrays, NONE, share=3.0, seed=0)]
    assert not {*made} & {*arrays.item_texts, *arrays.texts}
    assert len(made) == len({*made})


def test_the_same_seed_makes_the_same_texts_and_they_are_read_as_written(tmp_path: Path) -> None:
    arrays = world_arrays()
    made = cross_texts(arrays, NONE, share=0.5, seed=1)
    save_extra(made, tmp_path / "texts.jsonl")
    assert load_extra(tmp_path / "texts.jsonl") == made == cross_texts(arrays, NONE, share=0.5, seed=1)
    assert made != cross_texts(arrays, NONE, share=0.5, seed=2)


def test_no_share_makes_none() -> None:
    assert cross_texts(world_arrays(), NONE, share=0.0, seed=0) == ()


def test_no_half_of_an_unread_item_is_in_a_crossed_text() -> None:
    arrays = world_arrays()
    readable = TextLabels(arrays).pool(every_text=True)
    items = readable[readable < len(arrays.item_ids)]
    kept = np.concatenate([items[(items >= rows.start) & (items < rows.stop)][:2] for rows in arrays.domains.values()])
    made = cross_texts(arrays, np.setdiff1d(items, kept), share=1.0, seed=0)
    words = {word for row in kept for word in arrays.item_texts[row].split()}
    of_items = [extra for extra in made if extra.table == "items"]
    assert of_items and all(set(extra.text.split()) <= words for extra in of_items)
