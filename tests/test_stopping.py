"""Which tasks stop: by hand, and in a run that is resumed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import SETTINGS, source_for, tiny_arrays, tiny_learner

from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.stopping import TaskProgress
from mtrec_edge_compress.training import fit
from mtrec_edge_compress.weighting import TaskWeighting


def test_a_task_stops_by_its_own_headline_and_an_error_is_better_when_lower() -> None:
    progress = TaskProgress()
    epochs = [(0.9, 0.1), (0.8, 0.1), (0.7, 0.2), (0.7, 0.3), (0.6, 0.2), (0.5, 0.1), (0.4, 0.9)]
    stopped = []
    for rmse, ndcg in epochs:
        progress.note({"a.x rmse": rmse, "a.y ndcg@10": ndcg, "score": 0.0}, ["a.x", "a.y"], 2)
        stopped.append(list(progress.stopped))
    assert stopped == [[], [], [], [], [], ["a.y"], ["a.y"]]
    assert progress.best == {"a.x": -0.4, "a.y": 0.3} and not progress.all_stopped


def test_a_stopped_task_weighs_nothing() -> None:
    weighting = TaskWeighting({"a.x": 2.0, "a.y": 3.0}, "static")
    weighting.stopped = ("a.x",)
    assert float(weighting({"a.x": torch.tensor(5.0), "a.y": torch.tensor(7.0)})) == 21.0


def run(folder: Path, *values: float, epochs: int) -> tuple[list[tuple[str, ...]], TaskWeighting]:
    """Train with scripted values of movies.genre; return what was stopped as each validation began."""
    learner, seen, script = tiny_learner(tiny_arrays()), list[tuple[str, ...]](), list(values)

    def validate(_: MultiTaskModel, _pooled: object) -> dict[str, float]:
        seen.append(learner.weighting.stopped)
        value = script.pop(0)
        if value < 0:
            raise KeyboardInterrupt
        return {"movies.genre macro_f1": value, "movies.rating rmse": 1.0 / len(seen), "score": value}

    settings = replace(SETTINGS, epochs=epochs, patience=9, task_patience=2)
    fit(learner, source_for(learner, tiny_arrays()), settings, folder=folder, validate=validate, device="cpu")
    return seen, learner.weighting


def test_a_stopped_task_stays_stopped_in_a_resumed_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 0.5, 0.4, 0.3, -1.0, epochs=5)
    seen, weighting = run(tmp_path, 0.9, 0.9, epochs=5)  # better again, and too late
    assert seen == [("movies.genre",)] * 2 and weighting.weight("movies.genre") == 0.0


def test_a_run_ends_when_every_task_has_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner, seen = tiny_learner(tiny_arrays()), list[float]()

    def validate(_: MultiTaskModel, _pooled: object) -> dict[str, float]:
        seen.append(0.5)
        return {"movies.genre macro_f1": 0.5, "score": float(len(seen))}

    settings = replace(SETTINGS, epochs=6, task_patience=2)
    source = source_for(learner, tiny_arrays())
    fit(learner, source, settings, folder=tmp_path, validate=validate, device="cpu", progress=True)
    assert len(seen) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if re.match(r"training \d: ", line)]  # no bars
    assert [line.endswith("; stopped: movies.genre") for line in lines] == [False, False, True]
    fit(learner, source, replace(settings, epochs=1), folder=tmp_path / "next", device="cpu")
    assert learner.weighting.stopped == ()  # another training begins with all tasks
