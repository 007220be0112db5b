"""Looking inside the teacher: relations against a case worked by hand, and a student that is its teacher."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import MAX_TOKENS, RECIPE, source_for, tiny_student_learner, world_arrays

from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.recipe import Student
from mtrec_edge_compress.representation import Representation, aligned_rows, relation_loss
from mtrec_edge_compress.student_learner import HIDDEN, RELATION, StudentLearner
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.errors import RecipeError


def test_relations_against_a_hand_worked_case() -> None:
    """Two tokens, one head. The teacher's tokens are orthogonal, the student's are alike, so its relation is flat."""
    teacher = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])  # A A' / sqrt(2) = [[2.83, 0], [0, 2.83]]
    student = torch.tensor([[[1.0], [1.0]]])
    near = math.exp(4 / math.sqrt(2)) / (math.exp(4 / math.sqrt(2)) + 1)
    expected = near * math.log(near / 0.5) + (1 - near) * math.log((1 - near) / 0.5)
    assert relation_loss(student, teacher, torch.ones(1, 2), 1).item() == pytest.approx(expected, rel=1e-5)


def test_padding_has_no_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 3, 4, generator=generator) for _ in range(2))
    longer = [torch.cat([part, torch.full((1, 2, 4), 9.0)], dim=1) for part in (student, teacher)]
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    assert torch.allclose(
        relation_loss(longer[0], longer[1], mask, 2), relation_loss(student, teacher, mask[:, :3], 2), atol=1e-6
    )


def learner_like_its_teacher() -> StudentLearner:
    recipe = replace(RECIPE, student=replace(RECIPE.student, layers=2, embedding_size=0))
    learner = tiny_student_learner(world_arrays(), recipe)
    backbone = learner.model.text.backbone
    assert isinstance(backbone, CompactBert)
    learner.inside = Representation(backbone, learner.soft.teacher, learner.soft.tokens, learner.tokens, MAX_TOKENS)
    return learner


def test_a_student_that_is_its_teacher_has_its_relations_and_states() -> None:
    learner = learner_like_its_teacher().eval()
    with torch.no_grad():
        found = learner(next(source_for(learner, world_arrays(), every_text=True).epoch(0)))[1]
    assert found[RELATION] < 1e-6 and found[HIDDEN] < 1e-8


def test_another_student_has_not() -> None:
    learner = learner_like_its_teacher().eval()
    backbone = learner.model.text.backbone
    with torch.no_grad():
        backbone.layers[-1].query.weight.mul_(30.0)
        backbone.layers[0].down.weight.neg_()
        found = learner(next(source_for(learner, world_arrays(), every_text=True).epoch(0)))[1]
    assert found[RELATION] > 1e-4 and found[HIDDEN] > 1e-4


def test_only_whole_texts_of_as_many_tokens_are_compared() -> None:
    """Four texts, cut at three tokens: alike, of other length, and two that were cut, whatever they hold."""
    teacher, student = (
        Tokens(tuple(np.zeros(length, np.int64) for length in lengths), ()) for lengths in ((2, 2, 3, 3), (2, 1, 3, 2))
    )
    assert aligned_rows(teacher, student, 3).tolist() == [True, False, False, False]


def test_a_closed_look_leaves_nothing_behind() -> None:
    learner = learner_like_its_teacher()
    assert learner.inside is not None
    learner.inside.close()
    layer = learner.model.text.backbone.layers[-1]
    assert not layer.query._forward_hooks and not learner.inside.seen


def test_a_static_student_has_no_relations_to_learn() -> None:
    static = replace(RECIPE, student=Student("outputs", layers=0, embedding_size=0, dropout=0.0))
    learner = tiny_student_learner(world_arrays(), static)
    backbone = learner.model.text.backbone
    assert isinstance(backbone, CompactBert)
    with pytest.raises(RecipeError, match="set both to 0"):
        Representation(backbone, learner.soft.teacher, learner.soft.tokens, learner.tokens, MAX_TOKENS)
