"""Links between items: what a history says of candidates, how they are rounded and stored, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mtrec_edge_runtime import BundleError, Recommender
from mtrec_edge_runtime.neighbours import (
    MAX_LINKS,
    Neighbours,
    make_neighbours,
    no_neighbours,
    read_neighbours,
    write_neighbours,
)

pytestmark = pytest.mark.device

WEIGHTS = np.array(  # event, candidate
    [
        [0.0, 0.5, 0.0, -1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.25, 0.0, 0.0, 0.0, 0.125],
        [0.0, 0.0, 0.75, 0.0, 0.0],
        [0.1, 0.2, 0.3, 0.4, 0.0],
    ]
)
NOBODY = np.zeros(0, np.int64)


def linked(weights: np.ndarray = WEIGHTS) -> Neighbours:
    """Return the matrix whose links are the entries that are not zero."""
    event, candidate = np.nonzero(weights)
    start = np.concatenate([[0], np.cumsum(np.bincount(event, minlength=len(weights)))])
    return make_neighbours(start, candidate, weights[event, candidate])


def expected(history: list[int], candidates: list[int]) -> np.ndarray:
    """Return the weights (candidates, events), 0 where either is unknown."""
    known = [[c >= 0 and h >= 0 and WEIGHTS[h, c] for h in history] for c in candidates]
    return np.array(known, float).reshape(len(candidates), len(history))


HISTORIES = ([0], [4, 2, 0], [1], [2, -1, 0, 2, 2], [-1, -1], [])


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(("first", "end"), [(0, 5), (1, 4), (4, 5), (2, 2)])
def test_affinity_of_a_slice_is_the_dense_matrix(history: list[int], first: int, end: int) -> None:
    found = linked().affinity(np.array(history, np.int64), slice(first, end))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(history, list(range(first, end))), atol=0.005)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("candidates", [[0, 1, 2, 3, 4], [3, -1, 1, 3, -1, 0], [4], [-1], [2, 2]])
def test_affinity_of_any_candidates_is_the_dense_matrix(history: list[int], candidates: list[int]) -> None:
    found = linked().affinity(np.array(history, np.int64), np.array(candidates))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(history, candidates), atol=0.005)


def test_an_item_reaches_its_links_and_theirs_but_not_itself() -> None:
    matrix = linked()
    # 0 -> 1 is 0.5 and 0 -> 3 is -1; on from 3 -> 2 is 0.75, from 1 nothing
    np.testing.assert_allclose(matrix.reach(0), [0.0, 0.5, -0.75, -1.0, 0.0], atol=0.01)
    for row in range(len(WEIGHTS)):
        expected = WEIGHTS[row] + WEIGHTS[row] @ WEIGHTS
        expected[row] = 0.0
        found = matrix.reach(row)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_nothing_is_reached_from_an_item_that_is_not_in_the_catalogue() -> None:
    assert linked().reach(-1).shape == (5,) and not linked().reach(-1).any()


def test_without_links_nothing_is_said() -> None:
    nothing = no_neighbours(5)
    assert len(nothing) == 0 and len(linked()) == 9
    for candidates in (slice(1, 4), np.array([3, -1, 3])):
        found = nothing.affinity(np.array([0, -1, 4]), candidates)
        assert found.shape == (3, 3) and not found.any()
        assert nothing.affinity(NOBODY, candidates).shape == (3, 0)
    assert not nothing.reach(4).any()


def test_a_weight_comes_back_within_half_a_scale() -> None:
    size = 10.0 ** np.linspace(2, -1, 40)[:, None]
    weights = size * np.random.default_rng(0).uniform(-1, 1, (40, 40))
    found = linked(weights).affinity(np.arange(40), slice(0, 40)).T
    scale = linked(weights).scale.astype(np.float64)[:, None]
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=1, keepdims=True) / 127, rtol=2**-11)  # of float16
    assert (np.abs(found - weights) <= 0.5001 * scale).all()


def test_a_weight_too_small_for_float16_is_none() -> None:
    assert not linked(np.array([[0.0, 1e-9], [0.0, 0.0]])).affinity(np.array([0]), slice(0, 2)).any()


@pytest.mark.parametrize("neighbours", [linked(), no_neighbours(1), no_neighbours(1 << 16), no_neighbours(65_537)])
def test_what_is_written_is_read(tmp_path: Path, neighbours: Neighbours) -> None:
    write_neighbours(tmp_path, neighbours)
    found = read_neighbours(tmp_path, len(neighbours.scale))
    for name in ("start", "item", "code", "scale"):
        mapped, made = getattr(found, name), getattr(neighbours, name)
        assert mapped.dtype == made.dtype and np.array_equal(mapped, made), name
    assert found.item.dtype == (np.uint16 if len(neighbours.scale) <= 1 << 16 else np.uint32)


def test_an_item_has_at_most_65535_links() -> None:
    row = np.arange(MAX_LINKS + 1)
    most = make_neighbours(np.array([0, MAX_LINKS]), row[:-1], np.ones(MAX_LINKS))
    assert len(most) == MAX_LINKS == 65_535
    with pytest.raises(BundleError, match="an item has 65536 links, at most 65535 can be stored"):
        make_neighbours(np.array([0, MAX_LINKS + 1]), row, np.ones(MAX_LINKS + 1))


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, 1e8])
def test_a_weight_is_finite_and_within_float16(weight: float) -> None:
    with pytest.raises(BundleError, match="every weight must be finite, within float16"):
        make_neighbours(np.array([0, 2]), np.array([0, 1]), np.array([0.5, weight]))


def damage(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda place: np.save(place / f"neighbour_{name}.npy", array)


def garble(place: Path) -> None:
    (place / "neighbour_codes.npy").write_bytes(b"\x93NUMPY\x01\x00")


@pytest.mark.parametrize(  # of the tiny bundle: 8 items, 3 links
    ("harm", "message"),
    [
        (damage("codes", np.ones(3, np.int16)), r"neighbour_codes\.npy: int16\(3,\), expected int8\(3,\); get the"),
        (damage("items", np.ones(3, np.uint32)), r"neighbour_items\.npy: uint32\(3,\), expected uint16\(3,\); get"),
        (damage("items", np.array([4, 8, 1], np.uint16)), r"neighbour_items\.npy: row 8 of 8 items; get the bundle"),
        (damage("scales", np.full(8, np.inf, np.float16)), r"neighbour_scales\.npy holds a number that is not finite"),
        (damage("scales", np.ones(8, np.float32)), r"neighbour_scales\.npy: float32\(8,\), expected float16\(8,\)"),
        (damage("counts", np.full(8, 1, np.uint16)), r"neighbour_items\.npy: uint16\(3,\), expected uint16\(8,\)"),
        (damage("counts", np.zeros(8, np.uint16)), r"neighbour_items\.npy: uint16\(3,\), expected uint16\(0,\)"),
        (damage("counts", np.ones(3, np.uint16)), r"neighbour_counts\.npy: uint16\(3,\), expected uint16\(8,\)"),
        (damage("codes", np.ones((3, 1), np.int8)), r"neighbour_codes\.npy: int8\(3, 1\), expected int8\(3,\)"),
        (garble, r"neighbour_codes\.npy: cannot be read as \.npy"),
    ],
)
def test_links_that_contradict_the_catalogue(
    copy: Path, rehash: Callable[[Path], None], harm: Callable[[Path], None], message: str
) -> None:
    harm(copy / "catalogue")
    rehash(copy)
    with pytest.raises(BundleError, match=message):
        Recommender(copy)
