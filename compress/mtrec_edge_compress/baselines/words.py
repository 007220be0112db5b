"""Judge texts by their words: TF-IDF features, logistic regression for classes, the usual label of a word for tags."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mtrec_edge_compress.baselines.signals import Sparse
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.data.schema import Fold, TaskSpec
from mtrec_edge_compress.judgement import Scores

_MOST_WORDS = 20_000
_NEVER = -1e4  # log probability of a class that training never shows


def tfidf(texts: Sequence[str]) -> tuple[Any, Sparse]:
    """Return the fitted vectorizer and unit-length TF-IDF rows, (texts, words): 1 + log tf, smooth idf."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=_MOST_WORDS, dtype=np.float32)
    return vectorizer, vectorizer.fit_transform(texts)


@dataclass(frozen=True)
class LogisticText:
    """TF-IDF of the text, then a linear model."""

    texts: Sequence[str]  # what rows index
    labels: int
    vectorizer: Any
    model: Any

    def logits(self, rows: IntArray) -> Scores:
        """Return log probabilities, (rows, labels)."""
        features = self.vectorizer.transform([self.texts[row] for row in rows])
        result = np.full((len(rows), self.labels), _NEVER)
        result[:, self.model.classes_] = self.model.predict_log_proba(features)
        return result


def fit_logistic_text(arrays: Arrays, task: TaskSpec, *, inverse_penalty: float, balanced: bool) -> LogisticText | None:
    """Return TF-IDF + logistic regression on the TRAIN texts; None when they show fewer than two classes."""
    texts, folds = (arrays.item_texts, arrays.item_fold) if task.source == "items" else (arrays.texts, arrays.text_fold)
    labels = np.asarray(arrays.labels(task.name), np.int64)
    rows = np.flatnonzero((folds == Fold.TRAIN) & (labels >= 0))
    if len(np.unique(labels[rows])) < 2:
        return None
    vectorizer, features = tfidf([texts[row] for row in rows])
    weight = "balanced" if balanced else None
    model = LogisticRegression(C=inverse_penalty, class_weight=weight, max_iter=2_000, tol=1e-3)
    return LogisticText(texts, len(task.labels), vectorizer, model.fit(features, labels[rows]))


@dataclass(frozen=True)
class UsualTag:
    """Give each word the label it most often has in TRAIN texts, and a new word the usual label of rare words."""

    arrays: Arrays
    of_word: dict[str, str]
    of_new: str

    def tags(self, rows: IntArray) -> list[list[str]]:
        """Return one label a word."""
        return [[self.of_word.get(word.lower(), self.of_new) for word in self.arrays.text_tokens[row]] for row in rows]


def fit_usual_tag(arrays: Arrays, task: TaskSpec) -> UsualTag:
    """Count labels of each lower-cased word; ties go to the label met first."""
    labels = list(arrays.labels(task.name))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in np.flatnonzero(arrays.text_fold == Fold.TRAIN):
        for word, label in zip(arrays.text_tokens[row], labels[row], strict=False):
            counts[word.lower()][task.labels[label]] += 1
    rare = Counter(next(iter(own)) for own in counts.values() if own.total() == 1)
    of_new = rare.most_common(1)[0][0] if rare else task.labels[0]
    return UsualTag(arrays, {word: own.most_common(1)[0][0] for word, own in counts.items()}, of_new)
