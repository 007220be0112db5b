import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import f1_score, log_loss, ndcg_score, roc_auc_score

from mtrec_edge_runtime import metrics

few_scores = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), min_size=2, max_size=30)  # many ties
tags = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y", "E-x", "S-y", "E-y"]), min_size=1, max_size=8)


def labels_for(data, count):
    labels = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    return np.array([0, 1, *labels[2:]])  # both classes


@given(few_scores)
def test_average_ranks_equal_scipy(scores):
    values = np.array(scores)
    expected = rankdata(-values, method="average")
    assert metrics.average_ranks(values, np.arange(len(values))) == pytest.approx(expected)


@given(few_scores, st.data())
def test_auc_equals_sklearn(scores, data):
    labels = labels_for(data, len(scores))
    assert metrics.auc(np.array(scores), labels) == pytest.approx(roc_auc_score(labels, scores))


@given(few_scores, st.data())
def test_rank_auc_equals_sklearn(scores, data):
    labels = labels_for(data, len(scores))
    ranks = metrics.average_ranks(np.array(scores), np.flatnonzero(labels))
    assert metrics.rank_auc(ranks, len(scores)) == pytest.approx(roc_auc_score(labels, scores))


@given(few_scores, st.data())
def test_user_auc_equals_each_user_alone(scores, data):
    labels = labels_for(data, len(scores))
    users = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))))
    per_user, impressions = metrics.user_auc(np.array(scores), labels, users)
    for user, value, count in zip(np.unique(users), per_user, impressions, strict=True):
        own = users == user
        assert count == own.sum()
        if len(np.unique(labels[own])) == 2:
            assert value == pytest.approx(roc_auc_score(labels[own], np.array(scores)[own]))
        else:
            assert np.isnan(value)


@given(st.permutations(range(14)), st.data())
def test_ndcg_equals_sklearn_without_ties(order, data):
    labels = labels_for(data, 14)
    scores = np.array(order, float)
    ranks = metrics.average_ranks(scores, np.flatnonzero(labels))
    assert metrics.ndcg(ranks, 5) == pytest.approx(ndcg_score([labels], [scores], k=5))


@given(few_scores, st.data())
def test_log_loss_equals_sklearn(scores, data):
    labels = labels_for(data, len(scores))
    logits = np.array(scores)
    assert metrics.log_loss(logits, labels) == pytest.approx(log_loss(labels, metrics.sigmoid(logits)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_equals_sklearn(pairs):
    predicted, true = np.array(pairs).T
    assert metrics.macro_f1(predicted, true) == pytest.approx(f1_score(true, predicted, average="macro"))


@given(st.lists(tags, min_size=1, max_size=5), st.data())
def test_span_f1_equals_seqeval(true, data):
    letters = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y", "E-x", "S-y"])
    predicted = [data.draw(st.lists(letters, min_size=len(row), max_size=len(row))) for row in true]
    expected = seqeval_f1(true, predicted, zero_division=0)
    ours = metrics.span_f1(predicted, true)
    assert (0.0 if np.isnan(ours) else ours) == pytest.approx(expected)
