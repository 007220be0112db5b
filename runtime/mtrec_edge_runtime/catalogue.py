"""The items a device knows: ids, int8 vectors with one scale a row, priors, and what users did with them together.

Reads and writes the files of `catalogue/` (those of the neighbours through neighbours.py); the large ones are
memory-mapped, so that opening costs nothing and a row is copied only when it is used. Knows nothing of tasks or graphs.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError, InputError
from mtrec_edge_runtime.integrity import MAX_FILE_BYTES, read_bounded
from mtrec_edge_runtime.neighbours import read_neighbours
from mtrec_edge_runtime.npy import load_array

PRIORS = 3  # popularity, mean_value, seen
MEAN_VALUE = 1  # its place among them
MAX_ID_BYTES = 65_535  # of one item's id: its length is stored in two bytes

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp] | slice


def write_catalogue(folder: str | Path, ids: Sequence[str], *, vectors: NDArray[Any], priors: NDArray[Any]) -> None:
    """Write `catalogue/` under the bundle's `folder`.

    `vectors` (items, D) are stored as int8 with `scale = max |v| / 127` a row (float16), an error of about half a
    scale; `priors` (items, 3) as float16. Raises BundleError when the lengths differ, an id is longer than 65,535
    bytes or a number is not finite.
    """
    vectors, priors = np.asarray(vectors, np.float32), np.asarray(priors, np.float16)
    if vectors.ndim != 2 or len(vectors) != len(ids) or priors.shape != (len(ids), PRIORS):
        raise BundleError(
            f"catalogue of {len(ids)} ids: vectors {vectors.shape} must be (items, D), priors {priors.shape} (items, 3)"
        )
    if not (np.isfinite(vectors).all() and np.isfinite(priors).all()):
        raise BundleError("catalogue: vectors and priors must be finite (priors within float16)")
    with np.errstate(over="ignore"):  # refused below
        scales = (np.abs(vectors).max(axis=1, initial=0.0) / np.float32(127)).astype(np.float16)
    if not np.isfinite(scales).all():
        raise BundleError("catalogue: a vector holds a number beyond float16's range; item vectors have unit length")
    divisor = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
    codes = np.clip(np.rint(vectors / divisor), -127, 127).astype(np.int8)
    encoded = [item.encode() for item in ids]
    if longest := next((item for item in encoded if len(item) > MAX_ID_BYTES), None):
        raise BundleError(f"catalogue: the id {longest[:40]!r}... has {len(longest)} bytes, at most {MAX_ID_BYTES}")
    place = Path(folder) / "catalogue"
    place.mkdir(parents=True, exist_ok=True)
    (place / "ids.bin").write_bytes(b"".join(encoded))
    lengths = np.array([len(item) for item in encoded], np.uint16)
    arrays = {"lengths": lengths, "vectors": codes, "scales": scales, "priors": priors}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array, allow_pickle=False)


class Catalogue:
    """The catalogue of an open bundle. A row is an item's position in catalogue order."""

    def __init__(self, folder: str | Path, domains: Mapping[str, tuple[int, int]], *, vector_size: int) -> None:
        """Map the files and check that they agree with each other and with the manifest; BundleError if not."""
        place = Path(folder) / "catalogue"
        self.folder = place
        self.domains = dict(domains)
        self.vector_size = vector_size
        lengths = load_array(place / "lengths.npy", np.uint16, (None,))
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        count = len(lengths)
        self._vectors = load_array(place / "vectors.npy", np.int8, (count, vector_size))
        self._scales = load_array(place / "scales.npy", np.float16, (count,))
        self._priors = load_array(place / "priors.npy", np.float16, (count, PRIORS))
        self.neighbours = read_neighbours(folder, count)
        self._ids = read_bounded(place / "ids.bin", MAX_FILE_BYTES)
        self._names: dict[str, tuple[str, ...]] = {}
        self._index: dict[str, dict[str, int]] = {}
        self._check(place, count)

    def __len__(self) -> int:
        """Return the number of items of all domains."""
        return len(self._offsets) - 1

    def ids(self, domain: str) -> tuple[str, ...]:
        """Return the item ids of a domain in catalogue order, read on first use."""
        if domain not in self._names:
            start, end = self.domain_rows(domain)
            cuts = self._offsets[start : end + 1].tolist()
            try:
                names = tuple(self._ids[a:b].decode() for a, b in pairwise(cuts))
            except UnicodeDecodeError as error:
                raise BundleError(f"catalogue/ids.bin: {error}; the bundle is damaged, get it again") from error
            self._names[domain] = names
        return self._names[domain]

    def domain_rows(self, domain: str) -> tuple[int, int]:
        """Return the rows `[start, end)` of a domain; InputError for one the bundle does not hold."""
        if not isinstance(domain, str) or domain not in self.domains:
            raise InputError(f"unknown domain {domain!r}; this bundle holds {', '.join(sorted(self.domains))}")
        return self.domains[domain]

    def index(self, domain: str) -> Mapping[str, int]:
        """Return item id -> row of a domain, built on first use: `"603" in index(domain)` tells what is held."""
        return MappingProxyType(self._rows_of(domain))

    def _rows_of(self, domain: str) -> dict[str, int]:
        start, end = self.domain_rows(domain)
        if domain not in self._index:
            index = dict(zip(self.ids(domain), range(start, end), strict=True))
            if len(index) != end - start:
                raise BundleError(f"catalogue: domain {domain} has {end - start} rows but {len(index)} distinct ids")
            self._index[domain] = index
        return self._index[domain]

    def rows(self, domain: str, ids: Collection[str]) -> NDArray[np.intp]:
        """Return the row of each id; InputError naming the first one that is not in the domain."""
        index = self._rows_of(domain)
        try:
            return np.fromiter(map(index.__getitem__, ids), np.intp, len(ids))
        except (KeyError, TypeError) as error:
            unknown = next(item for item in ids if not isinstance(item, str) or item not in index)
            raise self._unknown(unknown, domain) from error

    def row(self, domain: str, item: str) -> int:
        """Return the row of one id; InputError when it is not in the domain."""
        try:
            return self._rows_of(domain)[item]
        except (KeyError, TypeError) as error:
            raise self._unknown(item, domain) from error

    def _unknown(self, item: object, domain: str) -> InputError:
        return InputError(
            f"unknown item {item!r} in domain {domain!r} ({len(self.index(domain))} items); use an id of the catalogue "
            "(catalogue.index(domain) holds them); one that is not in it is given by its text: as a candidate "
            "NewItem(title=...), in a history Event(text=...)"
        )

    def vectors(self, rows: Rows) -> Float32:
        """Return the item vectors of `rows` as float32 (rows, D)."""
        result: Float32 = self._vectors[rows].astype(np.float32)
        result *= self._scales[rows].astype(np.float32)[:, None]
        return result

    def priors(self, rows: Rows) -> Float32:
        """Return popularity, mean_value and seen of `rows` as float32 (rows, 3)."""
        return self._priors[rows].astype(np.float32)

    def _check(self, place: Path, count: int) -> None:
        """Refuse files that contradict each other, so that no later look-up can leave them."""
        edges = [0, *(edge for rows in sorted(self.domains.values()) for edge in rows), count]
        if any(end != start for end, start in zip(edges[::2], edges[1::2], strict=True)):
            raise BundleError(f"{place}: {count} items, but the manifest's domains are {self.domains}")
        if self._offsets[-1] != len(self._ids):
            raise BundleError(f"{place}: lengths.npy does not cut the {len(self._ids)} bytes of ids.bin; get it again")
        if not (np.isfinite(self._scales).all() and np.isfinite(self._priors).all()):
            raise BundleError(f"{place}: scales.npy or priors.npy holds a number that is not finite; get it again")
