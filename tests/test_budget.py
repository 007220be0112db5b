"""Budgets: what is within them says nothing, what is not names task, figure, limit and next step."""

import pytest
from tiny_models import TASKS

from mtrec_edge_compress.budget import check_budget, quality_reasons, size_reasons, speed_reasons
from mtrec_edge_compress.recipe import Budget
from mtrec_edge_compress.unseen import Kept, Shares
from mtrec_edge_runtime.errors import RecipeError

KEPT = Kept(
    seen=Shares({"movies.rating": 0.99, "movies.like": 1.01}),
    unseen=Shares({"movies.rating": 0.97, "movies.like": 0.91, "movies.genre": 1.0}),
)
NOTHING = Kept(Shares({}), Shares({}))


def test_no_budget_limits_nothing() -> None:
    assert size_reasons(0, 10**12) == ()
    assert speed_reasons(Budget(), latency_ms=1e6, speedup=None) == ()
    assert quality_reasons(Budget(), NOTHING, TASKS) == ()
    worse = Kept(Shares({"movies.rating": -0.4}), Shares({"movies.rating": -0.4}))  # than chance
    assert quality_reasons(Budget(), worse, TASKS) == ()


def test_a_megabyte_is_a_million_bytes() -> None:
    assert size_reasons(1.5, 1_500_000) == ()
    (reason,) = size_reasons(1.5, 1_501_000)
    assert reason.startswith("the bundle without its catalogue has 1.501 MB (limit 1.5 MB); the next step: ")


def test_time_is_judged_in_ms_and_beside_bert_base() -> None:
    budget = Budget(max_ms=0.5, min_speedup=120)
    assert speed_reasons(budget, latency_ms=0.5, speedup=120) == ()
    slow, slower = speed_reasons(budget, latency_ms=0.51, speedup=119.9)
    assert slow.startswith("INT8 fast takes 0.510 ms a text (limit 0.5 ms); the next step: ")
    assert slower.startswith("INT8 fast is 119.9x as fast as BERT-base in FP32 (limit 120x); the next step: ")
    (unknown,) = speed_reasons(budget, latency_ms=0.4, speedup=None)
    assert unknown.startswith("INT8 fast was not measured beside BERT-base")


def test_a_drop_is_judged_on_known_items_and_on_unseen_texts_apart() -> None:
    assert quality_reasons(Budget(max_drop={"movies.rating": 0.03, "movies.genre": 0.0}), KEPT, TASKS) == ()
    seen, unseen = quality_reasons(Budget(max_drop={"movies.rating": 0.005}), KEPT, TASKS)
    assert seen.startswith("movies.rating: on known items INT8 fast loses 1.00% of the teacher's rmse (limit 0.50%)")
    assert unseen.startswith("movies.rating: on texts it never saw INT8 fast loses 3.00% of the teacher's cold_rmse")
    assert all("; the next step: " in reason for reason in (seen, unseen))


def test_the_mean_does_not_hide_the_worst_task() -> None:
    budget = Budget(retention_mean=0.95, retention_worst=0.95)  # the means are 1.0 and 0.96
    (reason,) = quality_reasons(budget, KEPT, TASKS)
    assert reason.startswith("movies.like: on texts it never saw INT8 fast keeps 91.00% of the teacher")
    assert "(limit 95.00%)" in reason
    (reason,) = quality_reasons(Budget(retention_mean=0.97), KEPT, TASKS)
    assert reason.startswith("on texts it never saw INT8 fast keeps 96.00% of the teacher, the mean of 3 tasks")


def test_a_limit_that_nothing_could_be_measured_for_is_missed() -> None:
    (drop,) = quality_reasons(Budget(max_drop={"products.tags": 0.5}), KEPT, TASKS)
    assert drop.startswith("products.tags: what is lost of the teacher's span_f1 could not be judged (limit 50.00%)")
    seen, unseen = quality_reasons(Budget(retention_worst=0.1), NOTHING, TASKS)
    assert seen.startswith("nothing of the teacher's could be judged on known items")
    assert unseen.startswith("nothing of the teacher's could be judged on texts it never saw")


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"budget\.max_drop\.movies\.lik: the dataset has no such task; it has m"):
        check_budget(Budget(max_drop={"movies.lik": 0.1}), TASKS)
    check_budget(Budget(max_drop={"movies.like": 0.1}), TASKS)
