"""A scorer that is shown less: which events reach it, and what similar items are worth."""

from dataclasses import replace

import numpy as np
import pytest
from test_bundle_scorer import BUNDLE, arrays

from mtrec_edge_compress.data.arrays import History
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.narrowed import AfterOneLike, NewUser, SimilarItems
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.recommender import Recommender


class Listening:
    """Remembers what histories it was shown."""

    def __init__(self):
        self.shown = []

    def pair_scores(self, history, domain):
        self.shown.append((history.items.tolist(), history.values.tolist()))
        return {}


def history(items, values):
    return History(np.array(items), np.zeros(len(items), np.int64), np.array(values, np.float32))


def test_a_new_user_has_the_latest_events_alone():
    scorer = Listening()
    NewUser(scorer, 3).pair_scores(history([4, 2, 1, 0], [1.0, 2.0, 3.0, 4.0]), "movies")
    NewUser(scorer, 3).pair_scores(history([4], [1.0]), "movies")
    assert scorer.shown == [([4, 2, 1], [1.0, 2.0, 3.0]), ([4], [1.0])]


def test_one_like_is_the_latest_event_that_was_liked():
    scorer = Listening()
    after = AfterOneLike(scorer, arrays())
    after.pair_scores(history([4, 2, 1, 0], [1.0, 4.5, 3.0, 5.0]), "movies")
    after.pair_scores(history([4], [1.0]), "movies")
    assert scorer.shown == [([2], [4.5]), ([], [])]


def test_an_event_that_carries_no_label_is_no_like():
    known = arrays().behaviours
    data = replace(arrays(), behaviours=(*known, replace(known[0], name="view", valued=False)))
    shown = History(np.array([2, 2]), np.array([len(known), 0]), np.array([np.nan, 4.5], np.float32))
    scorer = Listening()
    AfterOneLike(scorer, data).pair_scores(shown, "movies")
    assert scorer.shown == [([2], [4.5])]


def test_similar_items_are_scored_as_the_runtime_lists_them():
    data, recommender = arrays(), Recommender(BUNDLE, profile="exact")
    found = SimilarItems(recommender, data).pair_scores(data.history(0, Fold.TEST), "movies")["movies.like"]
    listed = {near.item: near.score for near in recommender.similar("alien", domain="movies", k=9)}
    rows = data.domains["movies"]
    assert found[data.item_ids.index("alien") - rows.start] == 0
    assert {item: found[at] for at, item in enumerate(data.item_ids[rows]) if item != "alien"} == pytest.approx(listed)
    assert not SimilarItems(recommender, data).pair_scores(history([], []), "movies")["movies.like"].any()


def test_texts_are_not_judged():
    with pytest.raises(InputError, match="pairs of user and item alone"):
        NewUser(Listening(), 3).class_logits("movies.genre", np.zeros(1, np.int64))
