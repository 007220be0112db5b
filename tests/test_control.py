"""The single-task control: signs by hand, equal budget, resuming, and a result file that can be read."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import TASKS
from tiny_pipeline import run_command, tiny_place
from tiny_training import SETTINGS, source_for, tiny_arrays, tiny_learner, tiny_teacher, world_arrays

from mtrec_edge_compress.checkpoint import save_model
from mtrec_edge_compress.comparison import Comparison, compare
from mtrec_edge_compress.control import run_control
from mtrec_edge_compress.control_report import format_control
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import TaskSpec
from mtrec_edge_compress.fusion import word_rows
from mtrec_edge_compress.recipe import Model, Recipe
from mtrec_edge_compress.recipe_file import read_recipe
from mtrec_edge_compress.teacher import check_given
from mtrec_edge_compress.windows import Windows
from mtrec_edge_runtime.errors import InputError, RecipeError, StageError
from mtrec_edge_runtime.results import read_result

RATING = TASKS[0]


def figures(value: float | None, per_user: list[float | None] | None = None) -> dict[str, Any]:
    return {"value": value, "interval": None, "per_user": per_user}


def headline(task: TaskSpec, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task.headline: found}


def compared(single: dict[str, Any], multi: dict[str, Any]) -> Comparison:
    """Compare the three tasks by their headlines; `single` and `multi` hold figures by task name."""
    tasks = {task.name: task for task in TASKS[:3]}
    return compare(
        TASKS[:3],
        {name: {name: headline(tasks[name], found)} for name, found in single.items()},
        {name: headline(tasks[name], found) for name, found in multi.items()},
    )


def test_change_and_delta_m_by_hand() -> None:
    """An error that falls by a tenth is +10 %, an NDCG that falls by a tenth -10 %, an F1 that doubles +100 %."""
    control = compared(
        {"movies.rating": figures(1.0), "movies.like": figures(0.2), "movies.genre": figures(0.25)},
        {"movies.rating": figures(0.9), "movies.like": figures(0.18), "movies.genre": figures(0.5)},
    )
    assert [one.relative for one in control.changes] == pytest.approx([0.1, -0.1, 1.0])
    assert control.delta_m == pytest.approx((0.1 - 0.1 + 1.0) / 3)
    assert [one.task for one in control.harmed] == ["movies.like"]
    assert "movies.like is harmed by learning together (-10.00%" in format_control(control)
    assert "--set weights.movies.like=2" in format_control(control)


def test_strict_cold_items_stand_beside_the_headlines_and_count_for_nothing() -> None:
    """A rating's error on strict cold items doubles: shown as -100 %, no harm, and not in Delta_m."""
    single = {RATING.name: {"rmse": figures(1.0), "cold_rmse": figures(1.0, [1.0, None])}}
    multi = {RATING.name: {"rmse": figures(0.9), "cold_rmse": figures(2.0, [4.0, None])}}
    control = compare([RATING], {RATING.name: single}, multi)
    warm, cold = control.changes
    assert (warm.metric, cold.metric, cold.paired_metric) == ("rmse", "cold_rmse", "cold_mse")
    assert cold.relative == pytest.approx(-1.0)
    assert cold.paired is not None and (cold.paired.mean, cold.paired.users) == (-3.0, 1)
    assert control.delta_m == pytest.approx(0.1)
    assert control.harmed == []


def test_users_are_paired_by_the_auc_of_strict_cold_items() -> None:
    """Such an AUC is a mean over users itself; of explicit labels it is not, and users are paired by their own."""
    ranked = replace(TASKS[1], metric="auc")
    reached = {ranked.name: {"auc": figures(0.6, [0.5, 0.7]), "cold_auc": figures(0.8, [0.7, 0.9])}}
    warm, cold = compare([ranked], {ranked.name: reached}, reached).changes
    assert (warm.paired_metric, cold.paired_metric) == ("user_auc", "cold_auc")


def test_the_paired_gain_is_turned_for_an_error_and_p_is_adjusted_over_tasks() -> None:
    better = [0.5 + 0.01 * n for n in range(20)]
    control = compared(
        {
            "movies.rating": figures(1.0, [value + 0.25 for value in better]),
            "movies.like": figures(0.2, [*better, None]),
            "movies.genre": figures(0.25),
        },
        {
            "movies.rating": figures(0.9, better),
            "movies.like": figures(0.2, [*better, 1.0]),
            "movies.genre": figures(0.25),
        },
    )
    rating, like, genre = control.changes
    assert rating.paired is not None and like.paired is not None and genre.paired is None
    assert (rating.paired_metric, rating.paired.users) == ("mse", 20)
    assert [rating.paired.mean, rating.paired.low, rating.paired.high] == pytest.approx([0.25] * 3)
    assert rating.paired.p == pytest.approx(2 * 2 / 10_001)  # the least p of 10,000 resamples, of two comparisons
    assert (like.paired.mean, like.paired.p, like.paired.users) == (0.0, 1.0, 20)


def test_what_cannot_be_measured_or_divided_is_said_and_left_out() -> None:
    control = compared(
        {"movies.rating": figures(None), "movies.like": figures(0.0), "movies.genre": figures(0.5)},
        {"movies.rating": figures(0.9), "movies.like": figures(0.1), "movies.genre": figures(0.4)},
    )
    assert control.not_measured == ("movies.rating",)
    assert control.delta_m == pytest.approx(-0.2)
    text = format_control(control)
    assert "movies.like: the value compared with is 0" in text and "movies.rating: not measured" in text


def only(arrays: Arrays, *names: str) -> Arrays:
    tasks = tuple(task for task in arrays.tasks if task.name in names)
    return replace(arrays, dataset=replace(arrays.dataset, tasks=tasks))


def test_a_domain_without_an_event_task_gives_no_windows() -> None:
    arrays = world_arrays()
    groups = Windows(only(arrays, "video.rating", "shop.category"), 4).groups(np.random.default_rng(0), 4)
    assert {window.domain for group in groups for window in group} == {"video"}
    assert Windows(only(arrays, "shop.category"), 4).groups(np.random.default_rng(0), 4) == []


def test_a_task_of_texts_alone_gets_the_passes_it_had_among_others() -> None:
    learner = tiny_learner(tiny_arrays())
    together = source_for(learner, tiny_arrays(), SETTINGS)
    passes = together.passes(0)
    assert passes == together.steps(0) * SETTINGS.texts / 25  # 24 movies with a genre and a query in TRAIN
    alone = source_for(learner, only(tiny_arrays(), "movies.genre"), SETTINGS, text_passes=passes)
    drawn = sum(batch.text_counts["movies.genre"] for batch in alone.epoch(0))
    assert drawn == math.ceil(passes * 24)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_place(tmp_path_factory.mktemp("control"))


def made(place: Path) -> dict[str, int]:
    work = place / "out/work"
    return {path.parent.relative_to(work).as_posix(): path.stat().st_mtime_ns for path in work.rglob("stage.json")}


@pytest.mark.slow
def test_the_command_compares_keeps_what_is_done_and_takes_a_trained_teacher(place: Path) -> None:
    table = run_command("control", place, "--tasks", "movies.genre,movies.rating")
    assert "Delta_m" in table and "movies.like" not in table
    first = made(place)
    assert set(first) == {"collaborate", "multi", "single/movies.rating", "single/movies.genre"}

    result = json.loads(run_command("control", place, "--json"))
    second = made(place)
    assert set(second) - set(first) == {"single/" + task.name for task in TASKS} - set(first)
    assert all(second[name] == when for name, when in first.items())
    assert result == read_result(place / "out/control.json")
    systems = result["systems"]
    assert systems["single"].keys() == systems["multi"].keys()
    changes = {name: found["value"] for name, found in systems["relative change"].items()}
    rating = "movies.rating rmse"
    single, multi = systems["single"][rating]["value"], systems["multi"][rating]["value"]
    assert changes[rating] == pytest.approx((single - multi) / single)
    assert changes.pop("delta_m") == pytest.approx(sum(changes.values()) / len(changes))
    assert 0 <= systems["multi - single"]["movies.rating mse"]["p"] <= 1
    assert (place / "out" / result["samples"]).is_file()

    teacher = place / "out/work/multi/training/best"
    given = json.loads(run_command("control", place, "--json", "--teacher", str(teacher), "--tasks", "movies.rating"))
    assert given["systems"]["multi"][rating]["value"] == pytest.approx(multi, rel=1e-5)
    assert made(place).items() - second.items() == {("given", made(place)["given"])}


@pytest.mark.parametrize(
    ("task", "message"), [("movies.share", "no such task; it has movies.rating"), ("movies.like", "weight is 0")]
)
def test_tasks_that_cannot_be_compared_are_told(place: Path, task: str, message: str) -> None:
    recipe = read_recipe(place / "tiny.toml", ["weights.movies.like=0"])
    with pytest.raises(InputError, match=message):
        run_control(recipe, tiny_arrays(), out=place / "told", tasks=[task])


def test_a_teacher_of_other_tasks_is_told(place: Path, tmp_path: Path) -> None:
    save_model(tiny_teacher(only(tiny_arrays(), "movies.rating")), tmp_path / "teacher")
    recipe = read_recipe(place / "tiny.toml")
    with pytest.raises(StageError, match=r"has not learnt movies\.like, movies\.genre, products\.tags as the dataset"):
        run_control(
            recipe, tiny_arrays(), out=place / "other", teacher=tmp_path / "teacher", device="cpu", progress=False
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviours": 3}, "knows 3 behaviours, the dataset has 2"),
        ({"max_history": 2}, r"reads 2 events, model\.max_history = 8 asks for more"),
    ],
)
def test_a_given_teacher_of_another_shape_is_told(changes: dict[str, int], message: str) -> None:
    arrays, model = tiny_arrays(), tiny_teacher(tiny_arrays())
    recipe, words = Recipe(name="r", model=Model(max_history=model.max_history)), word_rows(model)
    for others in (words + 1, words - 2000):
        with pytest.raises(StageError, match=r"the encoder's vocabulary .*it was trained from with --encoder"):
            check_given(model, Path("t"), recipe, arrays, words=others)
    check_given(model, Path("t"), recipe, arrays, words=words)
    model.shape = replace(model.shape, **changes)
    with pytest.raises(StageError, match=message):
        check_given(model, Path("t"), recipe, arrays, words=words)
    model.shape, model.tasks = tiny_teacher(arrays).shape, model.tasks[::-1]
    with pytest.raises(StageError, match="in another order or more than the dataset has"):
        check_given(model, Path("t"), recipe, arrays, words=words)


def test_an_unknown_detached_task_is_told_before_anything_is_trained(place: Path) -> None:
    recipe = read_recipe(place / "tiny.toml", ['teacher.detached=["movies.share"]'])
    with pytest.raises(RecipeError, match=r"teacher\.detached: .* 'movies\.share'; it has movies\.rating"):
        run_control(recipe, tiny_arrays(), out=place / "told")
    assert not (place / "told").exists()
