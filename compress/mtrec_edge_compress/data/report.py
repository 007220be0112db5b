"""The data report: what came in, what was dropped and why, how labels and lengths are spread. As JSON and as text."""

import json
import re
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mtrec_edge_compress.data.balance import class_weights
from mtrec_edge_compress.data.schema import Dataset, Fold, TaskSpec
from mtrec_edge_runtime.tasks import Kind
from mtrec_edge_runtime.text import item_text

JSON_FILE, TEXT_FILE = "data_report.json", "data_report.txt"
_PIECES = re.compile(r"\w+|[^\w\s]")
_BINS = 5  # of a regression label's range


@dataclass(frozen=True)
class SourceReport:
    """What one source gave: rows read, rows kept, rows dropped by reason, personal data replaced by kind."""

    adapter: str
    name: str
    read: dict[str, int]  # items, events, texts, users
    kept: dict[str, int]
    dropped: dict[str, int]
    scrubbed: dict[str, int]


@dataclass(frozen=True)
class Report:
    """Everything `prepare` counted."""

    name: str
    split_hash: str
    seed: int
    licence: str
    notes: tuple[str, ...]
    sources: tuple[SourceReport, ...]
    domains: dict[str, dict[str, int]]  # domain -> users, items, cold_items, events, texts
    folds: dict[str, dict[str, int]]  # table -> fold -> rows
    labels: dict[str, dict[str, Any]]  # task -> labelled, missing, balance, class_weights
    lengths: dict[str, dict[str, float]]  # domain -> words and punctuation marks of a text: mean, p50, p95, max

    def write(self, folder: Path) -> None:
        """Write the report as JSON and as text beside the dataset."""
        (folder / JSON_FILE).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / TEXT_FILE).write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return the report as a person reads it."""
        lines = [f"dataset {self.name}, split {self.split_hash}, seed {self.seed}", ""]
        for source in self.sources:
            lines.append(f"source {source.name} ({source.adapter})")
            lines += [f"  {key}: {source.kept[key]:,} kept of {read:,}" for key, read in source.read.items() if read]
            lines += [f"  dropped {count:,}  {reason}" for reason, count in sorted(source.dropped.items())]
            lines += [f"  replaced {count:,}  {kind}" for kind, count in sorted(source.scrubbed.items())]
        lines += ["", "domains"]
        lines += [f"  {name}: {_counts(counts)}" for name, counts in self.domains.items()]
        lines += ["", "split"]
        lines += [f"  {name}: {_counts(counts)}" for name, counts in self.folds.items() if any(counts.values())]
        lines += ["", "labels"]
        for task, label in self.labels.items():
            lines.append(f"  {task}: {label['labelled']:,} labelled, {label['missing']:,} missing")
            lines.append("    " + ", ".join(f"{name} {share:.1%}" for name, share in label["balance"].items()))
        lines += ["", "words and punctuation marks of a text"]
        lines += [
            f"  {name}: mean {lengths['mean']:.1f}, p50 {lengths['p50']:.0f}, p95 {lengths['p95']:.0f}, "
            f"max {lengths['max']:.0f}"
            for name, lengths in self.lengths.items()
        ]
        lines += ["", *(f"note: {note}" for note in self.notes), f"licence: {self.licence or 'not stated'}"]
        return "\n".join(lines) + "\n"


def make_report(dataset: Dataset, sources: tuple[SourceReport, ...]) -> Report:
    """Count a split dataset."""
    return Report(
        name=dataset.name,
        split_hash=dataset.split_hash,
        seed=dataset.seed,
        licence=dataset.licence,
        notes=dataset.notes,
        sources=sources,
        domains=_domains(dataset),
        folds={
            name: _folds(frame)
            for name, frame in (("items", dataset.items), ("events", dataset.events), ("texts", dataset.texts))
        },
        labels={task.name: _labels(dataset, task) for task in dataset.tasks},
        lengths=_lengths(dataset),
    )


def table_sizes(dataset: Dataset) -> dict[str, int]:
    """Return the numbers of items, events, users and texts."""
    return {
        "items": len(dataset.items),
        "events": len(dataset.events),
        "users": dataset.events["user_id"].n_unique(),
        "texts": len(dataset.texts),
    }


def _domains(dataset: Dataset) -> dict[str, dict[str, int]]:
    names = dict.fromkeys([*dataset.items["domain"], *dataset.texts["domain"]])
    counts = {}
    for name in names:
        mine = pl.col("domain") == name
        items, events = dataset.items.filter(mine), dataset.events.filter(mine)
        counts[name] = {
            "users": events["user_id"].n_unique(),
            "items": len(items),
            "cold_items": int(items["cold"].sum()),
            "events": len(events),
            "texts": len(dataset.texts.filter(mine)),
        }
    return counts


def _folds(frame: pl.DataFrame) -> dict[str, int]:
    return {fold.name.lower(): int((frame["fold"] == int(fold)).sum()) for fold in Fold}


def _labels(dataset: Dataset, task: TaskSpec) -> dict[str, Any]:
    """Return how many rows carry a label, and how the labels of TRAIN rows are spread."""
    table: pl.DataFrame = getattr(dataset, task.source)
    rows = table.filter(pl.col("domain") == task.domain)
    if task.source == "events":
        labelled = rows.filter(pl.col("behaviour").is_in(list(task.behaviours)))
    else:
        labelled = rows.filter(pl.col(task.column).is_not_null())
    train = labelled.filter(pl.col("fold") == int(Fold.TRAIN))
    counts = {"labelled": len(labelled), "missing": len(rows) - len(labelled)}
    if task.kind is Kind.REGRESSION:
        return {**counts, "balance": _histogram(train["value"].to_numpy(), task)}
    if task.kind is Kind.BINARY:
        positive = 1.0 if task.positive_at is None else _share(train["value"] >= task.positive_at)
        return {**counts, "balance": {"positive": positive, "negative": 1 - positive}}
    column = train[task.column].explode() if task.kind is Kind.TOKEN else train[task.column]
    numbers = np.array([task.labels.index(label) for label in column], np.int64)
    shares = np.bincount(numbers, minlength=len(task.labels)) / max(len(numbers), 1)
    weights = class_weights(numbers, len(task.labels))
    return {
        **counts,
        "balance": dict(zip(task.labels, shares.tolist(), strict=True)),
        "class_weights": dict(zip(task.labels, weights.tolist(), strict=True)),
    }


def _share(true: pl.Series) -> float:
    return int(true.sum()) / max(len(true), 1)


def _histogram(values: np.ndarray[Any, Any], task: TaskSpec) -> dict[str, float]:
    assert task.low is not None and task.high is not None
    counts, edges = np.histogram(values, bins=_BINS, range=(task.low, task.high))
    names = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
    return dict(zip(names, (counts / max(len(values), 1)).tolist(), strict=True))


def _lengths(dataset: Dataset) -> dict[str, dict[str, float]]:
    texts = [
        (row[0], item_text(*row[1:]))
        for row in dataset.items.select("domain", "title", "description", "tags").iter_rows()
    ]
    texts += list(dataset.texts.select("domain", "text").iter_rows())
    by_domain: dict[str, list[int]] = {}
    for domain, text in texts:
        by_domain.setdefault(domain, []).append(len(_PIECES.findall(text)))
    return {
        domain: {
            "mean": float(np.mean(lengths)),
            "p50": float(np.percentile(lengths, 50)),
            "p95": float(np.percentile(lengths, 95)),
            "max": float(np.max(lengths)),
        }
        for domain, lengths in by_domain.items()
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
