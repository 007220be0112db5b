"""Labels of two encoders: the share that stays over all texts, and a loss with its chance."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import dataset

from mtrec_edge_compress.data.arrays import Arrays, build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.label_agreement import label_agreement
from mtrec_edge_runtime.tasks import Kind


def oracle(arrays: Arrays, *, wrong: float = 0.0) -> Encoded:
    """Return logits that say every label rightly, but for a share of the texts (drawn once) that say another."""
    rng = np.random.default_rng(0)
    items, count = len(arrays.item_ids), len(arrays.item_ids) + len(arrays.texts)
    logits, words = {}, {}
    for task in (task for task in arrays.tasks if task.source != "events"):
        shift = 0 if task.source == "items" else items
        labels, size = arrays.labels(task.name), len(task.labels)
        if task.kind is Kind.TOKEN:
            words[task.name] = {}
            for row, own in enumerate(labels):
                other = (np.asarray(own) + (rng.random() < wrong)) % size
                words[task.name][row + shift] = np.eye(size, dtype=np.float32)[other]
        else:
            table = np.zeros((count, size), np.float32)
            own = np.maximum(np.asarray(labels, np.int64), 0)
            other = (own + (rng.random(len(own)) < wrong)) % size
            table[shift + np.arange(len(own)), other] = 1.0
            logits[task.name] = table
    return Encoded(np.zeros((count, 4), np.float32), logits, words)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return build_arrays(make_world(1, users=40, items=200, queries=200)[0])


def test_an_encoder_agrees_with_itself(arrays: Arrays) -> None:
    found = label_agreement(oracle(arrays), oracle(arrays), arrays)
    assert set(found) == {task.name for task in arrays.tasks if task.source != "events"}
    assert all(figures == {"label_agreement": 1.0, "loss_low": 0.0} for figures in found.values())


def test_a_word_that_was_cut_off_says_nothing(arrays: Arrays) -> None:
    def cut(encoded: Encoded) -> Encoded:
        words = {
            name: {row: np.where(np.arange(len(logits))[:, None] < 1, logits, 0) for row, logits in found.items()}
            for name, found in encoded.word_logits.items()
        }
        return Encoded(encoded.vectors, encoded.logits, words)

    name = next(task.name for task in arrays.tasks if task.kind is Kind.TOKEN)
    wrong = oracle(arrays, wrong=0.6)
    firsts = [
        wrong.word_logits[name][row][0].argmax() == logits[0].argmax()
        for row, logits in oracle(arrays).word_logits[name].items()
        if len(logits)
    ]
    found = label_agreement(cut(oracle(arrays)), cut(wrong), arrays)
    assert found[name]["label_agreement"] == pytest.approx(np.mean(firsts))


def test_changed_labels_are_counted_on_every_text(arrays: Arrays) -> None:
    found = label_agreement(oracle(arrays), oracle(arrays, wrong=0.6), arrays)
    for figures in found.values():
        assert 0.2 < figures["label_agreement"] < 0.6
        assert figures["loss_low"] > 0.05  # more than half of the labels is no chance


def test_a_few_changed_labels_are_chance(arrays: Arrays) -> None:
    better = label_agreement(oracle(arrays, wrong=0.3), oracle(arrays, wrong=0.28), arrays)
    assert all(figures["loss_low"] < 0.01 for figures in better.values())


def test_on_another_fold_texts_of_test_are_left_out(arrays: Arrays) -> None:
    right, other = oracle(arrays), oracle(arrays)
    changed = {row + len(arrays.item_ids) for row in np.flatnonzero(arrays.text_fold == Fold.TEST)}
    changed |= set(np.flatnonzero(arrays.item_fold == Fold.TEST).tolist())
    for logits in other.logits.values():
        logits[sorted(changed)] = np.roll(logits[sorted(changed)], 1, axis=-1)
    for words in other.word_logits.values():
        words.update({row: np.roll(words[row], 1, axis=-1) for row in changed & words.keys()})
    validated = label_agreement(right, other, arrays, Fold.VALIDATION)
    assert all(figures == {"label_agreement": 1.0, "loss_low": 0.0} for figures in validated.values())
    assert all(figures["label_agreement"] < 1 for figures in label_agreement(right, other, arrays).values())


def test_a_fold_without_labels_has_no_loss() -> None:
    arrays = build_arrays(dataset())
    arrays = replace(arrays, item_fold=np.full_like(arrays.item_fold, Fold.TRAIN))
    found = label_agreement(oracle(arrays), oracle(arrays), arrays)
    assert found["movies.genre"] == {"label_agreement": 1.0}
