import math

import numpy as np
import pytest

from mtrec_edge_runtime import metrics
from mtrec_edge_runtime.errors import InputError

pytestmark = pytest.mark.device


def test_ties_share_the_mean_of_their_ranks():
    scores = np.array([3.0, 1.0, 3.0, 0.0])
    assert metrics.average_ranks(scores, np.array([0, 1, 3])).tolist() == [1.5, 3.0, 4.0]


def test_a_constant_scorer_gains_nothing():
    ranks = metrics.average_ranks(np.zeros(101), np.array([0, 1]))
    assert ranks.tolist() == [51.0, 51.0]
    assert metrics.ndcg(ranks) == metrics.recall(ranks) == 0.0
    assert metrics.rank_auc(metrics.average_ranks(np.zeros(101), np.arange(7)), 101) == pytest.approx(0.5, abs=0.04)


def test_a_nan_score_is_refused():
    with pytest.raises(InputError, match="ranking 3 items: 1 scores are nan"):
        metrics.average_ranks(np.array([1.0, np.nan, 2.0]), np.array([0]))


def test_ndcg_by_hand():
    assert metrics.ndcg(np.array([1.0, 3.0])) == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3)))
    assert metrics.ndcg(np.array([1.0, 2.0, 3.0])) == pytest.approx(1.0)
    assert metrics.ndcg(np.array([11.0])) == 0.0
    assert metrics.ndcg(np.array([2.0, 30.0]), k=1) == 0.0


def test_recall_counts_the_places_that_could_be_taken():
    assert metrics.recall(np.array([1.0, 11.0])) == 0.5
    assert metrics.recall(np.array([1.0, 2.0, 9.0]), k=2) == 1.0


def test_mrr_reads_the_best_placed_item():
    assert metrics.mrr(np.array([8.0, 4.0, 90.0])) == 0.25


def test_rank_auc_by_hand():
    # order: relevant, other, relevant, other -> 3 of 4 pairs are right
    assert metrics.rank_auc(np.array([1.0, 3.0]), 4) == 0.75
    assert math.isnan(metrics.rank_auc(np.array([1.0, 2.0]), 2))


def test_top_items_are_the_greatest():
    assert sorted(metrics.top_items(np.array([5.0, 1.0, 4.0, 3.0]), 2)) == [0, 2]
    assert sorted(metrics.top_items(np.array([5.0, 1.0]), 10)) == [0, 1]


def test_coverage_is_the_share_of_items_recommended_to_anyone():
    assert metrics.coverage([np.array([0, 1]), np.array([1, 2])], 12) == 0.25


def test_popularity_bias_is_relative_to_the_catalogue():
    popularity = np.array([9, 1, 1, 1])
    assert metrics.popularity_bias([np.array([0, 1]), np.array([0])], popularity) == pytest.approx(7 / 3)
    assert metrics.popularity_bias([np.arange(4)], popularity) == 1.0


def test_auc_by_hand():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert metrics.auc(scores, labels) == 0.75
    assert metrics.auc(np.zeros(4), labels) == 0.5
    assert metrics.auc(-scores, labels) == 0.25


def test_gauc_weighs_users_by_impressions_and_skips_those_of_one_class():
    users = np.array([7, 7, 3, 3, 3, 3, 5])
    labels = np.array([1, 0, 1, 0, 0, 0, 1])
    scores = np.array([1.0, 0.0, 0.5, 0.9, 0.1, 0.2, 0.0])  # user 7: AUC 1 of 2 events, user 3: 2/3 of 4
    assert metrics.gauc(scores, labels, users) == pytest.approx((2 * 1 + 4 * 2 / 3) / 6)
    per_user, impressions = metrics.user_auc(scores, labels, users)
    assert per_user[[0, 2]] == pytest.approx([2 / 3, 1.0])
    assert np.isnan(per_user[1])
    assert impressions.tolist() == [4, 1, 2]


def test_log_loss_of_a_coin_is_ln_2_and_large_logits_do_not_overflow():
    assert metrics.log_loss(np.zeros(3), np.array([0, 1, 1])) == pytest.approx(math.log(2))
    assert metrics.log_loss(np.array([1000.0, -1000.0]), np.array([1, 0])) == 0.0
    assert metrics.log_loss(np.array([-1000.0]), np.array([1])) == 1000.0


def test_sigmoid_does_not_overflow():
    assert metrics.sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_reliability_by_hand():
    predicted, happened, events = metrics.reliability(np.array([0.1, 0.3, 0.9, 1.0]), np.array([0, 1, 1, 1]), bins=2)
    np.testing.assert_allclose(predicted, [0.2, 0.95])
    np.testing.assert_allclose(happened, [0.5, 1.0])
    assert events.tolist() == [2, 2]
    assert np.isnan(metrics.reliability(np.array([0.1]), np.array([0]), bins=2)[1][1])


def test_ece_by_hand():
    quarter = np.full(4, 0.25)
    assert metrics.ece(quarter, np.array([1, 0, 0, 0])) == 0.0
    assert metrics.ece(np.array([0.9, 0.9, 0.1]), np.array([0, 0, 0])) == pytest.approx(1.9 / 3)
    assert metrics.ece(np.array([1.0]), np.array([1])) == 0.0


def test_rmse_and_mae_by_hand():
    predicted, true = np.array([1.0, 2.0]), np.array([4.0, 6.0])
    assert metrics.rmse(predicted, true) == pytest.approx(math.sqrt(12.5))
    assert metrics.mae(predicted, true) == 3.5


def test_macro_f1_and_accuracy_by_hand():
    predicted, true = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2])
    assert metrics.macro_f1(predicted, true) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics.accuracy(predicted, true) == 0.5


def test_macro_f1_leaves_out_classes_nobody_mentions():
    assert metrics.macro_f1(np.array([0, 5]), np.array([0, 5])) == 1.0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["B-x", "I-x", "O", "B-x"], {("x", 0, 1), ("x", 3, 3)}),
        (["B-x", "B-x"], {("x", 0, 0), ("x", 1, 1)}),
        (["I-x", "I-y"], {("x", 0, 0), ("y", 1, 1)}),
        (["O", "I-x", "I-x"], {("x", 1, 2)}),
        (["S-x", "I-x", "E-x", "E-x"], {("x", 0, 0), ("x", 1, 2), ("x", 3, 3)}),
        (["B-product-type", "I-product-type"], {("product-type", 0, 1)}),
        ([], set()),
    ],
)
def test_spans_of_labels(labels, expected):
    assert metrics.spans(labels) == expected


def test_a_span_counts_only_when_type_and_both_ends_match():
    true = [["B-x", "I-x", "O"], ["B-y"]]
    predicted = [["B-x", "O", "O"], ["B-y"]]
    assert metrics.span_f1(predicted, true) == 0.5
    assert metrics.span_f1([["O"]], [["B-x"]]) == 0.0


def test_a_label_of_another_scheme_is_refused():
    with pytest.raises(InputError, match="label 'colour' of word 1: span metrics need O, B-type"):
        metrics.spans(["O", "colour"])


def test_nothing_to_measure_is_nan():
    none = np.zeros(0)
    values = [
        metrics.ndcg(none),
        metrics.recall(none),
        metrics.mrr(none),
        metrics.rank_auc(none, 5),
        metrics.coverage([], 5),
        metrics.popularity_bias([], none),
        metrics.auc(none, none),
        metrics.auc(np.ones(3), np.ones(3)),
        metrics.gauc(none, none, none),
        metrics.log_loss(none, none),
        metrics.ece(none, none),
        metrics.rmse(none, none),
        metrics.mae(none, none),
        metrics.accuracy(none, none),
        metrics.macro_f1(none, none),
        metrics.span_f1([["O"]], [["O"]]),
    ]
    assert all(math.isnan(value) for value in values)
