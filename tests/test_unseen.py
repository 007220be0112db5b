"""What is kept of the teacher: known items and unseen texts apart, by hand."""

import math

import pytest
from tiny_models import TASKS

from mtrec_edge_compress.ledger import Row, Stage
from mtrec_edge_compress.unseen import Shares, kept_of, unseen_metric


def row(
    stage: Stage, *, rmse: float, cold_rmse: float, ndcg: float, cold_ndcg: float, f1: float, known: float = 0.0
) -> Row:
    """A row over rating, like and genre; `known` is the NDCG with the teacher's catalogue."""
    return Row(
        stage,
        parameters=1,
        size_bytes=1,
        tasks={
            "movies.rating": {"rmse": rmse, "cold_rmse": cold_rmse},
            "movies.like": {"ndcg@10": ndcg, "cold_ndcg@10": cold_ndcg},
            "movies.genre": {"macro_f1": f1},
        },
        chance={"movies.rating": {"rmse": 1.0, "cold_rmse": 1.1}, "movies.like": {}, "movies.genre": {}},
        counts={},
        known_items={"movies.like": {"ndcg@10": known}, "movies.genre": {"macro_f1": f1}},
    )


TEACHER = row("teacher", rmse=0.8, cold_rmse=0.9, ndcg=0.4, cold_ndcg=0.2, f1=0.5)
STUDENT = row("int8_fast", rmse=0.9, cold_rmse=0.95, ndcg=0.3, cold_ndcg=0.19, f1=0.6, known=0.38)


def test_a_task_of_users_and_items_is_judged_on_cold_items_a_text_task_by_its_headline() -> None:
    assert [unseen_metric(task) for task in TASKS] == ["cold_rmse", "cold_ndcg@10", "macro_f1", "span_f1"]


def test_known_items_have_the_teachers_vectors_and_unseen_texts_the_students() -> None:
    kept = kept_of(TEACHER, STUDENT, TASKS)
    assert kept.seen.tasks == pytest.approx({"movies.like": 0.38 / 0.4})
    assert kept.unseen.tasks == pytest.approx(
        {
            "movies.rating": (1.1 - 0.95) / (1.1 - 0.9),
            "movies.like": 0.95,
            "movies.genre": 1.2,
        }
    )
    assert kept.unseen.mean == pytest.approx((0.75 + 0.95 + 1.2) / 3)
    assert kept.unseen.worst == pytest.approx(0.75)


def test_a_task_the_teacher_did_not_learn_is_not_judged() -> None:
    blind = row("teacher", rmse=0.8, cold_rmse=1.2, ndcg=0.4, cold_ndcg=0.0, f1=0.5)
    assert list(kept_of(blind, STUDENT, TASKS).unseen.tasks) == ["movies.genre"]


def test_without_tasks_there_is_no_mean() -> None:
    assert math.isnan(Shares({}).mean) and math.isnan(Shares({}).worst)
