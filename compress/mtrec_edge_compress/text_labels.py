"""TRAIN labels of the corpus: which texts carry one, which label, how many there are.

Row space: catalogue items first, then the rows of the texts table (as in tokens.py). Nothing of another fold than TRAIN
leaves this module.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_runtime.tasks import Kind


@dataclass(frozen=True)
class TextLabels:
    """The text tasks' TRAIN labels by corpus row."""

    arrays: Arrays

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """Return the tasks that read one text."""
        return tuple(task for task in self.arrays.tasks if task.source != "events")

    def pool(self, *, every_text: bool) -> IntArray:
        """Return the corpus rows that carry a TRAIN label; `every_text` asks for all that may be read in training.

        The latter are the items that are not of the TEST fold, and the TRAIN texts: whatever a text task is tested on,
        and every strict cold item, is a text that no student has seen.
        """
        if every_text:
            items = (self.arrays.item_fold != Fold.TEST) & ~self.arrays.cold
            return np.flatnonzero(np.concatenate([items, self.arrays.text_fold == Fold.TRAIN]))
        rows = len(self.arrays.item_ids) + len(self.arrays.texts)
        labelled = np.zeros(rows, bool)
        for task in self.tasks:
            labelled |= np.array([(row >= 0).any() for row in self.of(task, np.arange(rows))], bool)
        return np.flatnonzero(labelled)

    def of(self, task: TaskSpec, rows: IntArray) -> list[IntArray]:
        """Return each row's label in an array of one (multiclass, -1 missing) or of each word (token, empty)."""
        labels, first, train = self._table(task)
        none = np.full(0 if task.kind is Kind.TOKEN else 1, -1, np.int64)
        return [
            np.atleast_1d(labels[row - first]).astype(np.int64)
            if 0 <= row - first < len(train) and train[row - first]
            else none
            for row in rows
        ]

    def _table(
        self, task: TaskSpec
    ) -> tuple[npt.NDArray[np.float32 | np.int64] | list[IntArray], int, npt.NDArray[np.bool_]]:
        """Return the task's labels, the corpus row of the first, and which are TRAIN."""
        if task.source == "items":
            return self.arrays.labels(task.name), 0, self.arrays.item_fold == Fold.TRAIN
        return self.arrays.labels(task.name), len(self.arrays.item_ids), self.arrays.text_fold == Fold.TRAIN

    def counts(self, rows: IntArray) -> dict[str, float]:
        """Return task -> labels (words, for a token task) of these rows."""
        return {task.name: float(sum(int((row >= 0).sum()) for row in self.of(task, rows))) for task in self.tasks}
