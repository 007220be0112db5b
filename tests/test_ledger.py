"""The ledger: what each stage cost and kept, on disk, as a table and as a result file."""

from pathlib import Path

import pytest
from tiny_training import tiny_arrays

from mtrec_edge_compress.ledger import Ledger, Row, Stage, StageRecord, make_ledger, read_record
from mtrec_edge_runtime.results import read_result, write_result


def row(stage: Stage, *, rmse: float, ndcg: float, known: float | None = None) -> Row:
    return Row(
        stage,
        parameters=1_234,
        size_bytes=5_000_000,
        tasks={"movies.rating": {"rmse": rmse}, "movies.like": {"ndcg@10": ndcg}},
        chance={"movies.rating": {"rmse": 1.0}, "movies.like": {}},
        counts={"movies.rating": {"events": 12}},
        known_items={} if known is None else {"movies.like": {"ndcg@10": known}},
    )


def ledger() -> Ledger:
    teacher = StageRecord("a", 60.0, (row("teacher", rmse=0.8, ndcg=0.4),), {})
    quantized = (row("int8_fast", rmse=0.9, ndcg=0.3, known=0.36), row("int8_exact", rmse=0.82, ndcg=0.4))
    quantize = StageRecord("b", 4.0, quantized, {"bundle_bytes": 3})
    return make_ledger(
        "tiny", {"teacher": teacher, "quantize": quantize}, {"teacher": {"32": {"p50": 2.5, "p95": 3.0}}}
    )


def test_retention_by_hand() -> None:
    kept = ledger().retention(tiny_arrays().tasks)
    assert kept["teacher"] == {"movies.rating": 1.0, "movies.like": 1.0}
    assert kept["int8_fast"] == pytest.approx({"movies.rating": 0.1 / 0.2, "movies.like": 0.75})
    assert kept["int8_fast, catalogue=teacher"] == pytest.approx({"movies.like": 0.9})


def test_a_task_the_teacher_did_not_learn_has_no_retention() -> None:
    bad = make_ledger("tiny", {"teacher": StageRecord("a", 1.0, (row("teacher", rmse=1.1, ndcg=0.4),), {})}, {})
    assert bad.retention(tiny_arrays().tasks) == {"teacher": {"movies.like": 1.0}}


def test_a_stages_time_is_shared_by_its_rows_and_facts_are_gathered() -> None:
    assert ledger().seconds == {"teacher": 60.0, "quantize": 4.0}
    assert ledger().row_seconds == {"teacher": 60.0, "int8_fast": 2.0, "int8_exact": 2.0}
    assert ledger().facts == {"bundle_bytes": 3}


def test_the_table_has_a_line_a_stage_and_one_for_the_teachers_catalogue() -> None:
    lines = ledger().table(tiny_arrays().tasks).splitlines()
    assert lines[0].split() == [
        "stage",
        "parameters",
        "MB",
        "ms/text",
        "movies.rating",
        "rmse",
        "movies.like",
        "ndcg@10",
    ]
    assert lines[1].split() == ["teacher", "1,234", "5.00", "2.50", "0.8000", "0.4000"]
    assert lines[2].split() == ["int8_fast", "1,234", "5.00", "-", "0.9000", "0.3000"]
    assert lines[3].split() == ["catalogue=teacher", "-", "0.3600"]
    assert len(lines) == 5


def test_a_record_on_disk_is_the_record(tmp_path: Path) -> None:
    record = StageRecord("abc", 1.5, (row("student", rmse=0.8, ndcg=0.4, known=0.3),), {"layers": "2 heads"})
    assert read_record(tmp_path / "stage.json") is None
    record.write(tmp_path / "stage.json")
    assert read_record(tmp_path / "stage.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["stage.json"]


def test_the_result_file_keeps_the_schema(tmp_path: Path) -> None:
    result = ledger().as_result(tiny_arrays(), command=["mtrec-edge", "compress"], seed=3)
    write_result(tmp_path / "tiny.json", result)
    stored = read_result(tmp_path / "tiny.json")
    assert stored["seeds"] == [3] and stored["stages"]["teacher"]["latency_ms"] == {"32": {"p50": 2.5, "p95": 3.0}}
    assert stored["dataset"]["counts"] == {"users": 12, "items": 36, "events": 124, "texts": 2}


def test_a_row_as_evaluation_is_what_verify_reads() -> None:
    found = row("pruned", rmse=0.8, ndcg=0.4, known=0.5).evaluation("student")
    assert found.tasks["movies.rating"] == {"rmse": 0.8} and found.chance["movies.rating"] == {"rmse": 1.0}
    assert found.tasks["movies.like"] == {"ndcg@10": 0.4}


def test_what_is_verified_has_the_item_vectors_that_are_shipped() -> None:
    student = row("pruned", rmse=0.8, ndcg=0.4, known=0.5).evaluation("teacher")
    assert student.tasks["movies.like"] == {"ndcg@10": 0.5}
    assert row("teacher", rmse=0.8, ndcg=0.4).evaluation("teacher").tasks["movies.like"] == {"ndcg@10": 0.4}
