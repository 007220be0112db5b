"""Map one .npy file of a bundle: only of the type and shape it must have, never with pickle."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrec_edge_runtime.errors import BundleError


def load_array(path: Path, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Return the array, memory-mapped; `shape` None: any length of at least 1. BundleError when it is not as asked."""
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # refuses objects, and never unzips
    except Exception as error:  # a damaged header is parsed as Python: its errors share no base class but Exception
        raise BundleError(f"{path}: cannot be read as .npy ({error}); the bundle is damaged, get it again") from error
    right = array.ndim == len(shape) and all(
        found == asked if asked is not None else found > 0 for found, asked in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not right:
        raise BundleError(
            f"{path}: {array.dtype}{array.shape}, expected {np.dtype(dtype)}{shape}; get the bundle again"
        )
    return array.view(np.ndarray)
