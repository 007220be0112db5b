"""A scorer that knows the synthetic world's truth: what `evaluate` gives it is the best a model can reach there.

It tells a user by the items of the history it is given. Knows nothing of models.
"""

from dataclasses import dataclass, field

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays, History
from mtrec_edge_compress.data.balance import IntArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.data.synthetic import FloatArray, Truth
from mtrec_edge_runtime.errors import InputError

CERTAIN = 10.0  # logit of the label that is true


@dataclass(frozen=True)
class Oracle:
    """Score pairs, classes and tags by the truth of the world that the arrays come from."""

    truth: Truth
    arrays: Arrays
    fold: Fold = Fold.TEST
    _users: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        """Remember whose history is whose."""
        users = range(len(self.arrays.user_ids))
        histories = {self.arrays.history(user, self.fold).items.tobytes(): user for user in users}
        object.__setattr__(self, "_users", histories)

    def pair_scores(self, history: History, domain: str) -> dict[str, FloatArray]:
        """Return task -> the true scores of the user with that history for every item of the domain, (items,)."""
        key = history.items.tobytes()
        if key not in self._users:
            raise InputError("no user of the world has this history: give one of Arrays.history(user, fold)")
        user = self.truth.users[domain].index(self.arrays.user_ids[self._users[key]])
        place = {item: column for column, item in enumerate(self.truth.items[domain])}
        columns = [place[item] for item in self.arrays.item_ids[self.arrays.domains[domain]]]
        tasks = [task for task in self.truth.pairs if task.startswith(f"{domain}.")]
        return {task: self.truth.pairs[task][user, columns] for task in tasks}

    def class_logits(self, task: str, rows: IntArray) -> FloatArray:
        """Return logits that name each item's label before noise, (rows, labels)."""
        spec = self.arrays.task(task)
        label = dict(zip(self.truth.items[spec.domain], self.truth.classes[task], strict=True))
        logits = np.zeros((len(rows), len(spec.labels)))
        for number, row in enumerate(rows):
            logits[number, spec.labels.index(label[self.arrays.item_ids[row]])] = CERTAIN
        return logits

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Return the label of each word of the texts."""
        ids = self.arrays.dataset.texts["text_id"]
        return [list(self.truth.tags[ids[int(row)]]) for row in rows]
