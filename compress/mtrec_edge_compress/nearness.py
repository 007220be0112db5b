"""How near a student's vectors are to its teacher's, on the texts it learned from and apart on those it did not.

A wide gap between the two says that the student knows texts by heart: more texts will help it, more passes will not.
"""

import numpy as np

from mtrec_edge_compress.data.arrays import FloatArray, IntArray


def nearness(student: FloatArray, teacher: FloatArray, read: IntArray) -> str:
    """Return the mean cosines in words; `student` and `teacher` are unit vectors (rows, D), `read` rows learned from.

    >>> nearness(np.eye(2), np.eye(2)[[0, 0]], np.array([0]))
    'cosine to the teacher 1.000 on texts read, 0.000 on others'
    """
    cosine = np.einsum("rd,rd->r", student, teacher)
    others = np.setdiff1d(np.arange(len(cosine)), read)
    parts = (("texts read", read), ("others", others))
    return "cosine to the teacher " + ", ".join(
        f"{cosine[rows].mean():.3f} on {name}" for name, rows in parts if len(rows)
    )
