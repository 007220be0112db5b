"""The training loop: keeps the best epoch, survives a real kill, and says what stands in the way."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SETTINGS, source_for, tiny_arrays, tiny_learner, world_arrays
from torch import Tensor

from mtrec_edge_compress.data.arrays import Arrays, build_arrays
from mtrec_edge_compress.device import open_device
from mtrec_edge_compress.encoding import encode_pooled
from mtrec_edge_compress.learner import Learner
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.training import Validate, check_weighting, fit
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_runtime.errors import StageError

TRAIN_TINY = Path(__file__).with_name("train_tiny.py")
Weights = dict[str, torch.Tensor]


def train(
    folder: Path,
    settings: Training = SETTINGS,
    *,
    arrays: Arrays | None = None,
    learner: Learner | None = None,
    validate: Validate | None = None,
    **changes: Any,
) -> Weights:
    """Train the tiny learner and return its weights."""
    arrays = arrays or tiny_arrays()
    learner = learner or tiny_learner(arrays)
    source = source_for(learner, arrays, settings, **changes)
    fit(learner, source, settings, folder=folder, validate=validate, device="cpu")
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def apart(one: Weights, other: Weights) -> float:
    """Return the greatest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


class Scripted:
    """A validation that returns given scores and remembers the weights it saw."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.seen = list(scores), list[Weights]()

    def __call__(self, model: MultiTaskModel, _pooled: Tensor | None) -> dict[str, float]:
        self.seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        score = self.scores[len(self.seen) - 1]
        return {"score": score, "rmse": 1 - score}


def test_training_learns(tmp_path: Path) -> None:
    learner = tiny_learner(tiny_arrays())
    seen: list[float] = []
    learner.register_forward_hook(lambda module, inputs, output: seen.append(float(output[0].detach())))
    train(tmp_path, replace(SETTINGS, epochs=15, learning_rate=3e-3), learner=learner)
    assert sum(seen[-6:]) < 0.8 * sum(seen[:6])


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    validate = Scripted(0.1, 0.5, 0.2, 0.4, 0.9)
    weights = train(tmp_path, replace(SETTINGS, epochs=5, patience=2), validate=validate)
    assert len(validate.seen) == 4  # two epochs without a better one, and no fifth
    assert apart(weights, validate.seen[1]) == 0
    assert apart(weights, validate.seen[3]) > 0
    assert json.loads((tmp_path / "validation.json").read_text()) == {"score": 0.5, "rmse": 0.5}


def test_where_nothing_can_be_validated_every_epoch_is_trained_and_the_last_is_kept(tmp_path: Path) -> None:
    validate = Scripted(*[math.nan] * 4)
    weights = train(tmp_path, replace(SETTINGS, epochs=4, patience=1), validate=validate)
    assert len(validate.seen) == 4
    assert apart(weights, validate.seen[3]) == 0


@pytest.mark.parametrize(("scores", "kept"), [((0.1, 0.2), True), ((0.2, 0.1), False)])
def test_what_the_last_validation_read_is_kept_while_it_is_the_best_models(
    tmp_path: Path, scores: tuple[float, ...], kept: bool
) -> None:
    learner = tiny_learner(tiny_arrays())
    train(tmp_path, learner=learner, validate=Scripted(*scores))
    if not kept:
        assert learner.cache is None
    else:
        assert learner.cache is not None
        again = encode_pooled(learner.model, learner.tokens, open_device("cpu"), torch.float32)
        torch.testing.assert_close(learner.cache, again, rtol=0, atol=0)


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    learner = tiny_learner(tiny_arrays())
    last = train(tmp_path / "two", replace(SETTINGS, epochs=2), learner=learner)
    assert apart(last, load_file(tmp_path / "two/best/model.safetensors")) == 0


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    assert apart(train(tmp_path / "a"), train(tmp_path / "b")) == 0


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    validate = Scripted(0.3, 0.4)
    first = train(tmp_path, validate=validate)
    again = train(tmp_path, validate=validate)
    assert len(validate.seen) == 2 and apart(first, again) == 0
    assert not list(tmp_path.glob("state-*"))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
@pytest.mark.parametrize("weighting", ["static", "uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_every_optimizer_and_weighting_trains(tmp_path: Path, optimizer: Any, weighting: Any) -> None:
    if weighting == "pcgrad":
        pytest.importorskip("torchjd")
    learner = tiny_learner(tiny_arrays(), weighting=weighting)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    rate = 0.05 if optimizer == "sgd" else 1e-3
    settings = replace(
        SETTINGS, epochs=1, optimizer=optimizer, weighting=weighting, learning_rate=rate, head_learning_rate=rate
    )
    weights = train(tmp_path, settings, learner=learner)
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert {"text.projection.weight", "heads.inner.weight", "text.backbone.embeddings.word_embeddings.weight"} <= moved
    if learner.weighting.log_variance is not None:
        assert learner.weighting.log_variance[: len(tiny_arrays().tasks)].abs().min() > 0  # no batch has alignment
    if learner.weighting.norms is not None:
        share = dict(zip(learner.weighting.names, learner.weighting.norms.share.tolist(), strict=True))
        assert all(share[task.name] != 1 for task in tiny_arrays().tasks)


@pytest.mark.parametrize("kind", ["gradnorm", "pcgrad"])
def test_a_weighting_that_looks_at_gradients_refuses_several_processes(kind: Any) -> None:
    with pytest.raises(StageError, match=rf"weighting = '{kind}' .* in one process, and 2 train; the next step"):
        check_weighting(kind, processes=2)


def test_one_task_alone_learns_by_surgery_as_without(tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    data = tiny_arrays().dataset
    arrays = build_arrays(replace(data, tasks=(tiny_arrays().task("movies.genre"),)))
    settings = replace(SETTINGS, accumulation=2)
    plain, surgery = (
        train(tmp_path / kind, settings, arrays=arrays, learner=tiny_learner(arrays, weighting=kind))
        for kind in ("static", "pcgrad")
    )
    assert apart(plain, surgery) < 1e-5


def test_bf16_trains_weights_that_stay_fp32_and_another_precision_may_follow(tmp_path: Path) -> None:
    half = train(tmp_path / "bf16", replace(SETTINGS, precision="bf16"))
    assert all(tensor.dtype == torch.float32 for tensor in half.values() if tensor.is_floating_point())
    assert all(tensor.isfinite().all() for tensor in half.values())
    full = train(tmp_path / "fp32")
    assert 0 < apart(half, full) < 0.05
    assert apart(full, train(tmp_path / "again")) == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_accumulating_two_batches_equals_one_twice_as_large(tmp_path: Path, optimizer: Any) -> None:
    """Of texts that all have one label, for a batch's losses are means over its labels."""
    data = tiny_arrays().dataset
    arrays = build_arrays(replace(data, tasks=(tiny_arrays().task("movies.genre"),)))
    assert ((arrays.item_fold == 0) & (arrays.labels("movies.genre") >= 0)).sum() == 24  # type: ignore[operator]
    base = replace(SETTINGS, epochs=1, optimizer=optimizer)

    def weights(name: str, texts: int, accumulation: int) -> Weights:
        settings = replace(base, texts=texts, accumulation=accumulation)
        return train(tmp_path / name, settings, arrays=arrays, with_pairs=False)

    small, large, single = weights("small", 4, 2), weights("large", 8, 1), weights("single", 4, 1)
    assert apart(small, large) < 1e-4 < apart(single, large)


def test_what_is_left_over_at_an_epochs_end_updates_the_weights(tmp_path: Path) -> None:
    one = train(tmp_path / "one", replace(SETTINGS, epochs=1, texts=13, accumulation=50), with_pairs=False)
    assert apart(one, tiny_learner(tiny_arrays()).model.state_dict()) > 1e-4


def test_warm_up_then_decay(tmp_path: Path) -> None:
    learner = tiny_learner(tiny_arrays())
    settings = replace(SETTINGS, epochs=4, warmup=0.5, optimizer="sgd", head_learning_rate=1e-3)
    rates: list[float] = []
    step = torch.optim.SGD.step

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[1]["lr"])
            return step(self, closure)

    patch = pytest.MonkeyPatch()
    patch.setattr(torch.optim, "SGD", Watched)
    train(tmp_path, settings, learner=learner)
    patch.undo()
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(1e-3) and abs(top + 1 - len(rates) / 2) <= 1
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.05 * 1e-3)


def test_cuda_without_a_cuda_device_is_told(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(StageError, match=r"--device cuda was asked for .*; the next step: --device cpu"):
        open_device("cuda")
    learner = tiny_learner(tiny_arrays())
    source = source_for(learner, tiny_arrays())
    with pytest.raises(StageError, match="--device cuda"):
        fit(learner, source, SETTINGS, folder=tmp_path, device="cuda")
    assert open_device("auto") == open_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
def test_cuda_trains(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    learner = tiny_learner(tiny_arrays())
    fit(learner, source_for(learner, tiny_arrays()), SETTINGS, folder=tmp_path, device="cuda")
    on_gpu = {name: tensor.cpu() for name, tensor in learner.model.state_dict().items()}
    assert apart(on_gpu, train(tmp_path / "cpu")) < 1e-2


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    learner = tiny_learner(tiny_arrays())
    with torch.no_grad():
        learner.model.heads.outer.fill_(torch.nan)
    with pytest.raises(StageError, match=r"the loss became nan at epoch 1, step \d.*; the next step: a lower"):
        train(tmp_path, learner=learner)
    assert not (tmp_path / "best").exists()


def test_tensorboard_files_appear(tmp_path: Path) -> None:
    train(tmp_path, replace(SETTINGS, trackers=("tensorboard",)), validate=Scripted(0.1, 0.2))
    assert [path for path in tmp_path.rglob("events.out.tfevents*") if path.stat().st_size > 500]


def test_wandb_runs_offline_or_says_that_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, epochs=1, trackers=("wandb",))
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(StageError, match=r"tracker 'wandb' .* not installed; the next step: pip install 'mtrec-ed"):
            train(tmp_path, settings)
        pytest.skip("wandb is not installed: only its absence could be tested")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(tmp_path, settings)
    assert list(tmp_path.rglob("*.wandb"))


def process(folder: Path, **options: Any) -> int:
    """Run train_tiny.py and return its exit code."""
    command = [sys.executable, str(TRAIN_TINY), str(folder), json.dumps(options)]
    done = subprocess.run(command, env={**os.environ, "RANK": "0"}, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def steps(folder: Path) -> list[str]:
    return (folder / "steps.jsonl").read_text().splitlines()


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_goes_on_there(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert process(whole) == 0
    middle = len(steps(whole)) * 3 // 4  # of the second of two epochs
    assert process(killed, save_minutes=0.0, kill_at_step=middle) == -signal.SIGKILL
    assert len(steps(killed)) == middle and list(killed.glob("state-1-*"))
    assert process(killed, save_minutes=0.0) == 0
    assert steps(killed) == steps(whole)  # no step twice, none left out
    assert not list(killed.glob("state-*"))
    moved = {name: load_file(folder / "best/model.safetensors") for name, folder in (("w", whole), ("k", killed))}
    assert apart(moved["w"], moved["k"]) < 0.02  # the cache was refreshed once more


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighting", "epochs", "optimizer"), [("static", 2, "adamw"), ("dwa", 3, "adamw"), ("static", 2, "muon")]
)
def test_a_run_killed_between_two_epochs_ends_as_if_it_had_not_been(
    tmp_path: Path, weighting: str, epochs: int, optimizer: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = {"dropout": 0.1, "weighting": weighting, "epochs": epochs, "optimizer": optimizer}
    assert process(whole, **options) == 0
    assert process(killed, **options, kill_in_validation=epochs) == -signal.SIGKILL  # the last epoch's work is lost
    assert process(killed, **options) == 0
    again = len(steps(killed)) - len(steps(whole))  # the steps of the last epoch were taken twice
    assert again > 0 and steps(killed)[-again:] == steps(whole)[-again:]
    found, expected = (load_file(folder / "best/model.safetensors") for folder in (killed, whole))
    assert apart(found, expected) < 1e-6


def test_the_worlds_every_task_trains(tmp_path: Path) -> None:
    arrays = world_arrays()
    learner = tiny_learner(arrays, weighting="uncertainty")
    settings = replace(SETTINGS, epochs=1, users=16)
    fit(learner, source_for(learner, arrays, settings), settings, folder=tmp_path, device="cpu")
    assert learner.weighting.log_variance is not None
    assert (learner.weighting.log_variance[: len(arrays.tasks)] != 0).all()  # no batch has alignment
