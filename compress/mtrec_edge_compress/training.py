"""The one training loop (Accelerate): any learner, CPU, CUDA, several GPUs or machines; resumable, early stopping.

A killed run goes on from its last saved step. Knows nothing of tasks or texts.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, is_tensorboard_available, is_wandb_available, set_seed
from torch import Tensor
from tqdm import tqdm

from mtrec_edge_compress.batches import Batch, BatchSource
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.device import Device, open_device
from mtrec_edge_compress.encoding import model_dtype
from mtrec_edge_compress.memory import keep_freed_memory
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.optimizer import make_optimizers, rate_factor
from mtrec_edge_compress.pair_learner import PairLearner
from mtrec_edge_compress.stopping import TaskProgress
from mtrec_edge_compress.surgery import check_surgery, surgical_backward
from mtrec_edge_compress.training_settings import Training, Weighting
from mtrec_edge_runtime.errors import DivergedError, StageError
from mtrec_edge_runtime.whole_file import write_whole

# A model, its pooled states of every text where they are at hand -> metrics; of "score" higher is better.
Validate = Callable[[MultiTaskModel, Tensor | None], dict[str, float]]

# Texts are padded to a multiple of so many tokens in bf16: CUDA's tensor cores want it, and on a CPU oneDNN compiles
# a kernel for each new shape of a product.
BF16_MULTIPLE = 8


@dataclass
class Progress:
    """Where a run stands; stored beside its checkpoint."""

    epoch: int = 0
    step: int = 0  # batches of the epoch that are done
    updates: int = 0
    best: float = float("-inf")
    stale: int = 0  # epochs since the best
    seconds: float = 0.0
    finished: bool = False
    tasks: TaskProgress = field(default_factory=TaskProgress)


def fit(
    learner: PairLearner,
    source: BatchSource,
    settings: Training,
    *,
    folder: Path,
    validate: Validate | None = None,
    device: Device = "auto",
    label: str = "training",
    progress: bool = False,
) -> dict[str, float]:
    """Train `learner.model` in place and return the best validation metrics.

    Args:
        learner: what turns a batch into losses.
        source: where batches come from.
        settings: epochs, rates and the rest.
        folder: checkpoints (`state-EPOCH-STEP/`, `best/`, `progress.json`, `validation.json`); a run found there is
            resumed.
        validate: called after each epoch; without it, or where its score is nan, the last epoch is kept.
        device: `auto` takes CUDA where there is one.
        label: shown by the progress bar.
        progress: whether to show it.

    Raises:
        DivergedError: a loss is no number.
        StageError: CUDA was asked for in vain.
    """
    place = open_device(device)
    keep_freed_memory()
    dtype = model_dtype(place, settings.precision)
    accelerator = _accelerator(settings, place, dtype, folder)
    check_weighting(learner.weighting.kind, processes=accelerator.num_processes)
    set_seed(source.seed)
    source = replace(
        source,
        length_multiple=BF16_MULTIPLE if dtype == torch.bfloat16 else 1,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    run = _Run(accelerator, learner, source, settings, folder, dtype, label, progress)
    run.train(validate)
    return run.finish()


def check_weighting(kind: Weighting, *, processes: int) -> None:
    """Raise StageError when the weighting needs one process, or a library that is missing."""
    if kind in ("gradnorm", "pcgrad") and processes > 1:
        raise StageError(
            f"weighting = {kind!r} looks at each task's gradients in one process, and {processes} train; the next "
            "step: one process, or weighting = 'dwa', 'uncertainty' or 'static'"
        )
    if kind == "pcgrad":
        check_surgery()


def _accelerator(settings: Training, device: torch.device, dtype: torch.dtype, folder: Path) -> Accelerator:
    installed = {"tensorboard": is_tensorboard_available(), "wandb": is_wandb_available()}
    for tracker in settings.trackers:
        if not installed[tracker]:
            raise StageError(
                f"tracker {tracker!r} was asked for and is not installed; the next step: pip install "
                "'mtrec-edge[track]'"
            )
    AcceleratorState._reset_state()  # one run may use another precision than the one before
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if dtype == torch.bfloat16 else "no",
        gradient_accumulation_steps=settings.accumulation,
        log_with=list(settings.trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)],
    )


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        accelerator: Accelerator,
        learner: PairLearner,
        source: BatchSource,
        settings: Training,
        folder: Path,
        dtype: torch.dtype,
        label: str,
        show: bool,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator, self.source, self.settings, self.folder = accelerator, source, settings, folder
        self.dtype, self.label = dtype, label
        self.show = show and accelerator.is_main_process
        self.refreshed = False  # whether the learner's cache is of the weights as they are
        learner.to(accelerator.device)
        self.wrapped, *self.optimizers = accelerator.prepare(learner, *make_optimizers(learner, settings))
        self.learner = cast(PairLearner, accelerator.unwrap_model(self.wrapped))
        self.steps = [source.steps(epoch) for epoch in range(settings.epochs)]
        self.updates = sum(-(-n // settings.accumulation) for n in self.steps)
        self.rates = [group["lr"] for group in self._groups()]
        if settings.trackers:
            accelerator.init_trackers("mtrec-edge", config={k: str(v) for k, v in asdict(settings).items()})
        self.progress = self._resume()
        self.learner.weighting.stopped = tuple(self.progress.tasks.stopped)  # not those of a training before

    def _resume(self) -> Progress:
        stored = self.folder / "progress.json"
        if not stored.is_file():
            return Progress()
        values = json.loads(stored.read_text())
        progress = Progress(**{**values, "tasks": TaskProgress(**values.get("tasks", {}))})
        if not progress.finished:
            self.accelerator.load_state(str(self.folder / f"state-{progress.epoch}-{progress.step}"))
        return progress

    def train(self, validate: Validate | None) -> None:
        """Run the epochs that are left."""
        began = time.monotonic() - self.progress.seconds
        while not self.progress.finished and self.progress.epoch < self.settings.epochs:
            self._epoch(began)
            if validate is not None:  # what it looks at serves the next epoch too
                self.learner.refresh(self.accelerator.device, self.dtype)
                self.refreshed = True
            metrics = {"score": 0.0} if validate is None else self._validate(validate)
            self._stop_tasks(metrics)
            self._report(metrics)
            self._end_epoch(metrics, keep_last=validate is None)
            self._save(time.monotonic() - began)

    def _epoch(self, began: float) -> None:
        epoch, saved = self.progress.epoch, time.monotonic()
        if not self.refreshed:
            self.learner.refresh(self.accelerator.device, self.dtype)
        self.refreshed = False
        self.learner.train()
        means: dict[str, float] = {}
        title = f"{self.label} {epoch + 1}/{self.settings.epochs}"
        with tqdm(total=self.steps[epoch], initial=self.progress.step, desc=title, disable=not self.show) as bar:
            for batch in self.source.epoch(epoch, self.progress.step):
                done = self.progress.step + 1
                update = done % self.settings.accumulation == 0 or done == self.steps[epoch]
                losses = self._step(batch.to(self.accelerator.device), update=update)
                for name, loss in losses.items():
                    means[name] = 0.95 * means.get(name, loss) + 0.05 * loss
                self.progress.step += 1
                bar.update()
                bar.set_postfix({name: f"{mean:.3f}" for name, mean in means.items()}, refresh=False)
                if update and self._agreed(time.monotonic() - saved > 60 * self.settings.save_minutes):
                    self._save(time.monotonic() - began)
                    saved = time.monotonic()

    def _agreed(self, mine: bool) -> bool:
        """Return what the main process found: clocks differ, and who waits for the others to save waits in vain."""
        if self.accelerator.num_processes == 1:
            return mine
        found = torch.tensor([float(mine)], device=self.accelerator.device)
        torch.distributed.broadcast(found, 0)
        return bool(found)

    def _step(self, batch: Batch, *, update: bool) -> dict[str, float]:
        """Add the batch's gradients, and update the weights with all that were added; return the losses by task."""
        self.learner.done = self.progress.updates / self.updates
        with nullcontext() if update else self.accelerator.no_sync(self.wrapped):
            total, losses = self.wrapped(batch)
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            if not torch.isfinite(total):
                raise DivergedError(
                    f"{self.label}: the loss became {float(total.detach())} at epoch {self.progress.epoch + 1}, step "
                    f"{self.progress.step} ({values}); the next step: a lower learning_rate, or precision = 'fp32'"
                )
            self._backward(total, losses)
        if update:
            self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.clip)
            self._set_rates()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.progress.updates += 1
        if self.settings.trackers:
            self.accelerator.log({f"{self.label}/{k}": v for k, v in values.items()}, step=self.progress.updates)
        return values

    def _backward(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        weighting = self.learner.weighting
        if weighting.kind == "pcgrad":
            weights = {name: weighting.weight(name) / self.settings.accumulation for name in losses}
            learnt = [weights[name] * loss for name, loss in losses.items() if weights[name] and loss.requires_grad]
            if learnt:
                surgical_backward(learnt, *self.learner.parameters_shared())
        else:  # gradients are averaged over processes; the losses already divide by the global count
            self.accelerator.backward(total * self.accelerator.num_processes)

    def _set_rates(self) -> None:
        factor = rate_factor(self.progress.updates + 1, self.updates, warmup=self.settings.warmup)
        for group, rate in zip(self._groups(), self.rates, strict=True):
            group["lr"] = rate * factor

    def _groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters that have a rate each."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _validate(self, validate: Validate) -> dict[str, float]:
        """Measure on the main process; every process hears the result."""
        score = torch.zeros(1, device=self.accelerator.device)
        metrics: dict[str, float] = {}
        if self.accelerator.is_main_process:
            with every_core():
                metrics = validate(self.learner.model, self.learner.cache)
            score[0] = metrics["score"]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast(score, 0)
            if self.settings.task_patience:
                metrics = broadcast_object_list([metrics])[0]
        if self.settings.trackers:
            self.accelerator.log(
                {f"{self.label}/validation/{k}": v for k, v in metrics.items()}, step=self.progress.updates
            )
        return {**metrics, "score": float(score)}

    def _stop_tasks(self, metrics: dict[str, float]) -> None:
        """Take the tasks that no longer get better out of the loss."""
        if self.settings.task_patience:
            tasks, weighting = self.progress.tasks, self.learner.weighting
            tasks.note(metrics, weighting.names, self.settings.task_patience)
            weighting.stopped = tuple(tasks.stopped)

    def _report(self, metrics: dict[str, float]) -> None:
        if self.show and len(metrics) > 1:
            stopped = ", ".join(self.progress.tasks.stopped)
            line = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()) + (f"; stopped: {stopped}" if stopped else "")
            tqdm.write(f"{self.label} {self.progress.epoch + 1}: {line}", file=sys.stderr)

    def _end_epoch(self, metrics: dict[str, float], *, keep_last: bool) -> None:
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self.learner.end_epoch()
        unknown = keep_last or math.isnan(metrics["score"])
        if unknown or metrics["score"] > self.progress.best:
            self.progress.best, self.progress.stale = 0.0 if unknown else metrics["score"], 0
            if self.accelerator.is_main_process:
                self.learner.save(self.folder / "best")
                write_whole(self.folder / "validation.json", json.dumps(metrics))
        else:
            self.progress.stale += 1
        exhausted = self.progress.stale >= self.settings.patience or self.progress.tasks.all_stopped
        self.progress.finished = exhausted or self.progress.epoch >= self.settings.epochs

    def _save(self, seconds: float) -> None:
        """Save everything needed to go on; the pointer file moves last."""
        self.progress.seconds = seconds
        name = f"state-{self.progress.epoch}-{self.progress.step}"
        if not self.progress.finished:
            self.accelerator.save_state(str(self.folder / name))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_whole(self.folder / "progress.json", json.dumps(asdict(self.progress)))
            for old in self.folder.glob("state-*"):
                if old.name != name or self.progress.finished:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def finish(self) -> dict[str, float]:
        """Put the best weights into the learner's model and return their validation metrics.

        The learner's cache stays where it holds just what these weights give in FP32.
        """
        if self.settings.trackers:
            self.accelerator.end_training()
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)  # the next run wraps it anew
        self.learner.done = 0.0
        if self.progress.stale or not self.refreshed or self.dtype != torch.float32:
            self.learner.cache = None  # not of the best weights, or not exact
        self.learner.restore(self.folder / "best")
        self.learner.model.eval()
        metrics: dict[str, float] = json.loads((self.folder / "validation.json").read_text())
        return metrics
