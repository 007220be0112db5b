"""The settings of one run of the training loop; a recipe has several, see recipe.py."""

from dataclasses import dataclass
from typing import Literal

from mtrec_edge_compress.span import within
from mtrec_edge_runtime.errors import RecipeError

Weighting = Literal["static", "uncertainty", "dwa", "gradnorm", "pcgrad"]  # see weighting.py


@dataclass(frozen=True)
class Training:
    """One run of the training loop."""

    epochs: int = 3
    users: int = 64  # windows (a user's history and targets) a step
    domain_temperature: float = (
        1.0  # a domain's share of the steps goes with windows^(1 / this); above 1 helps small ones
    )
    targets: int = 8  # events of a window that are scored
    negatives: int = 128  # sampled unobserved items a step, shared by its users
    fresh_targets: int = 1  # targets of a window encoded with gradients, and that share of the negatives; else cached
    texts: int = 32  # labelled texts a step, for the text tasks
    prior_dropout: float = 0.1  # share of candidates shown without priors and affinity, as an unseen item is
    link_dropout: float = 0.1  # share of windows shown without any affinity, as where users did little together
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 5e-5  # of the text backbone
    head_learning_rate: float = 1e-3  # of everything else
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of all steps
    clip: float = 1.0  # greatest gradient norm
    accumulation: int = 1  # steps whose gradients are added before an update
    patience: int = 2  # epochs without a better validation before stopping
    task_patience: int = 0  # the same for a task by its own headline, which then weighs 0; 0: no task stops alone
    weighting: Weighting = "static"  # of the teacher; weighting.py says what each does, pcgrad needs the extra mtl
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware has it
    trackers: tuple[str, ...] = ()  # "tensorboard", "wandb": Accelerate's trackers
    save_minutes: float = 3.0  # at most this much work is lost by a kill

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        for name in ("epochs", "users", "targets", "negatives", "texts", "accumulation", "patience"):
            within(name, getattr(self, name), 1, 1_000_000)
        within("domain_temperature", self.domain_temperature, 0.1, 1000.0)
        within("task_patience", self.task_patience, 0, 1_000_000)
        within("fresh_targets", self.fresh_targets, 0, self.targets)
        for name in ("learning_rate", "head_learning_rate", "clip"):
            within(name, getattr(self, name), 1e-9, 1e3)
        for name in ("prior_dropout", "link_dropout", "warmup"):
            within(name, getattr(self, name), 0.0, 1.0)
        for tracker in self.trackers:
            if tracker not in ("tensorboard", "wandb"):
                raise RecipeError(f"tracker {tracker!r} is unknown; write tensorboard or wandb")
