import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrec_edge_compress.data.balance import MAX_WEIGHT, class_weights, sample_negatives
from mtrec_edge_runtime.errors import InputError


def test_weights_are_inverse_to_frequency_with_mean_one() -> None:
    labels = np.array([0, 0, 0, 1, -1])
    weights = class_weights(labels, 2)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert weights[labels[:4]].mean() == pytest.approx(1)


def test_balanced_classes_weigh_one() -> None:
    assert class_weights(np.array([0, 1, 2]), 3).tolist() == [1, 1, 1]


def test_no_labels_weigh_one() -> None:
    assert class_weights(np.array([-1, -1]), 2).tolist() == [1, 1]


def test_the_weight_of_a_rare_class_is_capped() -> None:
    weights = class_weights(np.array([0] * 1000 + [1]), 3)
    assert weights[1] / weights[0] == pytest.approx(MAX_WEIGHT)
    assert weights[2] == weights[1]  # never seen: as the rarest


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="label 3 for 3 classes"):
        class_weights(np.array([3]), 3)


@given(
    st.integers(0, 50),
    st.integers(1, 40),
    st.lists(st.integers(0, 120), max_size=60),
    st.integers(0, 2**32),
)
def test_negatives_lie_in_the_domain_and_are_never_observed(
    start: int, length: int, seen: list[int], seed: int
) -> None:
    rows, observed = slice(start, start + length), np.array(seen, np.int64)
    if set(range(start, start + length)) <= set(seen):
        with pytest.raises(InputError, match="no negative left"):
            sample_negatives(np.random.default_rng(seed), rows, 5, observed=observed)
        return
    drawn = sample_negatives(np.random.default_rng(seed), rows, 200, observed=observed)
    assert drawn.min() >= start
    assert drawn.max() < start + length
    assert not set(drawn.tolist()) & set(seen)


def test_every_free_item_is_drawn_equally_often() -> None:
    drawn = sample_negatives(np.random.default_rng(0), slice(10, 16), 40_000, observed=np.array([10, 13, 13, 2, 99]))
    rows, counts = np.unique(drawn, return_counts=True)
    assert rows.tolist() == [11, 12, 14, 15]
    assert np.allclose(counts, 10_000, rtol=0.05)


def test_the_same_seed_draws_the_same_negatives() -> None:
    first, second = (sample_negatives(np.random.default_rng(7), slice(0, 9), 5) for _ in range(2))
    assert first.tolist() == second.tolist()
