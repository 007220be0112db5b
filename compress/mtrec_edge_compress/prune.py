"""Stage 5: remove attention heads and feed-forward units physically, in rounds, each healed by distillation.

Importance of a head or unit is E|dL/dg| at g = 1 of a gate g on its output (Michel, Levy & Neubig, Are sixteen heads
really better than one?, 2019; first-order Taylor expansion, Molchanov et al., 2017), normalised within its layer.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from mtrec_edge_compress.batches import BatchSource
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.compact import CompactBert, Layer
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.distill import StudentLearner, student_batches
from mtrec_edge_compress.recipe import Prune, Recipe
from mtrec_edge_compress.training import Device, Validate, fit, open_device
from mtrec_edge_runtime.errors import StageError

UNIT_MULTIPLE = 16  # a layer keeps a multiple of this many units: whole vector registers


def compact_backbone(learner: StudentLearner) -> CompactBert:
    """Return the student's backbone.

    Raises:
        StageError: the model is no student.
    """
    backbone = learner.model.text.backbone
    if not isinstance(backbone, CompactBert):
        raise StageError(f"only a student's CompactBert can be pruned, not {type(backbone).__name__}; distill first")
    return backbone


def importance(
    learner: StudentLearner, source: BatchSource, steps: int, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each layer's head importances (heads,) and unit importances (units,) over `steps` batches."""
    layers = _layers(compact_backbone(learner))
    learner.to(device).eval()
    for layer in layers:
        layer.head_gate = torch.ones(layer.heads, device=device, requires_grad=True)
        layer.unit_gate = torch.ones(layer.units, device=device, requires_grad=True)
    heads = [torch.zeros(layer.heads) for layer in layers]
    units = [torch.zeros(layer.units) for layer in layers]
    for batch in islice(source.epoch(0), steps):
        total, _ = learner(batch.to(device))
        gates = [gate for layer in layers for gate in (layer.head_gate, layer.unit_gate) if gate is not None]
        for number, gradient in enumerate(torch.autograd.grad(total, gates)):
            (heads, units)[number % 2][number // 2] += gradient.abs().cpu()
    for layer in layers:
        layer.head_gate = layer.unit_gate = None
    return [_normal(part) for part in heads], [_normal(part) for part in units]


def _normal(part: Tensor) -> Tensor:
    normal: Tensor = part / part.norm().clamp_min(1e-12)
    return normal


def keep_heads(scores: list[Tensor], keep: int) -> list[Tensor]:
    """Return the indices each layer keeps: the best of every layer, then the best overall, `keep` in all."""
    best = [int(part.argmax()) for part in scores]
    ranked = sorted(
        ((float(value), layer, index) for layer, part in enumerate(scores) for index, value in enumerate(part)),
        reverse=True,
    )
    chosen = {(layer, index) for layer, index in enumerate(best)}
    for _, layer, index in ranked:
        if len(chosen) >= keep:
            break
        chosen.add((layer, index))
    return [torch.tensor(sorted(i for at, i in chosen if at == layer)) for layer in range(len(scores))]


def keep_units(scores: list[Tensor], keep: int) -> list[Tensor]:
    """Return the indices each layer keeps: about `keep` in all by importance, a multiple of 16 in each layer."""
    flat = torch.cat(scores)
    threshold = flat.sort(descending=True).values[min(keep, len(flat)) - 1]
    kept = []
    for part in scores:
        wanted = int((part >= threshold).sum())
        count = min(len(part), max(UNIT_MULTIPLE, round(wanted / UNIT_MULTIPLE) * UNIT_MULTIPLE))
        kept.append(part.topk(count).indices.sort().values)
    return kept


def remove(backbone: CompactBert, heads: list[Tensor], units: list[Tensor]) -> None:
    """Cut every layer's matrices down to the heads and units that are kept."""
    for layer, kept_heads, kept_units in zip(_layers(backbone), heads, units, strict=True):
        width = (kept_heads[:, None] * layer.head_size + torch.arange(layer.head_size)).flatten()
        for name in ("query", "key", "value"):
            setattr(layer, name, _cut(getattr(layer, name), width, 0))
        layer.attention_out = _cut(layer.attention_out, width, 1)
        layer.up = _cut(layer.up, kept_units, 0)
        layer.down = _cut(layer.down, kept_units, 1)
    shapes = tuple((layer.heads, layer.units) for layer in _layers(backbone))
    backbone.shape = replace(backbone.shape, layers=shapes)


def _layers(backbone: CompactBert) -> list[Layer]:
    return [layer for layer in backbone.layers if isinstance(layer, Layer)]


def _cut(linear: nn.Linear, kept: Tensor, axis: int) -> nn.Linear:
    weight = linear.weight.detach().index_select(axis, kept.to(linear.weight.device))
    smaller = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.device)
    bias = linear.bias.detach()
    with torch.no_grad():
        smaller.weight.copy_(weight)
        smaller.bias.copy_(bias.index_select(0, kept.to(bias.device)) if axis == 0 else bias)
    return smaller


def prune(
    recipe: Recipe,
    learner: StudentLearner,
    arrays: Arrays,
    collaboration: Collaboration,
    *,
    folder: Path,
    validate: Validate,
    device: Device,
    progress: bool,
) -> dict[str, float]:
    """Prune and heal in rounds, then learn the tasks once more.

    Each round's removal is remembered, so that a killed run resumes inside its healing.
    """
    backbone, settings = compact_backbone(learner), recipe.prune
    whole, rounds = backbone.shape.layers, settings.rounds
    for number in range(1, rounds + 1):
        place = folder / f"round-{number}"
        remembered = place / "kept.json"
        if not remembered.is_file():
            both = student_batches(
                recipe, learner, arrays, collaboration, settings.tasks, with_pairs=True, round_number=number
            )
            scores = importance(learner, both, settings.importance_steps, open_device(device))
            kept = _choose(scores, whole, settings, number / rounds)
            if PartialState().is_main_process:
                _remember(remembered, kept)
        PartialState().wait_for_everyone()
        heads, units = json.loads(remembered.read_text())
        remove(backbone, [torch.tensor(part) for part in heads], [torch.tensor(part) for part in units])
        texts = student_batches(
            recipe, learner, arrays, collaboration, settings.heal, with_pairs=False, round_number=number
        )
        fit(
            learner,
            texts,
            settings.heal,
            folder=place,
            device=device,
            label=f"heal {number}/{rounds}",
            progress=progress,
        )
    both = student_batches(
        recipe, learner, arrays, collaboration, settings.tasks, with_pairs=True, round_number=rounds + 1
    )
    return fit(
        learner,
        both,
        settings.tasks,
        folder=folder / "tasks",
        validate=validate,
        device=device,
        label="pruned tasks",
        progress=progress,
    )


def _choose(
    scores: tuple[list[Tensor], list[Tensor]], whole: Sequence[tuple[int, int]], settings: Prune, share: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the heads and units kept when `share` of the removal is done; `whole` are the layers before pruning."""
    all_heads, all_units = (sum(sizes) for sizes in zip(*whole, strict=True))
    heads = keep_heads(scores[0], max(len(whole), round(all_heads * (1 - settings.heads * share))))
    return heads, keep_units(scores[1], round(all_units * (1 - settings.units * share)))


def _remember(path: Path, kept: tuple[list[Tensor], list[Tensor]]) -> None:
    """Write what is kept, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps([[indices.tolist() for indices in part] for part in kept]))
    new.replace(path)
