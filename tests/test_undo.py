"""Does pruning pay? By hand."""

from dataclasses import replace

import pytest
from tiny_models import TASKS

from mtrec_edge_compress.ledger import Row, Stage
from mtrec_edge_compress.recipe import Budget
from mtrec_edge_compress.undo import shortfall, why_undo

STRICT = Budget(max_drop={"movies.genre": 0.02}, retention_worst=0.9)


def rows(*, student: float, pruned: float, smaller: bool = True) -> dict[Stage, Row]:
    """Three rows; of the teacher's macro F1 on VALIDATION, 0.5, the others keep these shares; TEST says otherwise."""

    def row(stage: Stage, share: float, size: int, parameters: int = 1_000_000) -> Row:
        on_test, on_validation = ({"movies.genre": {"macro_f1": 0.5 * value}} for value in (2 - share, share))
        return Row(stage, parameters, size, on_test, {"movies.genre": {}}, {}, validation=on_validation)

    return {
        "teacher": row("teacher", 1.0, 90_000_000),
        "student": row("student", student, 4_000_000),
        "pruned": row("pruned", pruned, 3_000_000 if smaller else 4_000_000, 900_000),
    }


def undone(found: dict[Stage, Row], budget: Budget, *, before: float = 1.0, after: float = 0.8) -> str:
    return why_undo(found, TASKS, budget, {"student": before, "pruned": after})


def test_pruning_that_makes_smaller_or_faster_stays() -> None:
    assert undone(rows(student=1.0, pruned=0.5), Budget()) == ""
    assert undone(rows(student=1.0, pruned=0.5), Budget(), after=1.1) == ""  # smaller, if slower
    assert undone(rows(student=1.0, pruned=0.5, smaller=False), Budget(), after=0.85) == ""  # faster


def test_pruning_that_makes_neither_smaller_nor_faster_is_undone() -> None:
    found = undone(rows(student=1.0, pruned=1.0, smaller=False), Budget(), after=0.99)  # 1 % is noise
    assert found == "neither smaller (4,000,000 to 4,000,000 bytes) nor faster (1.000 to 0.990 ms)"


def test_healing_that_removed_nothing_stays() -> None:
    found = rows(student=1.0, pruned=1.0, smaller=False)
    found["pruned"] = replace(found["pruned"], parameters=found["student"].parameters)
    assert undone(found, Budget(), after=1.0) == ""


def test_pruning_that_misses_the_quality_which_the_student_had_is_undone() -> None:
    found = undone(rows(student=0.99, pruned=0.95), STRICT)
    assert found.startswith("it misses the budget's quality by 3.00% (before 0.00%)")
    assert undone(rows(student=0.99, pruned=0.985), STRICT) == ""  # both keep it
    assert undone(rows(student=0.94, pruned=0.95), STRICT) == ""  # pruning and healing made it better


@pytest.mark.parametrize(
    ("limit", "stays"),
    [
        (Budget(max_drop={"movies.genre": 0.02}, max_mb=1.0), False),  # a million parameters are a million bytes
        (Budget(max_drop={"movies.genre": 0.02}, max_mb=0.9), True),
        (Budget(max_drop={"movies.genre": 0.02}, max_ms=1.0), False),
        (Budget(max_drop={"movies.genre": 0.02}, max_ms=0.9), True),
        (Budget(max_drop={"movies.genre": 0.02}, min_speedup=10.0), True),  # not known yet
    ],
)
def test_a_student_that_needs_pruning_to_fit_stays_pruned(limit: Budget, stays: bool) -> None:
    assert (undone(rows(student=0.99, pruned=0.95), limit) == "") is stays


def test_the_shortfall_is_that_of_the_worst_missed_limit() -> None:
    kept = {"movies.like": 0.93, "movies.genre": 0.8}
    assert shortfall(Budget(), kept) == shortfall(Budget(retention_worst=0.9), {}) == 0
    assert shortfall(Budget(), {"movies.rating": -0.4}) == 0
    assert shortfall(Budget(max_drop={"movies.like": 0.02}), kept) == pytest.approx(0.05)
    assert shortfall(Budget(max_drop={"movies.like": 0.02}, retention_worst=0.9), kept) == pytest.approx(0.1)
