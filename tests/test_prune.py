"""Pruning: what is removed was worth nothing, exactly; what is kept fits the device; a killed run goes on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import student_model
from tiny_training import (
    CPU,
    RECIPE,
    collaboration_for,
    source_for,
    tiny_arrays,
    tiny_learner,
    tiny_student_learner,
    world_arrays,
)

from mtrec_edge_compress.compact import CompactBert, Layer
from mtrec_edge_compress.fake_quantize import round_rows
from mtrec_edge_compress.lookup_tables import cosine_transform
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_compress.prune import (
    KEPT,
    UNIT_MULTIPLE,
    cut_to_start,
    importance,
    keep_heads,
    keep_units,
    prune,
    remove,
    remove_again,
)
from mtrec_edge_compress.recipe import Quantize, Recipe
from mtrec_edge_compress.student_learner import StudentLearner, compact_backbone
from mtrec_edge_compress.student_training import StudentTraining
from mtrec_edge_runtime.errors import StageError


def backbone_of(model: MultiTaskModel) -> CompactBert:
    assert isinstance(model.text.backbone, CompactBert)
    return model.text.backbone


def layers_of(backbone: CompactBert) -> list[Layer]:
    return [layer for layer in backbone.layers if isinstance(layer, Layer)]


def gate(size: int, kept: torch.Tensor) -> torch.Tensor:
    return torch.zeros(size).index_fill(0, kept, 1.0)


def test_a_pruned_model_equals_the_model_with_its_gates_at_zero() -> None:
    model = student_model()  # (2 heads, 64 units), (1 head, 48 units)
    backbone = backbone_of(model)
    heads = [torch.tensor([1]), torch.tensor([0])]
    units = [torch.arange(0, 64, 2), torch.arange(16, 48)]
    ids = torch.tensor([[2, 17, 30, 99, 3], [2, 8, 3, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        for layer, kept_heads, kept_units in zip(layers_of(backbone), heads, units, strict=True):
            layer.head_gate = gate(layer.heads, kept_heads)
            layer.unit_gate = gate(layer.units, kept_units)
        expected = model.encode(ids, mask)
        for layer in layers_of(backbone):
            layer.head_gate = layer.unit_gate = None
        ungated = model.encode(ids, mask)
        remove(backbone, heads, units)
        found = model.encode(ids, mask)
    for name, values in expected.items():
        assert (found[name] - values).abs().max() < 1e-5
        assert (ungated[name] - values).abs().max() > 1e-4  # the gates did something
    assert backbone.shape.layers == ((1, 32), (1, 32))


def test_the_parameters_are_physically_gone() -> None:
    backbone = backbone_of(student_model())
    remove(backbone, [torch.tensor([0]), torch.tensor([0])], [torch.arange(16), torch.arange(16)])
    for layer in layers_of(backbone):
        assert layer.query.weight.shape == (16, 32) and layer.attention_out.weight.shape == (32, 16)
        assert layer.up.weight.shape == (16, 32) and layer.down.weight.shape == (32, 16)
        assert (layer.heads, layer.units) == (1, 16)


def test_every_layer_keeps_its_best_head() -> None:
    scores = [torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.1, 0.2, 0.05])]
    assert [part.tolist() for part in keep_heads(scores, 2)] == [[0], [1]]
    assert [part.tolist() for part in keep_heads(scores, 4)] == [[0, 1, 2], [1]]
    assert [part.tolist() for part in keep_heads(scores, 6)] == [[0, 1, 2], [0, 1, 2]]


def test_every_layer_keeps_a_multiple_of_16_units_and_the_best_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(64, generator=generator), 0.3 * torch.rand(96, generator=generator)]
    for keep in (160, 80, 33, 1):
        kept = keep_units(scores, keep)
        assert all(len(part) % UNIT_MULTIPLE == 0 and len(part) >= UNIT_MULTIPLE for part in kept)
        for part, indices in zip(scores, kept, strict=True):
            rest = part[gate(len(part), indices) == 0]
            assert not len(rest) or part[indices].min() >= rest.max()
    assert [len(part) for part in keep_units(scores, 160)] == [64, 96]


def test_a_dead_unit_and_a_dead_head_have_no_importance() -> None:
    arrays = tiny_arrays()
    learner = tiny_student_learner(arrays)
    first = layers_of(compact_backbone(learner))[0]
    with torch.no_grad():
        first.down.weight[:, 5] = 0.0
        first.attention_out.weight[:, : first.head_size] = 0.0
    heads, units = importance(learner, source_for(learner, arrays, every_text=True), 2, CPU)
    assert units[0][5] == 0 and heads[0][0] == 0
    assert (units[0] > 0).sum() > 50 and (heads[0][1:] > 0).all()
    assert all(float(part.norm()) == pytest.approx(1.0) for part in [*heads, *units])
    assert all(layer.head_gate is None and layer.unit_gate is None for layer in layers_of(compact_backbone(learner)))


def test_only_a_student_can_be_pruned() -> None:
    with pytest.raises(StageError, match="a student is a CompactBert, not BertModel; distill first"):
        compact_backbone(tiny_learner(tiny_arrays()))  # type: ignore[arg-type]


def run(learner: StudentLearner, folder: Path, *, die_in: str = "", recipe: Recipe = RECIPE) -> dict[str, float]:
    """Prune; `die_in` names the round whose healing is interrupted."""

    def validate(model: MultiTaskModel, _pooled: object) -> dict[str, float]:
        return {"score": float(len(list(folder.glob("round-*"))))}

    def end_epoch() -> None:
        if die_in and (folder / die_in).is_dir():
            raise KeyboardInterrupt

    learner.end_epoch = end_epoch  # type: ignore[method-assign]
    arrays = tiny_arrays()
    together = collaboration_for(arrays)
    training = StudentTraining(recipe, learner, arrays, together, "cpu", progress=False)
    return prune(training, folder=folder, validate=validate)


@pytest.mark.slow
def test_rounds_remove_what_the_recipe_says(tmp_path: Path) -> None:
    learner = tiny_student_learner(tiny_arrays())
    assert compact_backbone(learner).shape.layers == ((4, 64), (4, 64))
    assert run(learner, tmp_path) == {"score": 2.0}
    shapes = compact_backbone(learner).shape.layers
    assert sum(heads for heads, _ in shapes) == 4 and min(heads for heads, _ in shapes) >= 1
    assert 48 <= sum(units for _, units in shapes) <= 80  # half of 128, rounded in each layer
    assert all(units % UNIT_MULTIPLE == 0 for _, units in shapes)


@pytest.mark.slow
def test_healing_reads_the_share_of_the_texts_that_it_is_told(tmp_path: Path) -> None:
    steps = {}
    for share in (1.0, 0.25):
        recipe = replace(RECIPE, prune=replace(RECIPE.prune, rounds=1, heal_texts=share))
        run(tiny_student_learner(tiny_arrays()), tmp_path / str(share), recipe=recipe)
        steps[share] = json.loads((tmp_path / str(share) / "round-1/progress.json").read_text())["updates"]
    assert steps[1.0] >= 4 and abs(steps[0.25] - 0.25 * steps[1.0]) < 1


@pytest.mark.slow
def test_healed_words_are_as_they_are_stored(tmp_path: Path) -> None:
    learner = tiny_student_learner(tiny_arrays())
    words = compact_backbone(learner).embeddings.word.weight.detach().clone()
    run(learner, tmp_path, recipe=replace(RECIPE, quantize=Quantize(word_bits=4)))
    found = compact_backbone(learner).embeddings.word.weight.detach().numpy()
    stored = round_rows(found, 4, cosine_transform(words.shape[1]))
    assert np.abs(found - stored).max() < 1e-6 and np.abs(found - words.numpy()).max() > 1e-3


@pytest.mark.slow
def test_a_killed_run_resumes_inside_its_round(tmp_path: Path) -> None:
    whole = tiny_student_learner(tiny_arrays())
    run(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_student_learner(tiny_arrays()), tmp_path / "killed", die_in="round-2")
    remembered = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("round-*/kept.json")}
    finished = (tmp_path / "killed/round-1/best/model.safetensors").stat().st_mtime_ns
    resumed = tiny_student_learner(tiny_arrays())
    run(resumed, tmp_path / "killed")
    assert len(remembered) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in remembered.items())
    assert (tmp_path / "killed/round-1/best/model.safetensors").stat().st_mtime_ns == finished
    assert compact_backbone(resumed).shape == compact_backbone(whole).shape
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name
    heads, units = json.loads((tmp_path / "killed/round-2/kept.json").read_text())
    assert [len(part) for part in units] == [units for _, units in compact_backbone(resumed).shape.layers]
    assert len(heads) == 2


def test_a_student_is_cut_to_its_start_and_cut_again_alike(tmp_path: Path) -> None:
    recipe = replace(RECIPE, student=replace(RECIPE.student, heads=2, units=32))
    learner = tiny_student_learner(world_arrays(), recipe)
    whole = compact_backbone(learner).shape.layers
    arrays = world_arrays()
    cut_to_start(StudentTraining(recipe, learner, arrays, collaboration_for(arrays), "cpu", progress=False), tmp_path)
    layers = compact_backbone(learner).shape.layers
    assert sum(heads for heads, _ in layers) == 2 * len(whole)
    assert sum(units for _, units in layers) == 32 * len(whole)
    again = tiny_student_learner(world_arrays(), recipe)
    remove_again(compact_backbone(again), tmp_path / KEPT, tmp_path / "no such round")
    ids = torch.tensor([[2, 9, 11, 3]])
    first, second = (part.model.eval().text(ids, torch.ones_like(ids))[0] for part in (learner, again))
    assert torch.equal(first, second)


def test_a_student_without_such_settings_starts_whole(tmp_path: Path) -> None:
    learner = tiny_student_learner(world_arrays())
    before = compact_backbone(learner).shape.layers
    arrays = world_arrays()
    cut_to_start(StudentTraining(RECIPE, learner, arrays, collaboration_for(arrays), "cpu", progress=False), tmp_path)
    assert compact_backbone(learner).shape.layers == before and not list(tmp_path.iterdir())
