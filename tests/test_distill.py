"""Distillation: soft targets are the teacher's outputs; a student that is its teacher has nothing to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import (
    CPU,
    ENDS,
    RECIPE,
    SETTINGS,
    collaboration_for,
    source_for,
    tiny_arrays,
    tiny_student_learner,
    tiny_teacher,
    tokens_for,
    vocabulary_for,
    world_arrays,
)

from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.data.arrays import Arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.distill import _start_projection, distill
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.learner import Learner
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.soft_targets import soft_targets
from mtrec_edge_compress.start import new_student
from mtrec_edge_compress.student_learner import VECTOR, StudentLearner, read_as_own
from mtrec_edge_compress.student_training import StudentTraining, of_student
from mtrec_edge_compress.unread import unread_items
from mtrec_edge_runtime.errors import RecipeError

SAME = replace(RECIPE, student=replace(RECIPE.student, layers=2, embedding_size=0))  # the teacher's own shape
ALL_SOFT = replace(SAME, distill=replace(SAME.distill, soft_weight=1.0))


def losses_of(learner: StudentLearner, arrays: Arrays, *, training: bool = False) -> dict[str, float]:
    """Return the mean loss of each task over an epoch without dropout."""
    learner.eval()
    learner.training = training
    seen: dict[str, list[float]] = {}
    with torch.no_grad():
        for batch in source_for(learner, arrays, every_text=True).epoch(0):
            for name, loss in learner(batch)[1].items():
                seen.setdefault(name, []).append(float(loss))
    return {name: float(np.mean(values)) for name, values in seen.items()}


def test_a_student_of_the_teachers_shape_starts_as_the_teacher() -> None:
    arrays = tiny_arrays()
    teacher, tokens = tiny_teacher(arrays).eval(), tokens_for(arrays)
    student = new_student(SAME, teacher, range(len(vocabulary_for(arrays))), ends=ENDS).eval()
    found, expected = (encode_all(model, tokens, device=CPU) for model in (student, teacher))
    assert np.abs(found.vectors - expected.vectors).max() < 1e-5
    for name, logits in expected.logits.items():
        assert np.abs(found.logits[name] - logits).max() < 1e-4


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    arrays = world_arrays()
    found = losses_of(tiny_student_learner(arrays, ALL_SOFT), arrays)
    assert set(found) == {VECTOR, *(task.name for task in arrays.tasks)}
    assert found[VECTOR] < 1e-5 and found["video.rating"] < 1e-5
    assert found["shop.category"] < 1e-4 and found["queries.tags"] < 1e-4


def test_a_binary_task_can_lose_no_less_than_its_teachers_own_doubt() -> None:
    arrays = world_arrays()
    same, other = (tiny_student_learner(arrays, recipe) for recipe in (ALL_SOFT, ALL_SOFT))
    with torch.no_grad():
        other.model.user.merge.weight.neg_()
    same_losses, other_losses = losses_of(same, arrays), losses_of(other, arrays)
    assert all(same_losses[name] < other_losses[name] for name in ("shop.click", "video.like", "music.listen"))


def test_no_soft_share_is_the_gold_loss() -> None:
    arrays = world_arrays()
    recipe = replace(SAME, distill=replace(SAME.distill, soft_weight=0.0))
    learner = tiny_student_learner(arrays, recipe)
    batch = next(source_for(learner, arrays).epoch(0))
    assert batch.pairs is not None
    learner.eval()
    with torch.no_grad():
        vectors = learner.cached_vectors(batch.pairs.rows)
        scores = learner.pair_scores(batch.pairs, vectors)
        both = learner.pair_losses(batch.pairs, scores)
        gold = Learner.pair_losses(learner, batch.pairs, scores)
    assert {name: float(loss) for name, loss in both.items()} == pytest.approx(
        {name: float(loss) for name, loss in gold.items()}
    )


def test_soft_words_stand_where_the_batches_look_for_them() -> None:
    arrays = world_arrays()
    teacher, tokens = tiny_teacher(arrays).eval(), tokens_for(arrays)
    encoded = encode_all(teacher, tokens, device=CPU)
    soft = soft_targets(teacher, tokens, encoded, arrays, CPU)
    row = len(arrays.item_ids) + 3
    start = int(soft.word_start[row])
    for number, logits in enumerate(encoded.word_logits["queries.tags"][row]):
        assert soft.words["queries.tags"][start + number].tolist() == logits.tolist()
    assert int(soft.word_start[row + 1]) - start == len(arrays.text_tokens[3])


def test_a_batchs_tokens_give_what_the_whole_corpus_gave() -> None:
    arrays = world_arrays()
    learner = tiny_student_learner(arrays, ALL_SOFT).eval()
    bucket = next(source_for(learner, arrays, with_pairs=False, every_text=True).epoch(0)).buckets[0]
    with torch.no_grad():
        _, pooled = learner.model.text(bucket.input_ids, bucket.attention_mask)
        found = learner.model.text.vector(pooled)
    assert torch.allclose(found, learner.soft.vectors[bucket.rows], atol=1e-5)


def test_a_narrower_word_table_is_factorised() -> None:
    arrays = tiny_arrays()
    student = new_student(RECIPE, tiny_teacher(arrays), range(len(vocabulary_for(arrays))), ends=ENDS)
    backbone = student.text.backbone
    assert isinstance(backbone, CompactBert)
    assert backbone.shape.embedding_size == 16 and backbone.shape.hidden_size == 32
    assert backbone.embeddings.word.weight.shape == (len(vocabulary_for(arrays)), 16)


def test_a_student_has_as_many_layers_as_it_says_and_no_more_than_there_are() -> None:
    arrays = tiny_arrays()

    def started(layers: int) -> CompactBert:
        recipe = replace(RECIPE, student=replace(RECIPE.student, layers=layers))
        student = new_student(recipe, tiny_teacher(arrays), range(len(vocabulary_for(arrays))), ends=ENDS)
        assert isinstance(student.text.backbone, CompactBert)
        return student.text.backbone

    assert [len(started(layers).shape.layers) for layers in (1, 2)] == [1, 2]
    with pytest.raises(RecipeError, match=r"student\.layers = 5: .* has 2 layers; write at most that"):
        started(5)


def test_the_teacher_is_no_parameter_of_the_student_learner() -> None:
    learner = tiny_student_learner(tiny_arrays())
    names = [name for name, _ in learner.named_parameters()]
    assert all(name.startswith("model.") for name in names)
    assert sum(p.numel() for p in learner.parameters()) == sum(p.numel() for p in learner.model.parameters())


def test_the_teachers_share_goes_over_to_gold_where_there_are_pairs() -> None:
    arrays = world_arrays()
    annealed = replace(RECIPE, distill=replace(RECIPE.distill, soft_weight=0.8, annealed=0.5))
    learner = tiny_student_learner(arrays, annealed).eval()
    pairs = next(source_for(learner, arrays).epoch(0))
    texts = next(source_for(learner, arrays, with_pairs=False, every_text=True).epoch(0))
    shares = []
    with torch.no_grad():
        for learner.done, batch in ((0.0, pairs), (0.5, pairs), (1.0, pairs), (1.0, texts)):
            learner(batch)
            shares.append(round(learner.share, 6))
    assert shares == [0.8, 0.6, 0.4, 0.8]


@pytest.mark.slow
def test_distillation_brings_the_student_to_the_teacher(tmp_path) -> None:
    arrays = world_arrays()
    long = replace(SETTINGS, epochs=6, learning_rate=3e-3, texts=32)
    recipe: Recipe = replace(RECIPE, distill=replace(RECIPE.distill, represent=long, tasks=SETTINGS))
    learner = tiny_student_learner(arrays, replace(recipe, student=replace(recipe.student, layers=1)))
    before = losses_of(learner, arrays)
    training = StudentTraining(recipe, learner, arrays, collaboration_for(arrays), "cpu", progress=False)
    distill(training, folder=tmp_path, validate=lambda _, pooled: {"score": 0.0})
    after = losses_of(learner, arrays)
    assert after[VECTOR] < 0.5 * before[VECTOR]
    assert (tmp_path / "represent/best/model.json").is_file() and (tmp_path / "tasks/best/model.json").is_file()


def test_a_share_of_the_windows_points_at_own_vectors_half_of_them_whole() -> None:
    arrays = world_arrays()
    pairs = next(source_for(tiny_student_learner(arrays), arrays).epoch(0)).pairs
    assert pairs is not None
    users, distinct = len(pairs.history), len(pairs.rows)
    assert users >= 4
    moved = read_as_own(pairs, 2 / users)
    assert torch.equal(moved.history[0], pairs.history[0] + distinct)
    assert torch.equal(moved.history[1:], pairs.history[1:])
    assert torch.equal(moved.candidates[:2], pairs.candidates[:2] + distinct)
    assert torch.equal(moved.candidates[2:], pairs.candidates[2:])
    assert torch.equal(read_as_own(pairs, 0.0).candidates, pairs.candidates)
    assert torch.equal(read_as_own(pairs, 1.0).candidates, pairs.candidates + distinct)


def test_own_windows_teach_the_ranker_what_the_students_vectors_are_worth() -> None:
    arrays = world_arrays()
    own = replace(ALL_SOFT, distill=replace(ALL_SOFT.distill, own_windows=1.0))
    plain, same, other, without = (tiny_student_learner(arrays, recipe) for recipe in (ALL_SOFT, own, own, ALL_SOFT))
    with torch.no_grad():  # students whose vectors have left the teacher's space
        other.model.text.projection.weight.neg_()
        without.model.text.projection.weight.neg_()
    losses = [losses_of(learner, arrays, training=True)["video.rating"] for learner in (plain, same, other)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] > losses[1] + 1e-4
    evaluated = [losses_of(learner, arrays)["video.rating"] for learner in (other, without)]
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-6)  # in evaluation nothing is made


def test_own_vectors_stand_still_for_a_pass_and_their_projection_learns() -> None:
    arrays = world_arrays()
    learner = tiny_student_learner(arrays, ALL_SOFT)
    rows = torch.arange(4)
    before = learner.own_vectors(rows)
    before.sum().backward()
    assert learner.model.text.projection.weight.grad is not None
    backbone = learner.model.text.backbone
    assert isinstance(backbone, CompactBert)
    with torch.no_grad():
        backbone.embeddings.norm.weight.add_(torch.linspace(0, 1, 32))
    assert torch.equal(learner.own_vectors(rows), before)
    learner.refresh(torch.device("cpu"), torch.float32)
    assert not torch.allclose(learner.own_vectors(rows), before)


def test_own_vectors_of_texts_that_must_not_be_read_teach_no_projection() -> None:
    arrays = world_arrays()
    recipe = replace(ALL_SOFT, teacher=replace(ALL_SOFT.teacher, unread=0.25))
    learner = tiny_student_learner(arrays, recipe)
    weight = learner.model.text.projection.weight
    tested = np.flatnonzero((arrays.item_fold == Fold.TEST) | arrays.cold)
    for hidden in (tested, unread_items(arrays, recipe)):
        assert len(hidden)
        learner.own_vectors(torch.from_numpy(hidden))[:, 0].sum().backward()
        assert weight.grad is None or not weight.grad.any()
    read = np.setdiff1d(np.arange(len(arrays.item_ids)), np.union1d(tested, unread_items(arrays, recipe)))
    learner.own_vectors(torch.from_numpy(read))[:, 0].sum().backward()
    assert weight.grad is not None and weight.grad.any()
    assert not any("read" in name for name in learner.state_dict())


def test_a_student_reads_none_of_the_items_its_teacher_left_unread() -> None:
    arrays = world_arrays()
    recipe = replace(RECIPE, teacher=replace(RECIPE.teacher, unread=0.25))
    learner = tiny_student_learner(arrays, recipe)
    training = StudentTraining(recipe, learner, arrays, collaboration_for(arrays), "cpu", progress=False)
    unread = unread_items(arrays, recipe)
    sources = [training.batches(SETTINGS, with_pairs=pairs, number=number) for pairs, number in ((False, 0), (True, 2))]
    read = {int(row) for source in sources for batch in source.epoch(0) for row in batch.rows}
    assert len(unread) and read and not read & set(unread.tolist())


def test_the_projection_of_a_start_from_outputs_is_not_fitted_to_unread_items() -> None:
    arrays = world_arrays()
    student = replace(RECIPE.student, start="outputs", layers=0)
    recipe = replace(RECIPE, teacher=replace(RECIPE.teacher, unread=0.25), student=student)
    projections = []
    for turned in (False, True):
        learner = tiny_student_learner(arrays, recipe)
        if turned:
            learner.soft.vectors[unread_items(arrays, recipe)] *= -1
        started = StudentTraining(recipe, learner, arrays, collaboration_for(arrays), "cpu", progress=False)
        _start_projection(started)
        projections.append(learner.model.text.projection.weight.detach().clone())
    assert torch.equal(*projections)


def test_what_is_left_to_the_hardware_is_fp32_for_a_student_on_a_cpu() -> None:
    assert of_student(replace(SETTINGS, precision="auto"), "cpu").precision == "fp32"
    asked = replace(SETTINGS, precision="bf16")
    assert of_student(asked, "cpu") == asked
