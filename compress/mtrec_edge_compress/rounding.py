"""`quantize`: FP32 matrices -> INT8 ones, rounded so that products stay near, not single weights.

Rows are rounded one after the other; what a row's rounding does to the products is taken up by the rows still to come,
as far as their inputs move together. Source: Frantar et al., GPTQ, 2023 (optimal brain quantization, column by column).

numpy alone; knows nothing of graphs.
"""

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.data.arrays import FloatArray

LARGEST = 127
LARGEST_PAIR = 128  # 255 * 128 < 2^15
DAMPING = 0.01  # of the mean square of the inputs, added to each

Doubles = npt.NDArray[np.float64]


def column_scales(matrix: FloatArray, *, reduce_range: bool) -> FloatArray:
    """Return the float32 scale (out,) of each column of a matrix (in, out): column = int8 * scale.

    Without VNNI a CPU multiplies two neighbouring weights of a column by activations of up to 255 and adds them in 16
    bits. `reduce_range` scales a column until no two such weights add up to more than 128 in magnitude. That costs less
    than the usual seven bits for each weight, for the widest weights seldom stand side by side.
    """
    widths = np.abs(matrix)
    widest = widths.max(axis=0)
    if reduce_range:
        even = np.concatenate([widths, np.zeros_like(widths[: len(widths) % 2])])
        widest = np.maximum(widest, (even[0::2] + even[1::2]).max(axis=0))
    return np.where(widest == 0, 1, widest / LARGEST).astype(np.float32)


def round_columns(
    matrix: FloatArray, scales: FloatArray, moment: Doubles, *, reduce_range: bool
) -> npt.NDArray[np.int8]:
    """Return the INT8 matrix (in, out) whose products with the inputs stay nearest to those of `matrix`.

    `moment` (in, in) is the sum or mean of x x^T over the inputs x; 0 rounds each weight alone.

    With `reduce_range` neighbouring weights add up to at most 128 in magnitude: rows 0 and 1, 2 and 3, and so on.
    """
    count = len(matrix)
    damped = moment + np.eye(count) * max(DAMPING * np.trace(moment) / count, 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = matrix / scales.astype(np.float64)
    integers = np.zeros(matrix.shape, np.int8)
    for row in range(count):
        most = LARGEST_PAIR - np.abs(integers[row - 1].astype(int)) if reduce_range and row % 2 else LARGEST
        integers[row] = np.clip(np.rint(left[row]), -np.minimum(most, LARGEST), np.minimum(most, LARGEST))
        error = (left[row] - integers[row]) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], error)
    return integers
