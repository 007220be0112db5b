"""Rounding by products: nearer than rounding each weight, and never beyond what old CPUs can add."""

import numpy as np
import pytest

from mtrec_edge_compress.rounding import LARGEST, LARGEST_PAIR, column_scales, round_columns


def correlated(rows: int, seed: int = 0) -> np.ndarray:
    """Return inputs (1000, rows) that move together, as activations do, drawn from one distribution."""
    mixing = np.random.default_rng(99).normal(size=(max(rows // 4, 1), rows))
    rng = np.random.default_rng(seed)
    mixed: np.ndarray = rng.normal(size=(1000, len(mixing))) @ mixing + 0.1 * rng.normal(size=(1000, rows))
    return mixed


def rounded(matrix: np.ndarray, moment: np.ndarray, *, reduce_range: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers and the floats they stand for."""
    scales = column_scales(matrix, reduce_range=reduce_range)
    integers = round_columns(matrix, scales, moment, reduce_range=reduce_range)
    return integers, integers * scales


@pytest.mark.parametrize("reduce_range", [True, False])
def test_products_are_nearer_than_with_each_weight_rounded_alone(reduce_range: bool) -> None:
    matrix = np.random.default_rng(1).normal(size=(64, 48)).astype(np.float32)
    inputs = correlated(64)
    _, together = rounded(matrix, inputs.T @ inputs, reduce_range=reduce_range)
    _, alone = rounded(matrix, np.zeros((64, 64)), reduce_range=reduce_range)
    assert np.square(inputs @ (together - matrix)).mean() < 0.5 * np.square(inputs @ (alone - matrix)).mean()
    other = correlated(64, seed=1)  # it holds for inputs it has not seen too
    assert np.square(other @ (together - matrix)).mean() < 0.5 * np.square(other @ (alone - matrix)).mean()


def test_without_inputs_it_is_plain_rounding() -> None:
    matrix = np.random.default_rng(1).normal(size=(32, 8)).astype(np.float32)
    integers, floats = rounded(matrix, np.zeros((32, 32)), reduce_range=False)
    scales = column_scales(matrix, reduce_range=False)
    assert (integers == np.rint(matrix / scales)).all()
    assert np.abs(floats - matrix).max() <= scales.max() / 2 * 1.0001
    assert (np.abs(integers.astype(int)).max(axis=0) == LARGEST).all()


@pytest.mark.parametrize("rows", [64, 63, 1])
def test_neighbouring_weights_cannot_overflow_sixteen_bits(rows: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(rows, 200)).astype(np.float32)
    inputs = correlated(rows)
    for moment in (inputs.T @ inputs, np.zeros((rows, rows))):
        integers, _ = rounded(matrix, moment, reduce_range=True)
        widths = np.abs(np.concatenate([integers, np.zeros_like(integers[: rows % 2])]).astype(int))
        pairs = widths[0::2] + widths[1::2]
        assert 255 * pairs.max() < 2**15 and pairs.max() <= LARGEST_PAIR
        assert np.median(pairs.max(axis=0)) >= 126  # no more careful than needed
    assert (column_scales(matrix, reduce_range=False) <= column_scales(matrix, reduce_range=True)).all()


def test_an_empty_column_and_a_silent_input_stay_harmless() -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    matrix[:, 1] = 0.0
    inputs = correlated(6)
    inputs[:, 2] = 0.0  # a channel that is multiplied apart
    integers, floats = rounded(matrix, inputs.T @ inputs, reduce_range=True)
    assert not integers[:, 1].any() and np.isfinite(floats).all()
    assert np.abs(floats - matrix).max() < 0.1
