"""What users and items usually get, against cases worked by hand."""

import numpy as np
import pytest
from tiny_training import tiny_arrays

from mtrec_edge_compress.data.arrays import History
from mtrec_edge_compress.data.biases import alternating_biases, shrunk_means
from mtrec_edge_compress.data.schema import Fold

USER, ITEM = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)


def test_means_are_drawn_to_nothing_by_pseudo_events() -> None:
    means = shrunk_means(np.array([0, 0, 2]), np.array([3.0, 1.0, 2.0]), 3, 2.0)
    np.testing.assert_allclose(means, [1.0, 0.0, 2 / 3])


def test_biases_of_values_that_are_sums_of_two_are_those_two() -> None:
    users, items = np.array([1.0, -1.0, 0.5, -0.5]), np.array([0.4, -0.4, 0.2, 0.0, -0.2])
    found = alternating_biases(
        USER, ITEM, users[USER] + items[ITEM], users=4, items=5, user_shrink=0.0, item_shrink=0.0
    )
    np.testing.assert_allclose(found[0], users, atol=1e-6)
    np.testing.assert_allclose(found[1], items, atol=1e-6)


def test_who_met_good_items_is_no_kind_judge() -> None:
    """Both users give each item what all give it; one met the best item alone, so a mean would call them generous."""
    user, item = np.array([0, 1, 1, *[2] * 9, *[3] * 9]), np.array([0, 0, 1, *range(9), *range(9)])
    value = np.where(item == 0, 2.0, 0.0)
    people, _ = alternating_biases(user, item, value, users=4, items=9, user_shrink=1.0, item_shrink=0.0)
    assert abs(people[0] - people[1]) < 0.2  # their means are 2 and 1


def test_a_residual_is_the_value_less_the_users_bias_and_train_events_alone_have_one() -> None:
    arrays = tiny_arrays()
    rated = (arrays.event_fold == Fold.TRAIN) & ~np.isnan(arrays.event_value)
    assert rated.any() and not rated.all()
    assert (arrays.residual[~rated] == 0).all()
    bias = arrays.normal_value - arrays.residual
    for user in range(len(arrays.user_ids)):
        of_user = bias[rated & (arrays.event_user == user)]
        np.testing.assert_allclose(of_user, of_user[:1].repeat(len(of_user)), atol=1e-5)


def test_an_event_says_how_much_more_it_is_than_its_item_usually_gets() -> None:
    arrays = tiny_arrays()
    item = int(np.argmax(np.abs(arrays.priors[:, 1])))
    behaviour = int(arrays.event_behaviour[np.flatnonzero(arrays.event_item == item)[0]])
    known = arrays.behaviours[behaviour]
    told = History(np.array([item, item]), np.array([behaviour] * 2), np.array([4.5, np.nan], np.float32))
    expected = (4.5 - known.mean) / known.scale - arrays.priors[item, 1]
    np.testing.assert_allclose(arrays.surprise(told), [expected, 0.0], rtol=1e-5)


def test_in_training_an_event_is_left_out_of_what_its_item_usually_gets() -> None:
    arrays = tiny_arrays()
    count, total = arrays.support
    rated = np.flatnonzero((arrays.event_fold == Fold.TRAIN) & ~np.isnan(arrays.event_value))
    alone = [row for row in rated if count[arrays.event_item[row]] == 1]
    for row in [*rated[:20], *alone]:
        item = arrays.event_item[row]
        usual = (total[item] - arrays.residual[row]) / (count[item] - 1 + 5)
        assert arrays.train_surprise[row] == pytest.approx(arrays.normal_value[row] - usual, abs=1e-5)
    held = arrays.event_fold != Fold.TRAIN
    assert held.any() and (arrays.train_surprise[held] == 0).all()
