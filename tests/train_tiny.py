"""Train the tiny teacher, or a student of it, in a process of its own; asked to, it kills itself (SIGKILL), as a power
cut would.

    python train_tiny.py FOLDER '{"epochs": 2, "kill_at_step": 5}'

Each finished step's texts are appended to FOLDER/steps.jsonl by the main process; the weights are left in FOLDER/best.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tiny_training import (
    RECIPE,
    SETTINGS,
    source_for,
    tiny_learner,
    tiny_student_learner,
    world_arrays,
)
from torch import Tensor

from mtrec_edge_compress import training
from mtrec_edge_compress.batches import Batch
from mtrec_edge_compress.learner import Learner
from mtrec_edge_compress.model import MultiTaskModel


def log_steps(learner: Learner, log: Path, kill_at: int) -> None:
    """Let the learner write down what it learnt from, or die at a step instead."""
    forward = learner.forward

    def logged(batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        done = len(log.read_text().splitlines()) if log.is_file() else 0
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        found = forward(batch)
        if os.environ.get("RANK", "0") == "0":
            with log.open("a") as lines:
                lines.write(json.dumps(batch.rows.tolist()) + "\n")
        return found

    learner.forward = logged  # type: ignore[method-assign]


def learner_of(options: dict[str, Any]) -> Learner:
    """Return what is trained: a student where a share of own windows is asked for."""
    arrays = world_arrays()
    if share := options.pop("own_windows", 0.0):
        return tiny_student_learner(arrays, replace(RECIPE, distill=replace(RECIPE.distill, own_windows=share)))
    return tiny_learner(arrays, dropout=options.pop("dropout", 0.0), weighting=options.pop("weighting", "static"))


def main(folder: Path, options: dict[str, Any]) -> None:
    """Train to the end, or to the death that was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = world_arrays()
    learner, log = learner_of(options), folder / "steps.jsonl"
    log_steps(learner, log, options.pop("kill_at_step", -1))
    kill_in, validations = options.pop("kill_in_validation", 0), 0

    if options.pop("clock_of_rank_1_stands", False) and os.environ.get("RANK") == "1":
        training.time = SimpleNamespace(monotonic=lambda: 0.0)  # type: ignore[assignment]

    def validate(_: MultiTaskModel, _pooled: Tensor | None) -> dict[str, float]:
        nonlocal validations
        validations += 1
        if validations == kill_in:
            os.kill(os.getpid(), signal.SIGKILL)
        # the longer the better, but one task never gets better
        return {"score": float(len(log.read_text())), "video.rating rmse": 1.0}

    assert int(os.environ.get("WORLD_SIZE", "1")) == options.pop("processes", 1)
    settings = replace(SETTINGS, users=16, **options)
    training.fit(
        learner, source_for(learner, arrays, settings), settings, folder=folder, validate=validate, device="cpu"
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
