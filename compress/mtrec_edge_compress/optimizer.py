"""What moves the weights: AdamW, SGD or Muon, a rate for the backbone and one for the rest, how rates rise and fall."""

from typing import Any

import torch
from torch import Tensor, nn

from mtrec_edge_compress.muon import Muon
from mtrec_edge_compress.training_settings import Training


def make_optimizers(learner: nn.Module, settings: Training) -> list[torch.optim.Optimizer]:
    """Return AdamW or SGD with the backbone's rate for the backbone and the heads' rate for the rest.

    With Muon, that for the matrices of the backbone's layers, and AdamW for all else: words, biases, heads.
    """
    chosen = _layer_matrices(learner) if settings.optimizer == "muon" else set()
    matrices: list[Tensor] = []
    backbone: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            (matrices if name in chosen else backbone if ".backbone." in name else rest).append(parameter)

    def group(parameters: list[Tensor], rate: float) -> dict[str, Any]:
        return {"params": parameters, "lr": rate, "weight_decay": settings.weight_decay}

    groups = [group(backbone, settings.learning_rate), group(rest, settings.head_learning_rate)]
    if settings.optimizer == "sgd":
        return [torch.optim.SGD(groups, momentum=0.9)]
    adam = torch.optim.AdamW(groups, fused=True)  # three times as fast on a CPU, where the word table weighs most
    return [adam, Muon([group(matrices, settings.learning_rate)])] if matrices else [adam]


def _layer_matrices(learner: nn.Module) -> set[str]:
    """Return the names of the matrices in the backbone's layers."""
    return {
        f"{name}.weight"
        for name, module in learner.named_modules()
        if isinstance(module, nn.Linear) and ".backbone." in name and ".embeddings." not in name
    }


def rate_factor(update: int, updates: int, *, warmup: float) -> float:
    """Return what the rates are multiplied by at an update, the first being 1: a linear rise, a linear fall to 0.05.

    >>> [rate_factor(update, 8, warmup=0.25) for update in (1, 2, 5, 8)]
    [0.5, 1.0, 0.5, 0.05]
    """
    warm = max(1, round(warmup * updates))
    return update / warm if update <= warm else max(0.05, (updates - update) / max(1, updates - warm))
