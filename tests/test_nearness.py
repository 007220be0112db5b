"""How near a student is to its teacher, on what it read and on the rest."""

import numpy as np

from mtrec_edge_compress.nearness import nearness


def test_texts_read_and_others_are_told_apart() -> None:
    teacher = np.eye(4, dtype=np.float32)
    student = teacher.copy()
    student[2:] = [[0, 0, 0.6, 0.8], [0, 1, 0, 0]]
    found = nearness(student, teacher, np.array([0, 1, 2]))
    assert found == "cosine to the teacher 0.867 on texts read, 0.000 on others"


def test_where_everything_was_read_there_are_no_others() -> None:
    assert nearness(np.eye(2), np.eye(2), np.arange(2)) == "cosine to the teacher 1.000 on texts read"
