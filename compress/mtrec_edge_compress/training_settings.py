"""The settings of one run of the training loop; a recipe has several, see recipe.py."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mtrec_edge_compress.span import Count, Positive, Ranged, Share, within
from mtrec_edge_runtime.errors import RecipeError

Weighting = Literal["static", "uncertainty", "dwa", "gradnorm", "pcgrad"]  # see weighting.py


@dataclass(frozen=True)
class Training(Ranged):
    """One run of the training loop."""

    epochs: Count = 3
    users: Count = 64  # windows (a user's history and targets) a step
    domain_temperature: Annotated[float, 0.1, 1000.0] = 1.0  # a domain's share of steps: windows^(1 / this)
    targets: Count = 8  # events of a window that are scored
    negatives: Count = 128  # sampled unobserved items a step, shared by its users
    fresh_targets: int = 1  # targets of a window encoded with gradients, and that share of the negatives; else cached
    texts: Count = 32  # labelled texts a step, for the text tasks
    prior_dropout: Share = 0.1  # share of candidates shown without priors and affinity, as an unseen item is
    history_dropout: Share = 0.05  # share of windows shown without a history, as a user's first visit is
    link_dropout: Share = 0.1  # share of windows shown without any affinity, as where users did little together
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"  # muon: of the matrices in the backbone's layers
    learning_rate: Annotated[float, 1e-9, 1e3] = 5e-5  # of the text backbone
    head_learning_rate: Annotated[float, 1e-9, 1e3] = 1e-3  # of everything else
    weight_decay: Annotated[float, 0.0, 1e3] = 0.01
    warmup: Share = 0.1  # share of all steps
    clip: Annotated[float, 1e-9, 1e3] = 1.0  # greatest gradient norm
    accumulation: Count = 1  # steps whose gradients are added before an update
    patience: Count = 2  # epochs without a better validation before stopping
    task_patience: Annotated[int, 0, 1_000_000] = 0  # the same for a task, which then weighs 0; 0: none stops alone
    weighting: Weighting = "static"  # of the teacher; weighting.py says what each does, pcgrad needs the extra mtl
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where it is there, not of a student on a CPU
    trackers: tuple[str, ...] = ()  # "tensorboard", "wandb": Accelerate's trackers
    save_minutes: Positive = 3.0  # at most this much work is lost by a kill

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        super().__post_init__()
        within("fresh_targets", self.fresh_targets, 0, self.targets)
        for tracker in self.trackers:
            if tracker not in ("tensorboard", "wandb"):
                raise RecipeError(f"tracker {tracker!r} is unknown; write tensorboard or wandb")


def only_static(table: str, training: Training) -> None:
    """Raise RecipeError where a phase of a student asks to weigh its losses anew: its weights are the recipe's."""
    if training.weighting != "static":
        raise RecipeError(f"{table}.weighting = {training.weighting!r}: only a teacher's losses are weighed anew")
