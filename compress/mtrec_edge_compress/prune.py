"""`prune`: remove attention heads and feed-forward units physically, in rounds, each healed by distillation.

Importance of a head or unit is E|dL/dg| at g = 1 of a gate g on its output (Michel, Levy & Neubig, Are sixteen heads
really better than one?, 2019; first-order Taylor expansion, Molchanov et al., 2017), normalised within its layer.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from mtrec_edge_compress.batches import BatchSource
from mtrec_edge_compress.compact import CompactBert, Layer, narrow_words
from mtrec_edge_compress.cores import every_core
from mtrec_edge_compress.device import open_device
from mtrec_edge_compress.latency_table import LatencyTable, measure_table
from mtrec_edge_compress.lookup_tables import WordBits
from mtrec_edge_compress.recipe import Prune
from mtrec_edge_compress.student_learner import StudentLearner, compact_backbone
from mtrec_edge_compress.student_training import StudentTraining
from mtrec_edge_compress.training import Validate
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_runtime.whole_file import write_whole

KEPT, TABLE = "kept.json", "latency_table.json"
UNIT_MULTIPLE = 16  # a layer keeps a multiple of this many units: whole vector registers


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


def keep_within(
    scores: tuple[list[Tensor], list[Tensor]],
    kept: tuple[list[Tensor], list[Tensor]],
    table: LatencyTable,
    max_ms: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return which of the `kept` heads and units each layer keeps so that the encoder is predicted to take `max_ms`.

    What is worth least for the time it takes goes first, a head or a group of 16 units at a time; a layer keeps one of
    each, and what takes no time stays. A head's worth is its share of the importance of all heads, a unit's of all
    units. When that is still too slow, that is what is kept: `budget.max_ms` judges it.
    """
    worths = [[part / sum(float(p.sum()) for p in parts) for part in parts] for parts in scores]
    heads, units = (
        [sorted(own.tolist(), key=part.__getitem__, reverse=True) for part, own in zip(parts, of_kind, strict=True)]
        for parts, of_kind in zip(worths, kept, strict=True)
    )  # the last is worth least
    while table.predict([(len(h), len(u)) for h, u in zip(heads, units, strict=True)]) > max_ms:
        worth = [
            (float(part[own[-count:]].sum()) / (count * cost), own, count)
            for parts, lists, count, cost in ((worths[0], heads, 1, table.head), (worths[1], units, 16, table.unit))
            for part, own in zip(parts, lists, strict=True)
            if len(own) > count and cost > 0
        ]
        if not worth:
            break
        _, own, count = min(worth, key=lambda candidate: candidate[0])
        del own[-count:]
    return [torch.tensor(sorted(part)) for part in heads], [torch.tensor(sorted(part)) for part in units]


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


def prune(training: StudentTraining, *, folder: Path, validate: Validate) -> dict[str, float]:
    """Narrow the words, prune and heal in rounds, then learn the tasks once more; words of few bits are rounded.

    Each round's removal is remembered, so that a killed run resumes inside its healing.
    """
    learner, settings = training.learner, training.recipe.prune
    backbone, rounds, bits = compact_backbone(learner), settings.rounds, training.recipe.quantize.word_bits
    whole = backbone.shape.layers
    if settings.embedding_size:
        narrow_words(backbone, settings.embedding_size)
    for number in range(1, rounds + 1):
        place = folder / f"round-{number}"
        remembered = place / KEPT
        if whole and not remembered.is_file() and PartialState().is_main_process:
            scores = _importance(training, settings.tasks, number)
            kept = _choose(scores, whole, settings, number / rounds)
            if settings.max_ms:
                table = _table(folder, learner, bits)
                kept = _within_time(scores, kept, whole, table, settings.max_ms, number / rounds)
            _remember(remembered, kept)
        PartialState().wait_for_everyone()
        remove_again(backbone, remembered)
        title = f"heal {number}/{rounds}"
        training.fit(
            settings.heal,
            with_pairs=False,
            folder=place,
            label=title,
            number=number,
            text_passes=settings.heal_texts,
            word_bits=bits,
        )
    return training.fit(
        settings.tasks,
        with_pairs=True,
        folder=folder / "tasks",
        label="pruned tasks",
        number=rounds + 1,
        validate=validate,
        word_bits=bits,
    )


def cut_to_start(training: StudentTraining, folder: Path) -> None:
    """Keep of the teacher's layers, before anything is learned, what `student.heads` and `student.units` ask for.

    Training a layer whole only to cut it later costs several times as much. What is kept is remembered in `folder`.
    """
    backbone, settings = compact_backbone(training.learner), training.recipe.student
    if settings.start != "layers" or not (settings.heads or settings.units):
        return
    if not (folder / KEPT).is_file() and PartialState().is_main_process:
        scores = _importance(training, training.recipe.distill.tasks, 0)
        layers = backbone.shape.layers
        heads = keep_heads(scores[0], len(layers) * (settings.heads or layers[0][0]))
        units = keep_units(scores[1], len(layers) * (settings.units or layers[0][1]))
        _remember(folder / KEPT, (heads, units))
    PartialState().wait_for_everyone()
    remove_again(backbone, folder / KEPT)


def _importance(training: StudentTraining, settings: Training, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the importances over the texts and pairs of phase `number`."""
    both = training.batches(settings, with_pairs=True, number=number)
    with every_core():
        return importance(training.learner, both, training.recipe.prune.importance_steps, open_device(training.device))


def remove_again(backbone: CompactBert, *kept: Path) -> None:
    """Cut a backbone as it was remembered in these files, in order; one that is not there cuts nothing."""
    for path in kept:
        if path.is_file():
            remove(backbone, *_remembered(path))


def _remembered(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return the heads and units that were kept."""
    heads, units = json.loads(path.read_text())
    return [torch.tensor(part) for part in heads], [torch.tensor(part) for part in units]


def _within_time(
    scores: tuple[list[Tensor], list[Tensor]],
    kept: tuple[list[Tensor], list[Tensor]],
    whole: Sequence[tuple[int, int]],
    table: LatencyTable,
    max_ms: float,
    share: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what the recipe keeps if it is fast enough when `share` of the way to `max_ms` is gone, else less."""
    longest = table.predict(whole)
    limit = longest + (max_ms - longest) * share
    shape = [(len(heads), len(units)) for heads, units in zip(*kept, strict=True)]
    return kept if table.predict(shape) <= limit else keep_within(scores, kept, table, limit)


def _table(folder: Path, learner: StudentLearner, bits: WordBits) -> LatencyTable:
    """Return the latency table of this machine and student, measured once and remembered in `folder`."""
    path = folder / TABLE
    if not path.is_file():
        write_whole(path, json.dumps(asdict(measure_table(learner.model, bits))))
    return LatencyTable(**json.loads(path.read_text()))


def _choose(
    scores: tuple[list[Tensor], list[Tensor]], whole: Sequence[tuple[int, int]], settings: Prune, share: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the heads and units kept when `share` of the removal is done; `whole` are the layers before pruning."""
    all_heads, all_units = (sum(sizes) for sizes in zip(*whole, strict=True))
    heads = keep_heads(scores[0], max(len(whole), round(all_heads * (1 - settings.heads * share))))
    return heads, keep_units(scores[1], round(all_units * (1 - settings.units * share)))


def _remember(path: Path, kept: tuple[list[Tensor], list[Tensor]]) -> None:
    """Write what is kept."""
    write_whole(path, json.dumps([[indices.tolist() for indices in part] for part in kept]))
