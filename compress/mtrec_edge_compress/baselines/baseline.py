"""A baseline as a Scorer: one small model a task. Knows nothing of how they are fitted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mtrec_edge_compress.data.arrays import Arrays, History, IntArray
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.evaluate import evaluate
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_runtime.errors import InputError


class PairModel(Protocol):
    """Scores one user's whole domain for one task."""

    def scores(self, history: History) -> Scores:
        """Return (items of the domain,)."""
        ...


class ClassModel(Protocol):
    """Judges texts for one multiclass task."""

    def logits(self, rows: IntArray) -> Scores:
        """Return (rows, labels)."""
        ...


class TagModel(Protocol):
    """Labels words for one token task."""

    def tags(self, rows: IntArray) -> list[list[str]]:
        """Return one label a word."""
        ...


@dataclass(frozen=True)
class Baseline:
    """One named system over one domain. Its binary scores order items; they are no logits."""

    name: str
    domain: str
    pairs: Mapping[str, PairModel] = field(default_factory=dict)
    classes: Mapping[str, ClassModel] = field(default_factory=dict)
    words: Mapping[str, TagModel] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)  # task -> what validation chose, and what was restricted

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks it serves."""
        return (*self.pairs, *self.classes, *self.words)

    def pair_scores(self, history: History, domain: str) -> dict[str, Scores]:
        """Return task -> (items of the domain,). Raise InputError for another domain."""
        if domain != self.domain:
            raise InputError(f"baseline {self.name} was fitted on {self.domain}, not {domain}; fit one for {domain}")
        return {task: model.scores(history) for task, model in self.pairs.items()}

    def class_logits(self, task: str, rows: IntArray) -> Scores:
        """Return (rows, labels) of a multiclass task."""
        if task not in self.classes:
            raise InputError(f"baseline {self.name} does not classify {task}; it serves {', '.join(self.tasks)}")
        return self.classes[task].logits(rows)

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Return one label a word of a token task."""
        if task not in self.words:
            raise InputError(f"baseline {self.name} does not tag {task}; it serves {', '.join(self.tasks)}")
        return self.words[task].tags(rows)


def on_validation(system: Baseline, arrays: Arrays, task: str, *, users: int, seed: int) -> dict[str, float]:
    """Return a task's metrics on the VALIDATION fold, over at most `users` users: what settings are chosen by."""
    found = evaluate(
        system,
        arrays,
        fold=Fold.VALIDATION,
        users_per_domain=users,
        seed=seed,
        tasks=[task],
        calibrated=False,
    )
    return found.tasks[task]
