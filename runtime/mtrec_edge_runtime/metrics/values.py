"""How far predicted amounts are from the true ones, in the task's units."""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


def rmse(predicted: Numbers, true: Numbers) -> float:
    """Return the root mean squared error, sqrt(mean((p - t)^2)); both (events,)."""
    if len(true) == 0:
        return float("nan")
    return float(np.sqrt(np.mean((np.asarray(predicted, np.float64) - true) ** 2)))


def mae(predicted: Numbers, true: Numbers) -> float:
    """Return the mean absolute error, mean(|p - t|); both (events,)."""
    if len(true) == 0:
        return float("nan")
    return float(np.mean(np.abs(np.asarray(predicted, np.float64) - true)))
