"""The search of the teacher's settings: seeded, resumed after a stop, written as a recipe, blind to the test fold."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest
from click.testing import CliRunner
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mtrec_edge.cli import main
from mtrec_edge_compress import training
from mtrec_edge_compress.data.schema import Dataset, Fold
from mtrec_edge_compress.data.synthetic import make_world
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.recipe_file import make_recipe, read_recipe, read_tree, setting, with_settings
from mtrec_edge_compress.tune import Tuned, tune
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.whole_file import write_whole

RECIPE = """
name = "tiny"
[model]
vector_size = 16
max_tokens = 16
max_history = 8
task_hidden = 4
[weights]
"shop.click" = 2
[collaborate]
links = 4
parts = 2
penalties = [20]
[teacher]
layers = 1
hidden_size = 32
vocabulary = 200
[teacher.training]
epochs = 2
users = 16
targets = 4
negatives = 6
texts = 16
head_learning_rate = 0.01
precision = "fp32"
[tune]
trials = 3
[tune.search]
"teacher.training.head_learning_rate" = { low = 1e-4, high = 1e-1, log = true }
"teacher.training.users" = { low = 8, high = 32, step = 8 }
"teacher.training.weighting" = { choices = ["static", "uncertainty"] }
"weights.video.like" = { low = 0.5, high = 2 }
"""
SEARCHED = (
    "teacher.training.head_learning_rate",
    "teacher.training.users",
    "teacher.training.weighting",
    "weights.video.like",
)


def world() -> Dataset:
    return make_world(1, users=24, items=30, queries=20)[0]


@dataclass(frozen=True)
class Place:
    """Where one search reads and writes."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "search"

    def tune(self, *overrides: str, trials: int | None = None, out: str = "search") -> Tuned:
        """Search with the tiny recipe here."""
        return tune(
            self.folder / "tiny.toml",
            data=self.folder / "data",
            out=self.folder / out,
            device="cpu",
            trials=trials,
            overrides=overrides,
            progress=False,
        )


def make_place(folder: Path, dataset: Dataset) -> Place:
    dataset.write(folder / "data")
    (folder / "tiny.toml").write_text(RECIPE)
    return Place(folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path, world())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Tuned]:
    """Three trials of the tiny recipe."""
    place = make_place(tmp_path_factory.mktemp("tune"), world())
    return place, place.tune()


def outcome(found: Tuned) -> list[tuple[Any, ...]]:
    """Return what a search found, times and numbers apart."""
    return [(t.state, t.score, t.values) for t in found.trials if t.state != "interrupted"]


def test_every_trial_has_values_of_the_search_and_the_first_is_the_recipe_as_it_stands(
    searched: tuple[Place, Tuned],
) -> None:
    trials = searched[1].trials
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert trials[0].values == dict(zip(SEARCHED, (0.01, 16, "static", 1.0), strict=True))
    for trial in trials:
        rate, users, weighting, weight = (trial.values[key] for key in SEARCHED)
        assert 1e-4 <= rate <= 1e-1 and users in (8, 16, 24, 32) and 0.5 <= weight <= 2
        assert weighting in ("static", "uncertainty")
        assert trial.state == "complete" and trial.seconds is not None and trial.seconds > 0
        assert trial.score == pytest.approx(max(trial.epochs.values())) and list(trial.epochs) == [1, 2]


def test_the_best_recipe_reads_as_the_recipe_with_the_best_trials_values(searched: tuple[Place, Tuned]) -> None:
    place, found = searched
    assert found.best.score == max(trial.score or 0.0 for trial in found.trials)
    recipe = read_recipe(found.best_recipe)
    assert {key: setting(recipe, key) for key in SEARCHED} == found.best.values
    assert recipe == make_recipe(with_settings(read_tree(place.folder / "tiny.toml"), found.best.values))
    assert recipe.weights["shop.click"] == 2.0


def test_the_folder_holds_the_trials_and_no_checkpoint(searched: tuple[Place, Tuned]) -> None:
    place, found = searched
    stored = json.loads((place.out / "trials.json").read_text())
    assert stored == json.loads(json.dumps(found.as_json())) and stored["best"] == found.best.number
    assert {path.name for path in place.out.iterdir()} == {"best.toml", "links", "study.log", "trials.json"}
    assert len(list((place.out / "links").iterdir())) == 1  # fitted once for all trials


def test_a_finished_search_trains_nothing_and_more_trials_continue_it(searched: tuple[Place, Tuned]) -> None:
    place, found = searched
    began = time.monotonic()
    assert outcome(place.tune()) == outcome(found) == outcome(place.tune(trials=1))
    assert time.monotonic() - began < sum(trial.seconds or 0.0 for trial in found.trials) + 2
    more = place.tune(trials=4)
    assert outcome(more)[:3] == outcome(found) and len(more.trials) == 4


def test_a_stopped_search_goes_on_as_if_nothing_had_been(
    searched: tuple[Place, Tuned], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Path] = set()

    def write_then_stop(path: Path, text: str) -> None:
        """Press Ctrl-C when the second trial has saved its first epoch."""
        write_whole(path, text)
        seen.add(path.parent)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_whole", write_then_stop)
        with pytest.raises(KeyboardInterrupt):
            place.tune()
    assert len(list((place.out / "trials").iterdir())) == 1
    found = place.tune()
    assert [trial.state for trial in found.trials] == ["complete", "interrupted", "complete", "complete"]
    assert found.trials[1].values == found.trials[2].values
    assert outcome(found) == outcome(searched[1])[:3]


def test_a_search_of_another_recipe_or_dataset_is_refused(searched: tuple[Place, Tuned], tmp_path: Path) -> None:
    place, _ = searched
    with pytest.raises(StageError, match=r"holds a search with another model, teacher; the next step: give another"):
        place.tune("model.task_hidden=8", "teacher.layers=2")
    with pytest.raises(StageError, match="holds a search with another search"):
        place.tune("tune.search.weights.video.like={low=0.5, high=3}")
    make_world(2, users=24, items=30, queries=20)[0].write(tmp_path)
    with pytest.raises(StageError, match="holds a search with another data"):
        tune(place.folder / "tiny.toml", data=tmp_path, out=place.out, progress=False)
    assert place.tune("student.layers=1").best.number >= 0  # the teacher does not depend on it


def test_a_file_that_is_no_study_is_told(place: Place) -> None:
    place.out.mkdir()
    (place.out / "study.log").write_text("no study\nat all\n")
    with pytest.raises(StageError, match=r"study\.log is no study that can be read .*; the next step: another --out"):
        place.tune()


def test_the_test_fold_changes_nothing(searched: tuple[Place, Tuned], tmp_path: Path) -> None:
    """Without one rating, label or tag in the test fold as it was, every score is the same."""
    dataset = world()
    held_out = pl.col("fold") == Fold.TEST
    turned = pl.when(held_out).then(6 - pl.col("value")).otherwise(pl.col("value"))
    events = dataset.events.with_columns(turned.alias("value"))
    items = dataset.items.with_columns(
        pl.when(held_out).then(pl.col(name).reverse()).otherwise(pl.col(name)).alias(name)
        for name in ("category", "genre")
    )
    tags = pl.when(held_out).then(pl.col("tags").list.eval(pl.lit("O"))).otherwise(pl.col("tags"))
    changed = replace(dataset, events=events, items=items, texts=dataset.texts.with_columns(tags.alias("tags")))
    assert changed.content_hash() != dataset.content_hash()
    assert outcome(make_place(tmp_path, changed).tune()) == outcome(searched[1])[:3]


RATE = "teacher.training.head_learning_rate"


def test_a_diverged_training_is_a_stopped_trial_and_says_why(place: Place) -> None:
    mad = ["teacher.training.clip=1e3", "teacher.training.optimizer=sgd"]
    found = place.tune(f'tune.search={{"{RATE}"={{choices=[0.01, 1e3]}}}}', *mad, trials=4)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    assert stopped and all("the loss became" in trial.reason for trial in stopped), found.trials
    assert found.best.values == {RATE: 0.01}
    with pytest.raises(StageError, match=r"no trial was finished \(teacher: the loss became .*another tune\.search"):
        place.tune(f'tune.search={{"{RATE}"={{choices=[1e3]}}}}', *mad, trials=1, out="none")
    assert not (place.folder / "none/best.toml").exists()


def test_a_poor_trial_is_stopped_by_the_median(place: Place) -> None:
    search = f'tune.search={{"{RATE}"={{low=1e-3, high=1e-1}}}}'
    place.tune(search, trials=1)
    backend = JournalFileBackend(str(place.out / "study.log"))
    study = optuna.load_study(study_name="tune", storage=JournalStorage(backend))
    for _ in range(5):
        study.add_trial(good_trial())
    stopped = place.tune(search, trials=7).trials[-1]
    assert (stopped.state, stopped.reason) == ("stopped", "below the median after epoch 1 of 2")
    assert list(stopped.epochs) == [1] and stopped.score == stopped.epochs[1]


def good_trial() -> optuna.trial.FrozenTrial:
    """Return a trial that no real one reaches."""
    return optuna.trial.create_trial(
        value=0.99,
        params={RATE: 0.01},
        distributions={RATE: FloatDistribution(1e-3, 1e-1)},
        intermediate_values={1: 0.99, 2: 0.99},
        user_attrs={"seconds": 1.0},
    )


def test_links_are_fitted_anew_only_where_their_settings_are_searched(place: Place) -> None:
    found = place.tune('tune.search={"collaborate.links"={choices=[2, 4]}}', trials=4)
    settings = {trial.values["collaborate.links"] for trial in found.trials}
    assert settings == {2, 4} and len(list((place.out / "links").iterdir())) == 2


def test_the_same_values_are_trained_once(place: Place) -> None:
    found = place.tune('tune.search={"model.dropout"={choices=[0.1]}}', trials=3)
    assert len({trial.score for trial in found.trials}) == 1
    assert [bool(trial.epochs) for trial in found.trials] == [True, False, False]


def test_every_setting_searched_by_default_is_one() -> None:
    assert make_recipe({}) == Recipe()
    assert list(Recipe().tune.search) == [
        "teacher.training.learning_rate",
        "teacher.training.head_learning_rate",
        "teacher.training.prior_dropout",
        "teacher.alignment",
        "model.dropout",
    ]


def test_the_command_prints_the_trials_best_first(searched: tuple[Place, Tuned]) -> None:
    place, _ = searched
    arguments = ["tune", f"{place.folder}/tiny.toml", "--data", f"{place.folder}/data", "--out", f"{place.out}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split()[:5] == ["trial", "state", "score", "seconds", "training.head_learning_rate"]
    scores = [float(row.split()[2]) for row in rows]
    assert len(rows) >= 3 and scores == sorted(scores, reverse=True)
    assert f"mtrec-edge compress {place.out}/best.toml --data" in result.stderr
    stored = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert stored == json.loads((place.out / "trials.json").read_text())


def test_progress_goes_to_stderr_and_counts_what_is_left(place: Place) -> None:
    arguments = ["tune", f"{place.folder}/tiny.toml", "--data", f"{place.folder}/data", "--out", f"{place.out}"]
    result = CliRunner().invoke(main, [*arguments, "--trials", "1", "--json"])
    assert json.loads(result.stdout)["best"] == 0
    assert "trial 0, 1 left: teacher.training.head_learning_rate 0.01" in result.stderr
    assert "; 0 left" in result.stderr
