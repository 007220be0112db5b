"""Search the settings of the teacher: train one a trial, stop the poor ones early, write the best recipe.

Reads a recipe and a dataset; writes under one folder `study.log`, `trials.json` and `best.toml`. A trial is judged on
the VALIDATION fold alone. Knows nothing of students, graphs or bundles.
"""

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from accelerate import PartialState
from optuna.trial import TrialState
from torch import Tensor
from tqdm import tqdm

from mtrec_edge_compress.checkpoint import model_hash
from mtrec_edge_compress.data.arrays import LAYOUT, Arrays, read_arrays
from mtrec_edge_compress.device import Device, open_device
from mtrec_edge_compress.job import COLLABORATION, Job
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.recipe_file import is_whole, make_recipe, read_tree, setting, with_settings
from mtrec_edge_compress.stages import collaborate
from mtrec_edge_compress.study import (
    TrialResult,
    begin_with,
    best_first,
    distribution,
    finished,
    next_trial,
    open_study,
    trial_results,
)
from mtrec_edge_compress.teacher import (
    check_detached,
    check_encoder,
    small_random_bert,
    task_weights,
    teacher_batches,
    train_teacher,
)
from mtrec_edge_compress.training import Validate
from mtrec_edge_runtime.errors import DivergedError, RecipeError, StageError
from mtrec_edge_runtime.whole_file import write_whole

JUDGED_BY = ("seed", "model", "weights", "collaborate", "teacher", "evaluation")  # settings a score depends on


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

    best: TrialResult
    trials: tuple[TrialResult, ...]
    best_recipe: Path

    def as_json(self) -> dict[str, Any]:
        """Return the content of `trials.json`."""
        return _as_json(self.trials)

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Return a header and a row a finished trial, best first."""
        keys = list(self.best.values)
        header = ["trial", "state", "score", "seconds", *(key.removeprefix("teacher.") for key in keys)]
        return header, [
            [
                trial.number,
                trial.state,
                _shown(trial.score),
                _shown(trial.seconds),
                *(_shown(trial.values.get(key)) for key in keys),
            ]
            for trial in best_first(self.trials)
        ]


@dataclass(frozen=True)
class _Search:
    """What every trial of a search shares."""

    tree: dict[str, Any]  # of the recipe, without a trial's values
    recipe: Recipe
    arrays: Arrays
    out: Path
    device: Device
    progress: bool

    def say(self, line: str) -> None:
        """Tell a person how far it has come."""
        if self.progress:
            tqdm.write(line, file=sys.stderr)


def tune(
    recipe_path: Path,
    *,
    data: Path,
    out: Path,
    encoder: str | None = None,
    device: Device = "auto",
    trials: int | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> Tuned:
    """Train teachers with the values that a recipe's `[tune]` lets vary, and write the best recipe.

    Args:
        recipe_path: a TOML recipe.
        data: a dataset folder that `prepare` wrote.
        out: folder of the search; one that was killed, or had fewer trials, goes on there.
        encoder: hub id or folder of the teacher's encoder, over the recipe's; stands in the best recipe, too.
        device: where to train.
        trials: how many finished trials there shall be, over the recipe's.
        overrides: `key=value` over the recipe.
        progress: show progress on stderr.

    Raises:
        MtrecError: whatever stands in the way, with the next step.
    """
    if PartialState(cpu=open_device(device).type == "cpu").num_processes > 1:
        raise StageError("a search trains in one process; the next step: run it without `accelerate launch`")
    tree = read_tree(recipe_path, overrides)
    if encoder is not None:
        tree = with_settings(tree, {"teacher.encoder": encoder})
    search = _Search(tree, make_recipe(tree), read_arrays(data), out, device, progress)
    _refuse_impossible(search, encoder)
    study = open_study(out / "study.log", _identity(search))
    begin_with(study, _own_values(search))
    _run_trials(search, study, trials or search.recipe.tune.trials)
    return _write_found(search, study)


def _refuse_impossible(search: _Search, encoder: str | None) -> None:
    keys = search.recipe.tune.search
    if encoder is not None and "teacher.encoder" in keys:
        raise RecipeError("--encoder gives what tune.search.teacher.encoder searches; the next step: leave one out")
    weights = {key.removeprefix("weights."): 1.0 for key in keys if key.startswith("weights.")}
    task_weights(replace(search.recipe, weights={**search.recipe.weights, **weights}), search.arrays)
    check_detached(search.recipe, search.arrays)
    own = search.recipe.teacher.encoder
    if own and not {"teacher.encoder", "model.max_tokens"} & keys.keys():
        check_encoder(search.recipe, own)


def _identity(search: _Search) -> dict[str, Any]:
    settings = asdict(search.recipe)
    return {
        "data": search.arrays.dataset.content_hash(),
        "layout": LAYOUT,
        "encoder": model_hash(search.recipe.teacher.encoder),
        **{name: settings[name] for name in JUDGED_BY},
        "search": settings["tune"]["search"],
    }


def _own_values(search: _Search) -> dict[str, object]:
    """Return the recipe's own values of what is searched, where they are among those searched."""
    recipe = replace(search.recipe, weights=task_weights(search.recipe, search.arrays))
    own = {key: setting(recipe, key) for key in recipe.tune.search}
    return {key: value for key, value in own.items() if recipe.tune.search[key].holds(value)}


def _run_trials(search: _Search, study: optuna.Study, wanted: int) -> None:
    """Run trials until so many are finished."""
    recipe = search.recipe
    spans = {key: distribution(span, whole=is_whole(recipe, key)) for key, span in recipe.tune.search.items()}
    while (done := len(finished(study))) < wanted:
        trial = next_trial(study, spans, seed=recipe.seed)
        search.say(f"trial {trial.number}, {wanted - done} left: {_listed(trial.params)}")
        folder = search.out / "trials" / _fingerprint(trial.params)
        seconds, began = _stored(folder, "seconds"), time.monotonic()
        score, reason = _outcome(search, study, trial, folder)
        trial.set_user_attr("seconds", round(seconds + time.monotonic() - began, 1))
        if score is None:
            trial.set_user_attr("reason", reason)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, score)
        _write_found_so_far(search, study)
        shutil.rmtree(folder, ignore_errors=True)
        search.say(
            f"trial {trial.number}: {reason if score is None else f'score {score:.4f}'}; {_outlook(study, wanted)}"
        )


def _outcome(search: _Search, study: optuna.Study, trial: optuna.Trial, folder: Path) -> tuple[float | None, str]:
    """Return a trial's score, or None and why it was stopped. The same values and seed have the same score."""
    for other in finished(study):
        if other.state == TrialState.COMPLETE and other.params == trial.params:
            return other.value, ""
    try:
        return _train(search, trial, folder), ""
    except (optuna.TrialPruned, DivergedError, RecipeError) as stop:
        return None, str(stop)


def _train(search: _Search, trial: optuna.Trial, folder: Path) -> float:
    """Train a teacher with a trial's values and return its best score on the VALIDATION fold."""
    recipe = _without_trackers(make_recipe(with_settings(search.tree, trial.params)))
    settings = recipe.teacher.training
    encoder = recipe.teacher.encoder or small_random_bert(recipe, search.arrays, folder / "encoder")
    links = search.out / "links" / _fingerprint(asdict(recipe.collaborate))
    job = Job(recipe, search.arrays, encoder, (), links, search.out, search.device, search.progress)
    if not (links / COLLABORATION).is_file():
        (links / COLLABORATION).parent.mkdir(parents=True, exist_ok=True)
        collaborate(job, links)
    trained = train_teacher(
        recipe,
        teacher_batches(recipe, search.arrays, job.teacher_tokens, job.collaboration),
        encoder,
        folder=folder,
        validate=_watched(
            job.validator(job.teacher_tokens, settings.precision),
            trial,
            done=int(_stored(folder, "epoch")),
            epochs=settings.epochs,
        ),
        device=search.device,
        progress=search.progress,
    )
    return trained.metrics["score"]


def _without_trackers(recipe: Recipe) -> Recipe:
    """Return the recipe without trackers: one that is stopped early would run on into the next trial."""
    training = replace(recipe.teacher.training, trackers=())
    return replace(recipe, teacher=replace(recipe.teacher, training=training))


def _watched(validate: Validate, trial: optuna.Trial, *, done: int, epochs: int) -> Validate:
    """Return `validate` such that it reports each epoch after `done`, and stops a trial below the median."""

    def watched(model: MultiTaskModel, pooled: Tensor | None) -> dict[str, float]:
        nonlocal done
        metrics = validate(model, pooled)
        if math.isnan(metrics["score"]):
            raise StageError(
                "the validation fold has no label of any task, so no trial is better than another; the next step: a "
                "dataset with events or labels to validate on"
            )
        done += 1
        trial.report(metrics["score"], done)
        if done < epochs and trial.should_prune():
            raise optuna.TrialPruned(f"below the median after epoch {done} of {epochs}")
        return metrics

    return watched


def _stored(folder: Path, name: str) -> float:
    """Return a number of a training's saved progress; 0 where there is none."""
    path = folder / "progress.json"
    return float(json.loads(path.read_text())[name]) if path.is_file() else 0.0


def _fingerprint(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _outlook(study: optuna.Study, wanted: int) -> str:
    """Return the best so far, how many trials are left and about how long they take."""
    ranked, done = best_first(trial_results(study)), finished(study)
    best = (
        f"best {ranked[0].score:.4f} of trial {ranked[0].number}" if ranked[0].state == "complete" else "none complete"
    )
    left = max(0, wanted - len(done))
    minutes = left * sum(trial.user_attrs["seconds"] for trial in done) / len(done) / 60
    return f"{best}; {left} left" + (f", about {minutes:.0f} min" if left else "")


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _shown(value: object) -> str:
    """Return a value for people: four digits, for learning rates and scores are small."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_found(search: _Search, study: optuna.Study) -> Tuned:
    """Write the results, remove what only a running trial needs, and return what was found."""
    found = _write_found_so_far(search, study)
    shutil.rmtree(search.out / "trials", ignore_errors=True)
    if found is None:
        reason = trial_results(study)[-1].reason
        raise StageError(f"no trial was finished ({reason}); the next step: another tune.search, and another --out")
    return found


def _write_found_so_far(search: _Search, study: optuna.Study) -> Tuned | None:
    """Write `trials.json` and, when a trial is complete, `best.toml`."""
    trials = trial_results(study)
    write_whole(search.out / "trials.json", json.dumps(_as_json(trials), indent=1))
    best = best_first(trials)[0]
    if best.state != "complete":
        return None
    path = search.out / "best.toml"
    head = f"# Trial {best.number} of `mtrec-edge tune`: score {best.score} on the validation fold.\n"
    write_whole(path, head + tomli_w.dumps(with_settings(search.tree, best.values)))
    return Tuned(best, trials, path)


def _as_json(trials: tuple[TrialResult, ...]) -> dict[str, Any]:
    best = best_first(trials)[0]
    return {
        "best": best.number if best.state == "complete" else None,
        "trials": [asdict(trial) for trial in trials],
    }
