"""What the ranker is shown of a user: the latest events, and what users did with them and the candidates together."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_training import tiny_arrays

from mtrec_edge_compress.data.arrays import FloatArray, History, build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_compress.scorer import RankInputs, VectorScorer
from mtrec_edge_runtime.neighbours import make_neighbours

ITEMS = len(tiny_arrays().item_ids)
# every item is linked to the one after it, by 0.5
NEXT = make_neighbours(np.arange(ITEMS + 1), (np.arange(ITEMS) + 1) % ITEMS, np.full(ITEMS, 0.5))


def nothing(inputs: RankInputs) -> dict[str, FloatArray]:
    return {}


def scorer(longest: int = 3) -> VectorScorer:
    vectors = np.eye(ITEMS, 4, dtype=np.float32)
    return VectorScorer(tiny_arrays(), Encoded(vectors, {}, {}), nothing, longest, NEXT)


def test_a_word_that_was_cut_is_outside_every_span() -> None:
    """Its logits are 0, which is not a vote for the first label; the device says O, too."""
    known = tiny_arrays()
    task = replace(known.task("products.tags"), labels=("B-brand", "I-brand", "O"))
    arrays = build_arrays(replace(known.dataset, tasks=(task,)))
    logits = np.zeros((2, len(task.labels)), np.float32)
    logits[0, 1] = 1.0
    encoded = Encoded(np.eye(ITEMS, 4, dtype=np.float32), {}, {task.name: {ITEMS: logits}})
    found = VectorScorer(arrays, encoded, nothing, 3, NEXT).tags(task.name, np.array([0]))
    assert found == [["I-brand", "O"]]


@pytest.mark.parametrize("rows", [slice(0, 30), np.array([7, 3, 7])])
def test_a_history_says_of_the_candidates_what_the_links_do(rows: slice | np.ndarray) -> None:
    history = tiny_arrays().history(0, Fold.TEST)
    inputs = scorer().rank_inputs(history, rows)
    candidates = np.arange(ITEMS)[rows]
    following = (history.items[:3] + 1) % ITEMS
    assert inputs["affinity"].dtype == np.float32
    assert inputs["affinity"][0] == pytest.approx(0.5 * (candidates[:, None] == following), abs=1e-3)
    assert inputs["history"].shape == (1, 3, 4) and inputs["history_mask"].tolist() == [[1, 1, 1]]


def test_an_empty_history_is_one_padded_event_that_says_nothing() -> None:
    nobody = History(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    inputs = scorer().rank_inputs(nobody, slice(0, 30))
    assert inputs["affinity"].shape == (1, 30, 1) and not inputs["affinity"].any()
    assert inputs["history_mask"].tolist() == [[0]]
