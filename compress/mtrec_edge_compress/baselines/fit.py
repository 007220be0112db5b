"""Fit every baseline of one domain, each with the same number of trials on the validation fold.

Reads Arrays, returns name -> Baseline. Training reads TRAIN rows alone; a choice is made by the task's headline metric
(gauc, where a class is told by an amount) on VALIDATION, over at most `TUNING_USERS` users.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mtrec_edge_compress.baselines.baseline import Baseline, PairModel, on_validation
from mtrec_edge_compress.baselines.factors import available, fit_bpr, fit_ials, fit_text_factors
from mtrec_edge_compress.baselines.item_to_item import (
    EASE_TUNING_ITEMS,
    Popularity,
    Profile,
    ease_items,
    fit_ease,
    fit_recent_popularity,
    item_neighbours,
    text_neighbours,
)
from mtrec_edge_compress.baselines.ratings import Bias, TextRidge, fit_bias, fit_biased_factors, fit_item_mean
from mtrec_edge_compress.baselines.signals import Signals, Sparse
from mtrec_edge_compress.baselines.words import fit_logistic_text, fit_usual_tag, tfidf
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_runtime.errors import DataError
from mtrec_edge_runtime.tasks import Kind

TRIALS = 4  # settings tried for each tuned baseline and task
TUNING_USERS = 600  # validation users a trial is judged on
KNN_SHRINKS, KNN_SIZES = (0.0, 20.0), (100, 300)
EASE_TRIALS = (10.0, 50.0, 200.0, 600.0)  # penalty
TEXT_KNN_TRIALS = (50, 200, 500)  # k; the fourth trial is the profile of all liked items
IALS_TRIALS = ((0.01, 1.0), (0.01, 10.0), (1.0, 10.0), (10.0, 10.0))  # regularization, weight of a positive
BPR_TRIALS = ((0.001, 0.05), (0.01, 0.05), (0.01, 0.01), (0.1, 0.05))  # regularization, learning rate
TEXT_FACTOR_PENALTY = 1.0  # cold items have no event in VALIDATION to choose it on
BIAS_TRIALS = ((1.0, 1.0), (2.0, 2.0), (5.0, 5.0), (15.0, 5.0))  # item shrink, user shrink
FACTOR_TRIALS = (3.0, 6.0, 12.0, 24.0)  # penalty of biased factors
RECENT_TRIALS = (0.01, 0.05, 0.2, 0.5)  # half-life, as a share of the training time
RIDGE_TRIALS = (0.1, 0.3, 1.0, 3.0)  # penalty
LOGISTIC_TRIALS = ((1.0, False), (10.0, False), (1.0, True), (10.0, True))  # inverse penalty, balanced classes

Trials = Sequence[tuple[str, Callable[[], Any]]]  # what is tried, in words -> how to fit it


def fit_baselines(arrays: Arrays, *, domain: str, seed: int, progress: Callable[[str], None]) -> dict[str, Baseline]:
    """Return popularity, tf-idf, item-knn, ease, ials ...: those that can serve a task of the domain.

    `seed` picks the tuning users; `progress` is told each choice in a line. Raise DataError for a domain without tasks.
    """
    tasks = [task for task in arrays.tasks if task.domain == domain]
    if not tasks:
        known = ", ".join(sorted({task.domain for task in arrays.tasks}))
        raise DataError(f"baselines for {domain!r}: the dataset has no task there; it has {known}")
    fit = _Fit(arrays, domain, seed, progress)
    for task in tasks:
        if task.kind is Kind.MULTICLASS:
            fit.classes(task)
        elif task.kind is Kind.TOKEN:
            fit.words(task)
        elif task.negatives:
            fit.ranked(task)
        else:
            fit.labelled(task)
    return fit.baselines()


class _Fit:
    """Collect models by system and task."""

    def __init__(self, arrays: Arrays, domain: str, seed: int, progress: Callable[[str], None]) -> None:
        self.arrays, self.domain, self.seed, self.progress = arrays, domain, seed, progress
        self.pairs: dict[str, dict[str, PairModel]] = {}
        self.class_models: dict[str, Any] = {}
        self.tag_models: dict[str, Any] = {}
        self.settings: dict[str, dict[str, str]] = {}
        rows = arrays.domains.get(domain, slice(0, 0))
        texts = arrays.item_texts[rows]
        self.features: Sparse = tfidf(texts)[1].tocsr() if any(text.strip() for text in texts) else None

    def ranked(self, task: TaskSpec) -> None:
        """Fit what orders the catalogue, and what tells the two classes apart where both are labelled."""
        signals = Signals(self.arrays, task)
        self._keep("popularity", task, Popularity(signals), "")
        if signals.positives.nnz == 0:
            return
        self._recent_popularity(task, signals)
        self._text_neighbours(task, signals)
        self._item_neighbours(task, signals)
        self._ease(task, signals)
        self._factors(task, signals)
        if len(np.unique(signals.labelled[2])) == 2:
            self._amounts(task)

    def labelled(self, task: TaskSpec) -> None:
        """Fit what predicts an amount or an explicit label."""
        signals = Signals(self.arrays, task)
        if len(signals.labelled[2]) == 0:
            return
        self._keep("popularity", task, fit_item_mean(signals), "item mean")
        bias = self._bias(task, signals, task.headline)
        factors = [
            (f"penalty={p:g}", partial(fit_biased_factors, bias, penalty=p, seed=self.seed)) for p in FACTOR_TRIALS
        ]
        self._tune("biased-mf", task, factors)
        self._text_ridge(task, bias, task.headline)

    def classes(self, task: TaskSpec) -> None:
        """Fit TF-IDF + logistic regression."""
        trials = [
            (
                f"C={c:g}{' balanced' if b else ''}",
                partial(fit_logistic_text, self.arrays, task, inverse_penalty=c, balanced=b),
            )
            for c, b in LOGISTIC_TRIALS
        ]
        best, setting = self._best(task, trials, lambda model: Baseline("", self.domain, classes={task.name: model}))
        if best is not None:
            self.class_models[task.name] = best
            self._note("tf-idf", task, setting)

    def words(self, task: TaskSpec) -> None:
        """Fit the usual tag of a word."""
        self.tag_models[task.name] = fit_usual_tag(self.arrays, task)
        self._note("usual-tag", task, "")

    def baselines(self) -> dict[str, Baseline]:
        """Return what was collected."""
        return {
            name: Baseline(
                name,
                self.domain,
                self.pairs.get(name, {}),
                self.class_models if name == "tf-idf" else {},
                self.tag_models if name == "usual-tag" else {},
                settings,
            )
            for name, settings in self.settings.items()
        }

    def _recent_popularity(self, task: TaskSpec, signals: Signals) -> None:
        name = "popularity-recent"
        trials = [(f"half-life={h:g}", partial(fit_recent_popularity, signals, half_life=h)) for h in RECENT_TRIALS]
        best, setting = self._best(task, trials, lambda model: Baseline(name, self.domain, {task.name: model}))
        if best is not None:
            self._keep(name, task, best, setting)

    def _text_neighbours(self, task: TaskSpec, signals: Signals) -> None:
        if self.features is None:
            return
        near = text_neighbours(signals, self.features, most=max(TEXT_KNN_TRIALS))
        trials: Trials = [(f"k={k}", partial(near.nearest, k)) for k in TEXT_KNN_TRIALS]
        self._tune("tf-idf", task, [*trials, ("profile", partial(Profile, signals, self.features))])

    def _item_neighbours(self, task: TaskSpec, signals: Signals) -> None:
        trials: list[tuple[str, Callable[[], Any]]] = []
        for shrink in KNN_SHRINKS:
            near = item_neighbours(signals, most=max(KNN_SIZES), shrink=shrink)
            trials += [(f"k={k} shrink={shrink:g}", partial(near.nearest, k)) for k in KNN_SIZES]
        self._tune("item-knn", task, trials)

    def _ease(self, task: TaskSpec, signals: Signals) -> None:
        """Choose the penalty on the most popular items, then fit once on all that EASE may take."""
        kept = len(ease_items(signals.popularity))
        if kept == 0:
            return
        trials = [
            (f"{penalty:g}", partial(fit_ease, signals, penalty=penalty, most=EASE_TUNING_ITEMS))
            for penalty in EASE_TRIALS
        ]
        model, penalty = self._best(task, trials, lambda model: Baseline("ease", self.domain, {task.name: model}))
        if kept > EASE_TUNING_ITEMS:
            model = fit_ease(signals, penalty=float(penalty))
        setting = f"lambda={penalty} on {kept} of {signals.items} items"
        self._keep("ease", task, model, setting)
        self._keep("ease-recent", task, replace(model, recent=True), setting)

    def _factors(self, task: TaskSpec, signals: Signals) -> None:
        if not available():
            self.progress(f"{task.name}: ials, bpr, text-factors left out; pip install 'mtrec-edge[baselines]'")
            return
        trials: list[tuple[str, Callable[[], Any]]] = [
            (f"regularization={r:g} alpha={a:g}", partial(fit_ials, signals, regularization=r, alpha=a, seed=self.seed))
            for r, a in IALS_TRIALS
        ]
        ials = self._tune("ials", task, trials)
        trials = [
            (f"regularization={r:g} rate={v:g}", partial(fit_bpr, signals, regularization=r, rate=v, seed=self.seed))
            for r, v in BPR_TRIALS
        ]
        self._tune("bpr", task, trials)
        if self.features is not None:
            setting = f"ridge={TEXT_FACTOR_PENALTY:g} on the factors of ials"
            self._keep(
                "text-factors", task, fit_text_factors(ials, self.features, penalty=TEXT_FACTOR_PENALTY), setting
            )

    def _amounts(self, task: TaskSpec) -> None:
        """Tell the classes apart by a predicted amount, of the regression task of the same events where there is one.

        What is chosen by is the order within each user, which such models are made for; they order no catalogue well.
        """
        alike = (t for t in self.arrays.tasks if (t.domain, t.behaviours) == (task.domain, task.behaviours))
        signals = Signals(self.arrays, next((t for t in alike if t.kind is Kind.REGRESSION), task))
        self._text_ridge(task, self._bias(task, signals, "gauc"), "gauc")

    def _bias(self, task: TaskSpec, signals: Signals, metric: str) -> Any:
        trials = [
            (f"item={i:g} user={u:g}", partial(fit_bias, signals, item_shrink=i, user_shrink=u)) for i, u in BIAS_TRIALS
        ]
        return self._tune("bias", task, trials, metric)

    def _text_ridge(self, task: TaskSpec, bias: Bias, metric: str) -> None:
        if self.features is not None:
            ridge = [(f"bias + ridge={p:g}", partial(TextRidge, bias, self.features, p)) for p in RIDGE_TRIALS]
            self._tune("text-ridge", task, ridge, metric)

    def _tune(self, system: str, task: TaskSpec, trials: Trials, metric: str = "") -> Any:
        """Keep the best by a metric on validation, the headline unless another is named."""
        best, setting = self._best(
            task, trials, lambda model: Baseline(system, self.domain, {task.name: model}), metric
        )
        self._keep(system, task, best, setting)
        return best

    def _keep(self, system: str, task: TaskSpec, model: PairModel, setting: str) -> None:
        self.pairs.setdefault(system, {})[task.name] = model
        self._note(system, task, setting)

    def _note(self, system: str, task: TaskSpec, setting: str) -> None:
        self.settings.setdefault(system, {})[task.name] = setting
        self.progress(f"{task.name}: {system} {setting}".rstrip())

    def _best(
        self, task: TaskSpec, trials: Trials, system: Callable[[Any], Baseline], metric: str = ""
    ) -> tuple[Any, str]:
        """Return the model with the best metric on validation, and its setting in words."""
        best, chosen, reached = None, "", -np.inf
        for setting, fit in trials:
            model = fit()
            if model is None:
                continue
            value = self._validation(task, system(model), metric or task.headline)
            if best is None or value > reached:
                best, chosen, reached = model, setting, value
        return best, chosen

    def _validation(self, task: TaskSpec, system: Baseline, metric: str) -> float:
        """Return the metric on validation, larger being better; -inf when it cannot be measured."""
        found = on_validation(system, self.arrays, task.name, users=TUNING_USERS, seed=self.seed)
        value = found.get(metric, np.nan)
        if np.isnan(value):
            return -np.inf
        return -value if task.kind is Kind.REGRESSION else value
