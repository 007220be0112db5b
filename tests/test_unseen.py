"""What is kept of the teacher: known items and unseen texts apart, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import TASKS

from mtrec_edge_compress.evaluate import Evaluation
from mtrec_edge_compress.ledger import Row, Stage
from mtrec_edge_compress.unseen import Shares, kept_of, unseen_draws, unseen_metric


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


def test_a_share_has_the_interval_of_its_draws_teacher_and_student_drawn_alike() -> None:
    """Three draws: the teacher's gain over 1.1 is 0.2, 0.1 and none; of the last nothing can be kept."""
    teacher = replace(TEACHER, draws={"movies.rating": [0.9, 1.0, 1.1], "movies.genre": [0.5, 0.4, 0.5]})
    student = replace(STUDENT, draws={"movies.rating": [0.95, 1.0, 1.0], "movies.genre": [0.6, 0.6, 0.6]})
    unseen = kept_of(teacher, student, TASKS).unseen
    assert unseen.draws["movies.rating"] == pytest.approx([0.75, 1.0, math.nan], nan_ok=True)
    assert unseen.intervals["movies.genre"] == pytest.approx((1.2, 1.5 - 0.05 * 0.3))
    assert unseen.intervals["movies.rating"] == pytest.approx((0.75 + 0.025 * 0.25, 1 - 0.025 * 0.25))
    assert math.isnan(unseen.mean_interval[0])  # movies.like was not drawn
    like = {"movies.like": [0.2, 0.2, 0.2]}
    drawn = [replace(row, draws={**row.draws, **like}) for row in (teacher, student)]
    assert kept_of(*drawn, TASKS).unseen.mean_interval[0] == pytest.approx(
        (0.75 + 1 + 1.2) / 3 + 0.025 * (3.5 - 0.75 - 1 - 1.2) / 3
    )


def test_evaluation_leaves_draws_of_the_metrics_on_unseen_texts() -> None:
    drawn = {"movies.rating": {"cold_rmse": np.array([1.0, 2.0]), "rmse": np.zeros(2)}, "movies.like": {}}
    rest = {task.name: {} for task in TASKS if task.name not in drawn}
    found = Evaluation({}, {}, {}, {}, {}, {}, draws=drawn | rest)
    assert unseen_draws(found, TASKS) == {"movies.rating": [1.0, 2.0]}
