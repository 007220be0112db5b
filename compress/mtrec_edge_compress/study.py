"""A search on disk: Optuna's study in one journal file, the next trial to run, and its trials as data.

A killed search goes on: finished trials count, an unfinished one is run again with the same values. Knows nothing of
training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from mtrec_edge_compress.span import Span
from mtrec_edge_runtime.errors import StageError

DRAWN_AT_RANDOM = 5  # trials before TPE leads, and before a median stops one; trials are few and dear
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
STATES = {  # Optuna's names -> ours
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "interrupted",  # by a kill; the next trial ran its values again
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class TrialResult:
    """One trial."""

    number: int
    state: str  # of STATES
    score: float | None  # best of its epochs on the VALIDATION fold
    seconds: float | None
    values: dict[str, Any]  # dotted key -> value
    epochs: dict[int, float]  # epoch -> score; those before a kill are missing
    reason: str  # why it was stopped


def open_study(path: Path, settings: Mapping[str, object]) -> optuna.Study:
    """Open or begin the study in the file `path`, made with these settings; take up what a kill left unfinished.

    Raises:
        StageError: the file is no study, or one of other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path)))),
            study_name="tune",
            direction="maximize",
            pruner=MedianPruner(n_startup_trials=DRAWN_AT_RANDOM),
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise StageError(f"{path} is no study that can be read ({error}); the next step: another --out") from error
    _refuse_another(study, path.parent, json.loads(json.dumps(settings)))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _refuse_another(study: optuna.Study, folder: Path, settings: dict[str, Any]) -> None:
    stored = study.user_attrs.get("settings")
    if stored is None:
        study.set_user_attr("settings", settings)
    elif stored != settings:
        differing = ", ".join(name for name in settings if settings[name] != stored.get(name))
        raise StageError(
            f"{folder} holds a search with another {differing}; the next step: give another --out, or the recipe, "
            "--set and --data that search was begun with"
        )


def begin_with(study: optuna.Study, values: Mapping[str, object]) -> None:
    """Let a new study try these values first; a setting that is not among them is drawn."""
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(values))


def next_trial(study: optuna.Study, distributions: dict[str, BaseDistribution], *, seed: int) -> optuna.Trial:
    """Ask for a trial. Seeded by the count of finished ones, so that a kill does not change what is drawn."""
    (state,) = np.random.SeedSequence([seed, len(finished(study))]).generate_state(1)
    study.sampler = TPESampler(n_startup_trials=DRAWN_AT_RANDOM, seed=int(state))
    return study.ask(distributions)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: complete ones, and those that were stopped early."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def distribution(span: Span, *, whole: bool) -> BaseDistribution:
    """Return what a setting's values are drawn from."""
    if span.choices:
        return CategoricalDistribution(span.choices)
    if whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=int(span.step) or 1)
    return FloatDistribution(span.low, span.high, log=span.log, step=span.step or None)


def trial_results(study: optuna.Study) -> tuple[TrialResult, ...]:
    """Return every trial that was begun, in the order they were."""
    return tuple(_result(trial) for trial in study.get_trials(deepcopy=False) if trial.state in STATES)


def _result(trial: FrozenTrial) -> TrialResult:
    epochs = {epoch: float(score) for epoch, score in trial.intermediate_values.items()}
    return TrialResult(
        number=trial.number,
        state=STATES[trial.state],
        score=trial.value if trial.state == TrialState.COMPLETE else max(epochs.values(), default=None),
        seconds=trial.user_attrs.get("seconds"),
        values=dict(trial.params),
        epochs=epochs,
        reason=trial.user_attrs.get("reason", ""),
    )


def best_first(trials: tuple[TrialResult, ...]) -> list[TrialResult]:
    """Return the finished trials: complete ones by score, then stopped ones by score."""
    states = ("complete", "stopped")
    scored = [trial for trial in trials if trial.state in states]
    lowest = float("-inf")
    return sorted(scored, key=lambda t: (states.index(t.state), -(lowest if t.score is None else t.score)))
