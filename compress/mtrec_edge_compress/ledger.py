"""The stage ledger: what each stage cost and kept. Rows on disk, a table for people, a result file for machines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.evaluate import Evaluation, retention
from mtrec_edge_runtime.results import DatasetInfo, Result, StageResult, new_result
from mtrec_edge_runtime.whole_file import write_whole

# the models of the chain, and for comparison the student's shape trained without a teacher
Stage = Literal["teacher", "student", "pruned", "healed", "onnx_fp32", "int8_fast", "int8_exact", "untaught"]
TaskMetrics = dict[str, dict[str, float]]
Draws = dict[str, list[float]]  # task -> its metric on unseen texts for each draw of users or texts, see bootstrap.py


@dataclass(frozen=True)
class Row:
    """One model of the chain."""

    stage: Stage
    parameters: int
    size_bytes: int  # encoder, text heads and ranker as files
    tasks: TaskMetrics  # TEST fold, item vectors by this stage's own encoder
    chance: TaskMetrics
    counts: dict[str, dict[str, int]]
    known_items: TaskMetrics = field(default_factory=dict)  # the same with the teacher's vectors in the catalogue
    draws: Draws = field(default_factory=dict)  # of `tasks`, the metric on unseen texts for each draw of users
    validation: TaskMetrics = field(default_factory=dict)  # VALIDATION fold, known items: by it pruning may be undone
    validation_chance: TaskMetrics = field(default_factory=dict)

    def evaluation(self, catalogue: Literal["teacher", "student"]) -> Evaluation:
        """Return the row as `verify` wants it: with the item vectors a bundle will hold, without per-user values."""
        tasks = self.known_items if catalogue == "teacher" and self.known_items else self.tasks
        return Evaluation(tasks, self.counts, self.chance, {}, {}, {})


@dataclass(frozen=True)
class Ledger:
    """All rows, their times and latencies."""

    name: str
    rows: tuple[Row, ...]
    seconds: dict[str, float]  # pipeline stage -> time it took
    row_seconds: dict[str, float]  # row's stage -> its share of that
    latency_ms: dict[str, dict[str, dict[str, float]]]  # row's stage -> tokens -> p50, p95 of one text
    facts: dict[str, Any]  # vocabulary, bytes by component ...

    def retention(self, tasks: tuple[TaskSpec, ...]) -> dict[str, dict[str, float]]:
        """Return stage -> task -> share of the teacher's headline metric above chance."""
        by_stage = {row.stage: row for row in self.rows}
        teacher = by_stage["teacher"]
        kept: dict[str, dict[str, float]] = {}
        for row in self.rows:
            for key, measured in ((row.stage, row.tasks), (f"{row.stage}, catalogue=teacher", row.known_items)):
                shares = {
                    task.name: retention(
                        task,
                        measured[task.name][task.headline],
                        teacher.tasks[task.name][task.headline],
                        teacher.chance[task.name].get(task.headline, 0.0),
                    )
                    for task in tasks
                    if task.headline in measured.get(task.name, {})
                    and task.headline in teacher.tasks.get(task.name, {})
                }
                shares = {name: share for name, share in shares.items() if share == share}
                if shares:
                    kept[key] = shares
        return kept

    def as_result(self, arrays: Arrays, *, command: list[str], seed: int) -> Result:
        """Return the ledger as a result file (see mtrec_edge_runtime.results)."""
        result = new_result(self.name, command=command, seeds=[seed], dataset=dataset_info(arrays))
        result["stages"] = {row.stage: self._stage(row) for row in self.rows}
        result["seconds"] = self.seconds
        result["retention"] = self.retention(arrays.tasks)
        result["headlines"] = {task.name: task.headline for task in arrays.tasks}
        result["systems"] = {
            f"{row.stage}, catalogue=teacher": {
                f"{task} {metric}": {"value": value}
                for task, found in row.known_items.items()
                for metric, value in found.items()
            }
            for row in self.rows
            if row.known_items
        }
        result["notes"] = [*arrays.dataset.notes, *(f"{name}: {value}" for name, value in self.facts.items())]
        return result

    def _stage(self, row: Row) -> StageResult:
        stage = StageResult(tasks=row.tasks, size_bytes=row.size_bytes, parameters=row.parameters)
        if row.stage in self.row_seconds:
            stage["seconds"] = self.row_seconds[row.stage]
        if row.stage in self.latency_ms:
            stage["latency_ms"] = self.latency_ms[row.stage]
        return stage

    def table(self, tasks: tuple[TaskSpec, ...]) -> str:
        """Return the ledger as text: one line a stage, one column a task's headline metric."""
        judged = [task for task in tasks if any(task.headline in row.tasks.get(task.name, {}) for row in self.rows)]
        head = ["stage", "parameters", "MB", "ms/text", *(f"{task.name} {task.headline}" for task in judged)]
        lines = [head]
        for row in self.rows:
            latency = next(iter(self.latency_ms.get(row.stage, {}).values()), None)
            cells = [
                row.stage,
                f"{row.parameters:,}",
                f"{row.size_bytes / 1e6:.2f}",
                f"{latency['p50']:.2f}" if latency else "-",
            ]
            lines.append(cells + [_figure(row.tasks, task) for task in judged])
            if row.known_items:
                lines.append(["  catalogue=teacher", "", "", "", *(_figure(row.known_items, task) for task in judged)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )


def dataset_info(arrays: Arrays) -> DatasetInfo:
    """Return what a result file says of the dataset."""
    counts = {
        "users": len(arrays.user_ids),
        "items": len(arrays.item_ids),
        "events": len(arrays.event_item),
        "texts": len(arrays.texts),
    }
    return DatasetInfo(name=arrays.dataset.name, split_hash=arrays.dataset.split_hash, counts=counts)


def _figure(measured: Mapping[str, Mapping[str, float]], task: TaskSpec) -> str:
    value = measured.get(task.name, {}).get(task.headline)
    return "-" if value is None else f"{value:.4f}"


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage left behind, and the settings it was made with."""

    fingerprint: str
    seconds: float
    rows: tuple[Row, ...]
    facts: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=1))


def read_record(path: Path) -> StageRecord | None:
    """Return the record at `path`, None when the stage has not finished."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return StageRecord(
        stored["fingerprint"], stored["seconds"], tuple(Row(**row) for row in stored["rows"]), stored["facts"]
    )


def make_ledger(
    name: str, records: Mapping[str, StageRecord], latency_ms: dict[str, dict[str, dict[str, float]]]
) -> Ledger:
    """Gather the records of the stages that are done; a stage's time is shared by its rows."""
    seconds = {name: record.seconds for name, record in records.items()}
    shares: dict[str, float] = {}
    facts: dict[str, Any] = {}
    for record in records.values():
        shares |= {row.stage: record.seconds / len(record.rows) for row in record.rows}
        facts |= record.facts
    rows = tuple(row for record in records.values() for row in record.rows)
    return Ledger(name, rows, seconds, shares, latency_ms, facts)
