"""A catalogue of its own: what is written comes back, what it cannot hold or was damaged is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mtrec_edge_runtime import BundleError
from mtrec_edge_runtime.catalogue import Catalogue, write_catalogue
from mtrec_edge_runtime.neighbours import no_neighbours, write_neighbours

pytestmark = pytest.mark.device


def write_alone(folder: Path, ids: Sequence[str], *, vectors: np.ndarray, priors: np.ndarray) -> None:
    """Write a catalogue whose items nobody met together."""
    write_catalogue(folder, ids, vectors=vectors, priors=priors)
    write_neighbours(folder, no_neighbours(len(ids)))


def test_catalogue_comes_back_within_half_a_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, priors = rng.normal(size=(6, 5)), rng.random((6, 3))
    vectors[3] = 0
    ids = ["a", "β", "", "日本", "a b", "𝒳"]
    write_alone(tmp_path, ids, vectors=vectors, priors=priors)
    catalogue = Catalogue(tmp_path, {"x": (0, 4), "y": (4, 6), "none": (6, 6)}, vector_size=5)
    assert (catalogue.ids("x"), catalogue.ids("y"), catalogue.ids("none")) == (tuple(ids[:4]), tuple(ids[4:]), ())
    assert catalogue.rows("y", ["𝒳", "a b"]).tolist() == [5, 4]
    found = catalogue.vectors(np.array([5, 0, 3]))
    step = (np.abs(vectors).max(axis=1) / 127).astype(np.float16).astype(np.float64)
    assert (np.abs(found - vectors[[5, 0, 3]]) <= step[[5, 0, 3], None] / 2 + 1e-7).all()
    np.testing.assert_array_equal(catalogue.vectors(slice(0, 6))[[5, 0, 3]], found)
    np.testing.assert_allclose(catalogue.priors(slice(0, 6)), priors, rtol=1e-3)


def test_catalogue_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"vectors \(2, 4\) must be \(items, D\)"):
        write_catalogue(tmp_path, ["a"], vectors=np.zeros((2, 4)), priors=np.zeros((1, 3)))
    with pytest.raises(BundleError, match="must be finite"):
        write_catalogue(tmp_path, ["a"], vectors=np.full((1, 4), np.nan), priors=np.zeros((1, 3)))


def test_what_a_catalogue_hands_out_cannot_be_changed(tmp_path: Path) -> None:
    write_alone(tmp_path, ["a", "b"], vectors=np.ones((2, 4)), priors=np.zeros((2, 3)))
    catalogue = Catalogue(tmp_path, {"x": (0, 2)}, vector_size=4)
    assert catalogue.index("x") == {"a": 0, "b": 1} and "c" not in catalogue.index("x")
    with pytest.raises(TypeError):
        catalogue.index("x")["a"] = 1  # type: ignore[index]


def test_an_id_is_at_most_65535_bytes_long(tmp_path: Path) -> None:
    place = {"vectors": np.ones((1, 4)), "priors": np.zeros((1, 3))}
    write_alone(tmp_path, ["é" * 32_767], **place)
    assert Catalogue(tmp_path, {"x": (0, 1)}, vector_size=4).ids("x") == ("é" * 32_767,)
    with pytest.raises(BundleError, match=r"has 65536 bytes, at most 65535"):
        write_catalogue(tmp_path, ["é" * 32_768], **place)


def test_ids_of_a_domain_must_be_distinct(tmp_path: Path) -> None:
    write_alone(tmp_path, ["a", "a"], vectors=np.ones((2, 4)), priors=np.zeros((2, 3)))
    with pytest.raises(BundleError, match="domain x has 2 rows but 1 distinct ids"):
        Catalogue(tmp_path, {"x": (0, 2)}, vector_size=4).index("x")
    Catalogue(tmp_path, {"x": (0, 1), "y": (1, 2)}, vector_size=4).index("x")


def test_ids_must_be_utf8(tmp_path: Path) -> None:
    write_alone(tmp_path, ["ab"], vectors=np.ones((1, 4)), priors=np.zeros((1, 3)))
    (tmp_path / "catalogue" / "ids.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"ids\.bin: .*damaged"):
        Catalogue(tmp_path, {"x": (0, 1)}, vector_size=4).ids("x")
