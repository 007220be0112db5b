"""How often the one label of a text is right."""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


def accuracy(predicted: Numbers, true: Numbers) -> float:
    """Return the share of right labels; both (rows,) class numbers."""
    return float(np.mean(predicted == true)) if len(true) else float("nan")


def macro_f1(predicted: Numbers, true: Numbers) -> float:
    """Return the plain mean of the classes' F1, over classes that occur in the truth or the predictions.

    F1_c = 2 TP_c / (predicted_c + true_c). Yang and Liu 1999, "A re-examination of text categorization methods"; the
    choice of classes is scikit-learn's.
    """
    if len(true) == 0:
        return float("nan")
    size = int(max(predicted.max(), true.max())) + 1
    hits = np.bincount(true[predicted == true], minlength=size)
    total = np.bincount(predicted, minlength=size) + np.bincount(true, minlength=size)
    return float(np.mean(2.0 * hits[total > 0] / total[total > 0]))
