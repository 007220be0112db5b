"""Two gloo processes learn what one does.

Each process encodes its own share of the texts and reads the rest from its cache, so that what a text adds to the
backbone's gradient by way of another process's users is left out, in favour of speed. Hence two tolerances: with the
backbone standing still (and its gradient out of the clipping) the two runs are the same to rounding; with it moving,
nearly.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SETTINGS, tiny_teacher, world_arrays
from train_tiny import __file__ as train_tiny

EXACT = 1e-5  # greatest difference of any weight, with the backbone standing still
NEARLY = 0.2  # length of the difference over length of the way, with it moving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def launch(folder: Path, processes: int, **options: Any) -> dict[str, torch.Tensor]:
    """Train in this many processes, with the environment a launcher gives them, and return the weights."""
    settings = {"fresh_targets": SETTINGS.targets, "processes": processes} | options
    command = [sys.executable, train_tiny, str(folder), json.dumps(settings)]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        running.append(subprocess.Popen(command, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(errors)[-3000:]
    return load_file(folder / "best/model.safetensors")


def way(weights: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the length of the difference of all weights."""
    return float(torch.stack([(weights[name] - other[name]).norm() for name in weights]).norm())


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "epochs"), [("static", 1), ("uncertainty", 1), ("dwa", 3)])
def test_two_processes_train_the_heads_as_one_does(tmp_path: Path, weighting: str, epochs: int) -> None:
    settings = {
        "optimizer": "sgd",
        "learning_rate": 1e-9,
        "head_learning_rate": 0.01,
        "weighting": weighting,
        "clip": 1e3,
    }
    one, two = (launch(tmp_path / str(n), n, epochs=epochs, **settings) for n in (1, 2))
    start = tiny_teacher(world_arrays()).state_dict()
    assert way(one, start) > 0.1
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < EXACT


@pytest.mark.slow
def test_two_processes_make_a_students_own_vectors_together(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 1e-9, "head_learning_rate": 0.01, "clip": 1e3, "epochs": 1}
    one, two, none = (
        launch(tmp_path / f"{n}-{share}", n, own_windows=share, fresh_targets=0, **settings)
        for n, share in ((1, 0.5), (2, 0.5), (1, 1e-9))
    )
    assert way(one, two) < NEARLY * way(one, none)  # a process's fresh vectors are its own


@pytest.mark.slow
def test_a_task_stops_in_every_process(tmp_path: Path) -> None:
    """After the second of three epochs, so in the third it weighs nothing."""
    settings = {"optimizer": "sgd", "learning_rate": 1e-9, "head_learning_rate": 0.01, "clip": 1e3, "epochs": 3}
    one, two = (launch(tmp_path / str(n), n, task_patience=1, **settings) for n in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < EXACT
    without = launch(tmp_path / "without", 1, **settings)
    assert way(one, without) > 1e-3


@pytest.mark.slow
def test_two_processes_train_the_whole_nearly_as_one_does(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05}
    one, two = (launch(tmp_path / str(n), n, epochs=1, **settings) for n in (1, 2))
    start = tiny_teacher(world_arrays()).state_dict()
    assert way(one, two) < NEARLY * way(one, start)


@pytest.mark.slow
def test_processes_whose_clocks_differ_save_together(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 1e-9, "head_learning_rate": 0.01, "clip": 1e3, "epochs": 1}
    one = launch(tmp_path / "1", 1, **settings)
    two = launch(tmp_path / "2", 2, save_minutes=0.0, clock_of_rank_1_stands=True, **settings)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < EXACT
