"""A bundle as a Scorer, through the device runtime, so that what is measured is what ships. Knows nothing of torch."""

from pathlib import Path

import numpy as np

from mtrec_edge_compress.data.arrays import Arrays, History, IntArray
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.judgement import Scores
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.history import Event
from mtrec_edge_runtime.manifest import Profile
from mtrec_edge_runtime.neighbours import no_neighbours
from mtrec_edge_runtime.recommender import Recommender
from mtrec_edge_runtime.tasks import ORDER, Kind

SMALLEST = 1e-15  # probabilities are kept this far from 0 and 1 before they become logits


class BundleScorer:
    """A bundle as a Scorer."""

    def __init__(
        self, path: str | Path, arrays: Arrays, *, profile: Profile = "fast", threads: int = 1, links: bool = True
    ) -> None:
        """Open the bundle; without `links` it is asked as if users had done nothing together.

        Raise InputError when it was made of another split or another catalogue than `arrays`.
        """
        self.arrays = arrays
        self.recommender = Recommender(path, profile=profile, threads=threads)
        manifest = self.recommender.manifest
        made_of, given = manifest.data.get("split_hash", ""), arrays.dataset.split_hash
        if made_of != given:
            raise InputError(
                f"bundle {path} was made of split {made_of or 'unknown'}, the dataset has split {given or 'unknown'}: "
                "its test events may have been trained on; evaluate on the dataset the bundle was made of"
            )
        for domain, rows in arrays.domains.items():
            if domain in manifest.domains and tuple(self.recommender.catalogue.ids(domain)) != arrays.item_ids[rows]:
                raise InputError(
                    f"bundle {path}: its catalogue of {domain} is not the dataset's; make the bundle again"
                )

        if not links:
            self.recommender.catalogue.neighbours = no_neighbours(len(self.recommender.catalogue))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the dataset's tasks that the bundle serves."""
        return tuple(task.name for task in self.arrays.tasks if task.name in self.recommender.tasks)

    def pair_scores(self, history: History, domain: str) -> dict[str, Scores]:
        """Return task -> (items of the domain,): regression in units, binary as logit.

        A user without a history gets the order of the catalogue's priors where the bundle knows no such user.
        """
        tasks = [task for task in self.arrays.tasks if task.source == "events" and task.domain == domain]
        tasks = [task for task in tasks if task.name in self.recommender.tasks]
        if len(history.items) == 0 and not self.recommender.manifest.input.no_history:
            return {task.name: self._priors(task) for task in tasks}
        events = self._events(history)
        scores = self.recommender.score(events, domain=domain, tasks=[task.name for task in tasks])
        orders = {task.name + ORDER: self.recommender.order(events, task=task.name) for task in tasks if task.negatives}
        return orders | {
            task.name: _logit(scores[task.name]) if task.kind is Kind.BINARY else scores[task.name] for task in tasks
        }

    def class_logits(self, task: str, rows: IntArray) -> Scores:
        """Return (rows, labels) log probabilities; a text with nothing to read gets the same for every label."""
        spec = self.arrays.task(task)
        texts = self.arrays.item_texts if spec.source == "items" else self.arrays.texts
        result = np.zeros((len(rows), len(spec.labels)))
        for number, row in enumerate(rows.tolist()):
            if self.recommender.encoder.tokenizer.tokenize(texts[row]):
                found = self.recommender.classify(texts[row], task=task)
                result[number] = np.log(np.maximum([found.get(label, 0.0) for label in spec.labels], SMALLEST))
        return result

    def tags(self, task: str, rows: IntArray) -> list[list[str]]:
        """Return one label a word."""
        words = (self.arrays.text_tokens[row] for row in rows.tolist())
        return [[tagged.label for tagged in self.recommender.tag(" ".join(own), task=task)] for own in words]

    def _events(self, history: History) -> list[Event]:
        """Return the latest `max_history` events as an app would log them, oldest first."""
        kept = slice(0, self.recommender.manifest.input.max_history)
        events = []
        for item, number, value in zip(
            history.items[kept].tolist(), history.behaviours[kept].tolist(), history.values[kept].tolist(), strict=True
        ):
            behaviour = self.arrays.behaviours[number]
            known = None if np.isnan(value) else value
            events.append(
                Event(item=self.arrays.item_ids[item], domain=behaviour.domain, behaviour=behaviour.name, value=known)
            )
        return events[::-1]

    def _priors(self, task: TaskSpec) -> Scores:
        """Return popularity, or the task's mean value and the item's difference from it."""
        priors: Scores = self.arrays.priors[self.arrays.domains[task.domain]].astype(np.float64)
        popularity, mean_value = priors[:, 0], priors[:, 1]
        if task.kind is Kind.BINARY:
            return popularity
        own = next(b for b in self.arrays.behaviours if b.domain == task.domain and b.name in task.behaviours)
        amounts: Scores = own.mean + own.scale * mean_value
        return amounts


def _logit(probability: Scores) -> Scores:
    p = np.clip(probability, SMALLEST, 1.0 - SMALLEST)
    logits: Scores = np.log(p) - np.log1p(-p)
    return logits
