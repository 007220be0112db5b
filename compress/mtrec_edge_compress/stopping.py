"""Which tasks have stopped getting better on validation. Knows nothing of what is done with them: see training.py."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mtrec_edge_compress.evaluate import ERRORS


@dataclass
class TaskProgress:
    """How far each task has come."""

    best: dict[str, float] = field(default_factory=dict)  # the headline at its best, an error with its sign turned
    stale: dict[str, int] = field(default_factory=dict)  # epochs since
    stopped: list[str] = field(default_factory=list)  # in the order they stopped

    def note(self, metrics: Mapping[str, float], tasks: Collection[str], patience: int) -> None:
        """Take in an epoch's metrics, named `task metric`; a task stops after `patience` epochs without a gain."""
        for key, value in metrics.items():
            task, _, metric = key.partition(" ")
            if task not in tasks or task in self.stopped:
                continue
            gain = -value if metric in ERRORS else value
            if gain > self.best.get(task, float("-inf")):
                self.best[task], self.stale[task] = gain, 0
            else:
                self.stale[task] = self.stale.get(task, 0) + 1
            if self.stale[task] >= patience:
                self.stopped.append(task)

    @property
    def all_stopped(self) -> bool:
        """Return whether there are tasks and none still learns."""
        return bool(self.best) and set(self.best) == set(self.stopped)
