"""Every metric the project reports, in numpy alone: one definition for the toolkit, the device and the reports.

Reads arrays, returns floats; a metric with nothing to measure is nan. Knows nothing of tasks, datasets or models.
`ranking` orders items for one user, `binary` judges scores of labelled events, `values` judges predicted amounts,
`classes` judges one label a text, `spans` judges labelled stretches of words.
"""

from mtrec_edge_runtime.metrics.binary import auc, ece, gauc, log_loss, reliability, sigmoid, user_auc
from mtrec_edge_runtime.metrics.classes import accuracy, macro_f1
from mtrec_edge_runtime.metrics.ranking import (
    average_ranks,
    coverage,
    mrr,
    ndcg,
    popularity_bias,
    rank_auc,
    recall,
    top_items,
)
from mtrec_edge_runtime.metrics.spans import span_counts, span_f1, span_f1_of, spans
from mtrec_edge_runtime.metrics.values import mae, rmse

__all__ = [
    "accuracy",
    "auc",
    "average_ranks",
    "coverage",
    "ece",
    "gauc",
    "log_loss",
    "macro_f1",
    "mae",
    "mrr",
    "ndcg",
    "popularity_bias",
    "rank_auc",
    "recall",
    "reliability",
    "rmse",
    "sigmoid",
    "span_counts",
    "span_f1",
    "span_f1_of",
    "spans",
    "top_items",
    "user_auc",
]
