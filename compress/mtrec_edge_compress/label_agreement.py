"""How far do two encoders label alike? Each text task, from what both encoded; knows nothing of limits.

A metric of a test fold is coarse: one film, of a class of nine, moves the macro F1 of ten classes by three per cent. So
the share of labels that stay is taken over every text, and the metric's loss comes with what chance leaves of it.
"""

import numpy as np

from mtrec_edge_compress.bootstrap import interval, metric_draws
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.encoding import Encoded
from mtrec_edge_runtime import metrics
from mtrec_edge_runtime.recommender import OUTSIDE
from mtrec_edge_runtime.tasks import Kind

CUT = -1  # in place of a word's label
Counts = tuple[IntArray, IntArray]  # of each text: spans found rightly, spans in truth and prediction together


def label_agreement(
    reference: Encoded, other: Encoded, arrays: Arrays, fold: Fold = Fold.TEST
) -> dict[str, dict[str, float]]:
    """Return each text task's figures; {} for a task whose domain has no text.

    `label_agreement` is the share of labels (of words, for a token task) that are the same, over every text of the
    task's domain; those of the TEST fold are left out where another `fold` is judged. `loss_low` is the lower 95 %
    bound of the headline metric's relative loss when the texts of `fold` are drawn anew; absent where the metric cannot
    be measured.
    """
    found = {}
    for task in arrays.tasks:
        rows = _texts_of(arrays, task, with_test=fold is Fold.TEST)
        if task.source != "events" and len(rows):
            first, second = (np.concatenate(_labels(encoded, task, rows)) for encoded in (reference, other))
            read = first != CUT  # nothing is said of a word that was cut off
            found[task.name] = {"label_agreement": float(np.mean(first[read] == second[read]))} if read.any() else {}
            low = _least_loss(arrays, task, reference, other, fold)
            if not np.isnan(low):
                found[task.name]["loss_low"] = low
    return found


def _texts_of(arrays: Arrays, task: TaskSpec, *, with_test: bool) -> IntArray:
    """Return the corpus rows of the task's domain."""
    if task.source == "items":
        rows = np.arange(len(arrays.item_ids))[arrays.domains[task.domain]]
        return rows if with_test else rows[arrays.item_fold[rows] != Fold.TEST]
    texts = np.flatnonzero((arrays.dataset.texts["domain"] == task.domain).to_numpy())
    texts = texts if with_test else texts[arrays.text_fold[texts] != Fold.TEST]
    return texts + len(arrays.item_ids)


def _labels(encoded: Encoded, task: TaskSpec, rows: IntArray) -> list[IntArray]:
    """Return the label numbers of each text: one, or one a word, CUT where that was cut off."""
    if task.kind is Kind.TOKEN:
        words = [encoded.word_logits[task.name][row] for row in rows.tolist()]
        return [np.where(logits.any(-1), logits.argmax(-1), CUT) for logits in words]
    return [*encoded.logits[task.name][rows].argmax(-1)[:, None]]


def _least_loss(arrays: Arrays, task: TaskSpec, reference: Encoded, other: Encoded, fold: Fold) -> float:
    shift = 0 if task.source == "items" else len(arrays.item_ids)
    folds = arrays.item_fold if task.source == "items" else arrays.text_fold
    labels = arrays.labels(task.name)
    judged = np.array([row for row in np.flatnonzero(folds == fold) if np.size(labels[row])], np.int64)
    if task.kind is not Kind.TOKEN:
        judged = judged[np.asarray(labels, np.int64)[judged] >= 0]
    if not len(judged):
        return float("nan")
    true = [np.atleast_1d(labels[row]).astype(np.int64) for row in judged]
    before, after = (_labels(encoded, task, judged + shift) for encoded in (reference, other))
    if task.kind is Kind.TOKEN:
        old, new = (_span_counts(task, found, true) for found in (before, after))
        draws = metric_draws(lambda rows: _loss(_span_f1(old, rows), _span_f1(new, rows)), np.arange(len(judged)))
        return interval(draws)[0]
    truth, first, second = (np.concatenate(part) for part in (true, before, after))
    measure = metrics.accuracy if task.headline == "accuracy" else metrics.macro_f1
    draws = metric_draws(
        lambda rows: _loss(measure(first[rows], truth[rows]), measure(second[rows], truth[rows])),
        np.arange(len(judged)),
    )
    return interval(draws)[0]


def _span_counts(task: TaskSpec, found: list[IntArray], true: list[IntArray]) -> Counts:
    outside = OUTSIDE if OUTSIDE in task.labels else task.labels[0]  # what the device says of a word that was cut off
    labels = (*task.labels, outside)  # CUT is the last
    names = [[labels[label] for label in text] for text in (*found, *true)]
    pairs = zip(names[: len(found)], names[len(found) :], strict=True)
    hits, both = np.array([metrics.span_counts(ours, theirs) for ours, theirs in pairs]).T
    return hits, both


def _span_f1(counts: Counts, rows: IntArray) -> float:
    hits, both = (part[rows] for part in counts)
    return metrics.span_f1_of(hits, both)


def _loss(before: float, after: float) -> float:
    return 1 - after / before if before > 0 else float("nan")
