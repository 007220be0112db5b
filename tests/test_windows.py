"""Windows: targets after their history, of the TRAIN fold alone, shared out among domains as asked."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tiny_training import tiny_arrays, world_arrays

from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.windows import Windows, tempered


def test_windows_are_train_events_after_their_history() -> None:
    arrays = world_arrays()
    windows = Windows(arrays, 4)
    found: list[int] = []
    for group in windows.groups(np.random.default_rng(0), 4):
        assert len({window.domain for window in group}) == 1 and len(group) <= 4
        for window in group:
            before = windows.history(window, 8)
            assert 1 <= len(before) <= 8 and before.max() < window.rows.min()
            assert (np.diff(before) < 0).all()  # latest first
            assert (arrays.event_fold[before] == Fold.TRAIN).all()
            assert (arrays.event_user[before] == window.user).all()
            found += window.rows.tolist()
    first = [windows.train_rows(user)[0] for user in range(len(arrays.user_ids))]  # has no history: no target
    assert sorted([*found, *first]) == np.flatnonzero(arrays.event_fold == Fold.TRAIN).tolist()


def test_a_window_without_a_label_is_left_out() -> None:
    """Users view far more than they rate; views are history, and no step is spent on them alone."""
    data = tiny_arrays().dataset
    viewed = pl.int_range(pl.len()) % 5 > 0
    events = data.events.with_columns(
        behaviour=pl.when(viewed).then(pl.lit("view")).otherwise("behaviour"),
        value=pl.when(viewed).then(None).otherwise("value"),
    )
    arrays = build_arrays(replace(data, events=events))
    rating = np.asarray(arrays.labels("movies.rating"))
    windows = Windows(arrays, 2)
    found = [window for group in windows.groups(np.random.default_rng(0), 4) for window in group]
    assert all((~np.isnan(rating[window.rows])).any() for window in found)
    of_windows = {int(row) for window in found for row in window.rows}
    firsts = {int(windows.train_rows(user)[0]) for user in range(len(arrays.user_ids))}
    labelled = np.flatnonzero((arrays.event_fold == Fold.TRAIN) & ~np.isnan(rating))
    assert set(labelled.tolist()) - firsts <= of_windows


def test_a_targets_own_event_is_left_out_of_its_prior() -> None:
    arrays = tiny_arrays()
    windows = Windows(arrays, 4)
    count, total = arrays.support
    for window in windows.groups(np.random.default_rng(0), 100)[0][:5]:
        items = arrays.event_item[window.rows]
        prior = windows.priors([window], items[None])[0]
        for place, item in enumerate(items):
            assert prior[place, 2] == (count[item] > 1)
            mean = (total[item] - arrays.residual[window.rows[place]]) / (count[item] - 1 + 5)
            assert prior[place, 1] == pytest.approx(mean, abs=1e-6)


def test_observed_items_are_no_negatives() -> None:
    arrays = world_arrays()
    windows = Windows(arrays, 4)
    observed = arrays.event_item[windows.train_rows(3)]
    assert not windows.unobserved(3, observed).any()
    rest = np.setdiff1d(np.arange(len(arrays.item_ids)), observed)
    assert windows.unobserved(3, rest).all()


def test_tempered_counts_by_hand() -> None:
    """Square roots of 1, 4, 16 are 1, 2, 4: 21 groups are shared 3, 6, 12; at a great temperature evenly."""
    assert tempered([1, 4, 16], 1.0) == [1, 4, 16]
    assert tempered([1, 4, 16], 2.0) == [3, 6, 12]
    assert tempered([1, 4, 16], 1000.0) == [7, 7, 7]
    assert tempered([0, 1, 4, 16], 0.5) == [0, 0, 1, 20]  # 1 : 16 : 256
    assert tempered([0, 0], 2.0) == [0, 0]


def test_at_temperature_1_no_draw_is_made_that_was_not_made_before() -> None:
    """The generator is left where one shuffle a domain and one of the groups leave it."""
    windows, rng, expected = Windows(world_arrays(), 4), np.random.default_rng(3), np.random.default_rng(3)
    found = windows.groups(rng, 4)
    drawn = [group for domain in windows.arrays.domains for group in windows._of_domain(domain, expected, 4)]
    order = expected.permutation(len(drawn))
    assert [[(w.user, w.rows.tolist()) for w in group] for group in found] == [
        [(w.user, w.rows.tolist()) for w in drawn[number]] for number in order
    ]
    assert rng.bit_generator.state == expected.bit_generator.state
