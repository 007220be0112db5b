"""The ablation: each change beside the recipe as it is, what cannot be compared, resuming, and the result file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import TASKS
from tiny_pipeline import run_command, tiny_place
from tiny_training import tiny_arrays

from mtrec_edge_compress.ablation import run_ablation
from mtrec_edge_compress.recipe_file import read_recipe
from mtrec_edge_compress.run_options import RunOptions
from mtrec_edge_runtime.errors import InputError, RecipeError
from mtrec_edge_runtime.results import read_result

HEADLINES = {task.name: task.headline for task in TASKS}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_place(tmp_path_factory.mktemp("ablation"))


@pytest.mark.slow
def test_the_command_compares_each_change_and_keeps_what_is_done(place: Path) -> None:
    table = run_command("ablate", place, "--change", "teacher.alignment=0")
    assert table.startswith("teacher.alignment=0") and "Delta_m" in table
    done = {path: path.stat().st_mtime_ns for path in (place / "out/work").rglob("stage.json")}
    assert {path.relative_to(place / "out/work").parts[0] for path in done} == {"as-is", "teacher.alignment=0"}

    changes = ("--change", "teacher.alignment=0", "--change", 'teacher.detached=["movies.genre"]')
    result = json.loads(run_command("ablate", place, "--json", *changes))
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert result == read_result(place / "out/ablation.json")
    systems = result["systems"]
    for change in changes[1::2]:
        known, changed = (systems[name]["movies.rating rmse"]["value"] for name in ("as is", change))
        relative = systems[f"{change}, relative"]
        assert relative["movies.rating rmse"]["value"] == pytest.approx((known - changed) / known)
        names = [f"{task} {metric}" for task, metric in result["headlines"].items()]
        of_headlines = [relative[name]["value"] for name in names if name in relative]  # 0 has none
        assert relative["delta_m"]["value"] == pytest.approx(sum(of_headlines) / len(of_headlines))
        assert 0 <= systems[f"{change} - as is"]["movies.rating mse"]["p"] <= 1
    assert result["headlines"].items() <= HEADLINES.items()
    assert (place / "out" / result["samples"]).is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teacher.alignment=1.0", "changes nothing of the teacher"),
        ("student.layers=1", "changes nothing of the teacher"),
        ("seed=1", "decides which users are judged"),
        ("evaluation.users_per_domain=5", "decides which users are judged"),
    ],
)
def test_changes_that_cannot_be_compared_are_told_before_anything_is_trained(
    place: Path, change: str, message: str
) -> None:
    path = place / "tiny.toml"
    with pytest.raises(InputError, match=message):
        run_ablation(
            read_recipe(path),
            {change: read_recipe(path, [change])},
            tiny_arrays(),
            out=place / "told",
            options=RunOptions(device="cpu", progress=False),
        )
    assert not (place / "told").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("teacher.encoder=other", InputError, "--encoder stands above it; the next step: leave --encoder out"),
        ("weights.movies.typo=2", RecipeError, r"weights\.movies\.typo"),
    ],
)
def test_what_a_change_could_not_do_is_told_before_anything_is_trained(
    place: Path, change: str, error: type[Exception], message: str
) -> None:
    path, options = place / "tiny.toml", RunOptions(encoder="some", device="cpu", progress=False)
    changed = {"teacher.alignment=0": read_recipe(path, ["teacher.alignment=0"]), change: read_recipe(path, [change])}
    with pytest.raises(error, match=message):
        run_ablation(read_recipe(path), changed, tiny_arrays(), out=place / "told", options=options)
    assert not (place / "told").exists()


def test_no_change_and_an_unknown_detached_task_are_told(place: Path) -> None:
    recipe, options = read_recipe(place / "tiny.toml"), RunOptions(device="cpu", progress=False)
    with pytest.raises(InputError, match="nothing to compare"):
        run_ablation(recipe, {}, tiny_arrays(), out=place / "told", options=options)
    wrong = replace(recipe, teacher=replace(recipe.teacher, detached=("movies.share",)))
    with pytest.raises(RecipeError, match=r"'movies\.share'; it has movies\.rating"):
        run_ablation(recipe, {"x": wrong}, tiny_arrays(), out=place / "told", options=options)
    assert not (place / "told").exists()
