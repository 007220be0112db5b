"""Judge the tasks that score (user, item) pairs, one user at a time over the whole domain.

Reads a Scorer and Arrays, returns one `Judgement` a task. The protocol is docs/evaluation.md. Knows nothing of texts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrec_edge_compress.bootstrap import mean_draws
from mtrec_edge_compress.cores import on_every_core
from mtrec_edge_compress.data.arrays import Arrays, History, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.judgement import Judgement, Scorer, Scores, measured
from mtrec_edge_runtime import metrics
from mtrec_edge_runtime.errors import InputError
from mtrec_edge_runtime.tasks import Kind, order_name

Bools = npt.NDArray[np.bool_]
K = 10  # length of a recommended list
HEAD = 0.2  # share of the warm items that are called the head, the most popular ones


@dataclass(frozen=True)
class _Domain:
    """One domain of the dataset, items counted from its first row."""

    arrays: Arrays
    name: str
    fold: Fold

    @property
    def rows(self) -> slice:
        return self.arrays.domains[self.name]

    @property
    def cold(self) -> Bools:
        """Return which items are strict cold, (items,)."""
        cold: Bools = self.arrays.cold[self.rows]
        return cold

    def popularity(self) -> IntArray:
        """Return each item's TRAIN events, (items,)."""
        train = self.arrays.event_item[self.arrays.event_fold == Fold.TRAIN]
        counts: IntArray = np.bincount(train, minlength=len(self.arrays.item_ids))[self.rows]
        return counts

    def pool(self, history: History) -> IntArray:
        """Return the items to rank: not cold, not in the history."""
        candidate = ~self.cold
        candidate[self.local(history.items)] = False
        return np.flatnonzero(candidate)

    def fold_events(self, user: int) -> IntArray:
        """Return the user's events of the fold, in any domain."""
        events = np.arange(self.arrays.user_start[user], self.arrays.user_start[user + 1])
        chosen: IntArray = events[self.arrays.event_fold[events] == self.fold]
        return chosen

    def local(self, catalogue_rows: IntArray) -> IntArray:
        """Return those catalogue rows that lie in the domain, counted from its first."""
        inside = (catalogue_rows >= self.rows.start) & (catalogue_rows < self.rows.stop)
        local: IntArray = catalogue_rows[inside] - self.rows.start
        return local


@dataclass(frozen=True)
class _Visit:
    """One user's turn at one task."""

    user: int  # position among the evaluated users
    scores: Scores  # (items,)
    order: Scores  # (items,) what the catalogue is ordered by
    items: IntArray  # items of the fold's events that carry the label
    labels: Scores  # their labels
    pool: IntArray  # items that may be ranked: not cold, not in the user's history


def domain_users(arrays: Arrays, domain: str, fold: Fold, *, users_per_domain: int | None, seed: int) -> IntArray:
    """Return the users with an event of this fold in the domain, ascending; a seeded sample when there are more.

    The sample depends on data, domain, fold and seed alone, so two systems are judged on the same users.
    """
    rows = arrays.domains[domain]
    inside = (arrays.event_item >= rows.start) & (arrays.event_item < rows.stop)
    users: IntArray = np.unique(arrays.event_user[inside & (arrays.event_fold == fold)])
    if users_per_domain is None or len(users) <= users_per_domain:
        return users
    random = np.random.default_rng([seed, sorted(arrays.domains).index(domain), int(fold)])
    return np.sort(random.choice(users, users_per_domain, replace=False))


def judge_pairs(
    scorer: Scorer,
    arrays: Arrays,
    *,
    domain: str,
    tasks: Sequence[TaskSpec],
    users: IntArray,
    fold: Fold,
    calibrated: bool,
    drawn: bool,
) -> dict[str, Judgement]:
    """Return task -> judgement over these users of one domain. Several threads call `pair_scores`, once a user."""
    place = _Domain(arrays, domain, fold)
    labelled = {task.name: _Labelled() for task in tasks}
    ranked = {t.name: _Ranked(len(users), place.popularity(), place.cold) for t in tasks if t.negatives}
    histories = [arrays.history(user, fold) for user in users.tolist()]
    scored = on_every_core(lambda history: scorer.pair_scores(history, domain), histories)
    for number, (user, history, scores) in enumerate(zip(users.tolist(), histories, scored, strict=True)):
        pool = place.pool(history)
        events = place.fold_events(user)
        for task in tasks:
            visit = _visit(place, task, number, scores, events, pool)
            labelled[task.name].add(visit)
            if task.negatives:
                ranked[task.name].add(visit)
    judge = _LabelJudge(place, len(users), calibrated, drawn)
    return {
        task.name: judge.judge(labelled[task.name], task).joined(
            ranked[task.name].judgement(drawn=drawn) if task.negatives else Judgement()
        )
        for task in tasks
    }


def _visit(
    place: _Domain, task: TaskSpec, user: int, scores: Mapping[str, Scores], events: IntArray, pool: IntArray
) -> _Visit:
    """Pick the task's scores and the labels of those events that carry one."""
    label = np.asarray(place.arrays.labels(task.name))[events]
    kept = ~np.isnan(label)
    items = place.local(place.arrays.event_item[events[kept]])
    own = _scores_of(scores, task.name, len(place.cold))
    order = _scores_of(scores, order_name(task.name, scores), len(place.cold))
    if task.kind is Kind.REGRESSION:
        own = np.clip(own, task.low, task.high)
    return _Visit(user, own, order, items, label[kept], pool)


def _scores_of(scores: Mapping[str, Scores], name: str, items: int) -> Scores:
    if name not in scores:
        raise InputError(
            f"task {name}: the scorer returned only {', '.join(scores) or 'nothing'}; name its tasks in `tasks`"
        )
    own = scores[name]
    if own.shape != (items,):
        raise InputError(f"task {name}: expected scores of shape ({items},), got {own.shape}")
    return own


class _Ranked:
    """Collect one ranked task's values, user by user."""

    def __init__(self, users: int, popularity: IntArray, cold: Bools) -> None:
        names = (f"ndcg@{K}", f"recall@{K}", "mrr", f"cold_ndcg@{K}", f"cold_recall@{K}", "cold_mrr", "cold_auc")
        self.per_user = {name: np.full(users, np.nan) for name in names}
        self.popularity = popularity
        self.kinds = _item_kinds(popularity, cold)
        self.by_kind = {f"recall@{K} {kind}": np.full(users, np.nan) for kind in self.kinds}
        self.cold = np.flatnonzero(cold)
        self.lists: list[IntArray] = []
        self.relevant = 0
        self.cold_relevant = 0

    def add(self, visit: _Visit) -> None:
        """Rank the warm pool, then the cold items among themselves."""
        positive = np.zeros(len(self.popularity), bool)
        positive[visit.items[visit.labels > 0.5]] = True
        pool_scores = visit.order[visit.pool]
        relevant = np.flatnonzero(positive[visit.pool])
        if len(relevant):
            ranks = metrics.average_ranks(pool_scores, relevant)
            self._set(visit.user, {f"ndcg@{K}": metrics.ndcg(ranks, K), f"recall@{K}": metrics.recall(ranks, K)})
            self._set(visit.user, {"mrr": metrics.mrr(ranks)})
            for kind, inside in self.kinds.items():
                if len(own := ranks[inside[visit.pool[relevant]]]):
                    self.by_kind[f"recall@{K} {kind}"][visit.user] = metrics.recall(own, K)
            self.lists.append(visit.pool[metrics.top_items(pool_scores, K)])
            self.relevant += len(relevant)
        relevant = np.flatnonzero(positive[self.cold])
        if len(relevant):
            ranks = metrics.average_ranks(visit.order[self.cold], relevant)
            cold_auc = metrics.rank_auc(ranks, len(self.cold))
            self._set(visit.user, {f"cold_ndcg@{K}": metrics.ndcg(ranks, K), "cold_auc": cold_auc})
            self._set(visit.user, {f"cold_recall@{K}": metrics.recall(ranks, K), "cold_mrr": metrics.mrr(ranks)})
            self.cold_relevant += len(relevant)

    def _set(self, user: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.per_user[name][user] = value

    def judgement(self, *, drawn: bool) -> Judgement:
        """Return the means over users who have something relevant."""
        known = {name: values for name, values in self.per_user.items() if not np.isnan(values).all()}
        means = {name: float(np.nanmean(values)) for name, values in known.items()}
        warm_items = len(self.popularity) - len(self.cold)
        if self.lists:
            means[f"coverage@{K}"] = metrics.coverage(self.lists, warm_items)
        if self.lists and self.popularity.any():
            means["popularity_bias"] = metrics.popularity_bias(self.lists, self.popularity)
        cold_users = int(np.sum(~np.isnan(self.per_user["cold_auc"])))
        counts = {"users": len(self.lists), "relevant": self.relevant, "items": warm_items}
        counts |= {"cold_users": cold_users, "cold_relevant": self.cold_relevant}
        chance = {name: 0.5 if name == "cold_auc" else 0.0 for name in known}
        draws = {name: mean_draws(values) for name, values in known.items()} if drawn else {}
        return Judgement(means, counts, chance, known | self.by_kind, draws=draws)


def _item_kinds(popularity: IntArray, cold: Bools) -> dict[str, Bools]:
    """Return kinds of warm items, (items,) each: by their number of TRAIN events, and the head and the tail."""
    order = np.argsort(-np.where(cold, -1, popularity), kind="stable")
    head = np.zeros(len(popularity), bool)
    head[order[: round(HEAD * int((~cold).sum()))]] = True
    return {
        "0 events": ~cold & (popularity == 0),
        "1-5 events": ~cold & (popularity > 0) & (popularity <= 5),
        ">5 events": ~cold & (popularity > 5),
        "head": ~cold & head,
        "tail": ~cold & ~head,
    }


class _Labelled:
    """Collect scores and labels of a fold's events."""

    def __init__(self) -> None:
        self.parts: list[tuple[Scores, Scores, IntArray, IntArray]] = []

    def add(self, visit: _Visit) -> None:
        """Keep score, label, item and user of the user's events."""
        user = np.full(len(visit.items), visit.user)
        self.parts.append((visit.scores[visit.items], visit.labels, visit.items, user))

    def columns(self, among: Bools) -> tuple[Scores, Scores, IntArray]:
        """Return scores, labels and users of the events on these items, `among` being (items,)."""
        if not self.parts:
            return np.zeros(0), np.zeros(0), np.zeros(0, np.int64)
        scores, labels, items, users = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        kept = among[items]
        return scores[kept], labels[kept], users[kept]


@dataclass(frozen=True)
class _LabelJudge:
    """Judges the events that carry an explicit label."""

    place: _Domain
    users: int
    calibrated: bool
    drawn: bool

    def judge(self, labelled: _Labelled, task: TaskSpec) -> Judgement:
        """Return what the task's scores are worth on warm items, an amount's on cold items too."""
        warm = labelled.columns(~self.place.cold)
        if task.kind is Kind.REGRESSION:
            cold = self._amounts(labelled.columns(self.place.cold), task, prefix="cold_")
            return self._amounts(warm, task, prefix="").joined(cold)
        return self._labels(*warm)

    def _labels(self, scores: Scores, labels: Scores, user: IntArray) -> Judgement:
        if len(np.unique(labels)) < 2:
            return Judgement()
        measures: dict[str, Callable[[IntArray], float]] = {
            "auc": lambda rows: metrics.auc(scores[rows], labels[rows]),
            "gauc": lambda rows: metrics.gauc(scores[rows], labels[rows], user[rows]),
        }
        bins: tuple[Scores, ...] = ()
        if self.calibrated:
            chances = metrics.sigmoid(scores)
            measures["log_loss"] = lambda rows: metrics.log_loss(scores[rows], labels[rows])
            measures["ece"] = lambda rows: metrics.ece(chances[rows], labels[rows])
            bins = metrics.reliability(chances, labels)
        spread = np.full(self.users, np.nan)
        spread[np.unique(user)] = metrics.user_auc(scores, labels, user)[0]
        chance = {"auc": 0.5, "gauc": 0.5}
        found = Judgement({}, {"events": len(labels)}, chance, {"user_auc": spread}, bins)
        return measured(measures, user, drawn=self.drawn).joined(found)

    def _amounts(self, columns: tuple[Scores, Scores, IntArray], task: TaskSpec, *, prefix: str) -> Judgement:
        """Judge predicted amounts; chance is the mean of the TRAIN labels, whatever the user or item."""
        scores, labels, user = columns
        if len(labels) == 0:
            return Judgement()
        every = np.asarray(self.place.arrays.labels(task.name))
        train = every[(self.place.arrays.event_fold == Fold.TRAIN) & ~np.isnan(every)]
        constant = np.full(len(labels), train.mean() if len(train) else 0.0)
        measures: dict[str, Callable[[IntArray], float]] = {
            f"{prefix}rmse": lambda rows: metrics.rmse(scores[rows], labels[rows]),
            f"{prefix}mae": lambda rows: metrics.mae(scores[rows], labels[rows]),
        }
        unknowing = metrics.rmse(constant, labels)
        chance = {f"{prefix}rmse": unknowing, f"{prefix}mae": metrics.mae(constant, labels)}
        count = np.bincount(user, minlength=self.users)
        squared = np.bincount(user, (np.asarray(scores, np.float64) - labels) ** 2, self.users)
        spread = np.full(self.users, np.nan)
        np.divide(squared, count, out=spread, where=count > 0)
        constants, counts = {f"{prefix}rmse_constant": unknowing}, {f"{prefix}events": len(labels)}
        found = Judgement(constants, counts, chance, {f"{prefix}mse": spread})
        return measured(measures, user, drawn=self.drawn).joined(found)
