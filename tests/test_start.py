"""How a student starts: from the teacher's outputs it is near the teacher before it has learned anything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import CPU, ENDS, RECIPE, tiny_arrays, tiny_teacher, tokens_for, vocabulary_for
from transformers import MPNetConfig, MPNetModel

from mtrec_edge_compress.compact import CompactBert
from mtrec_edge_compress.encoding import encode_all, encode_pooled
from mtrec_edge_compress.recipe import Recipe, Student
from mtrec_edge_compress.start import check_start, fit_projection, new_student, token_outputs
from mtrec_edge_compress.teacher import small_random_bert
from mtrec_edge_runtime.errors import MtrecError, RecipeError, StageError
from mtrec_edge_runtime.tasks import Kind


def recipe_of(student: Student) -> Recipe:
    return replace(RECIPE, student=replace(student, dropout=0.0))


@pytest.fixture
def mpnet(tmp_path: Path) -> str:
    """An encoder whose layers are of another form than BERT's, with BERT's words, as a folder."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    words = vocabulary_for(tiny_arrays())
    MPNetModel(MPNetConfig(vocab_size=len(words), **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    return str(tmp_path)


@pytest.mark.parametrize(
    ("student", "kind", "message"),
    [
        (Student(), StageError, r"the layers of MPNetModel.*student\.encoder=PATH"),
        (Student("outputs", hidden_size=33), RecipeError, r"hidden_size = 33: .* \(32\).*a smaller number"),
    ],
)
def test_a_start_that_cannot_be_is_refused(mpnet: str, student: Student, kind: type[MtrecError], message: str) -> None:
    with pytest.raises(kind, match=message):
        check_start(recipe_of(student), mpnet)
    check_start(recipe_of(Student("outputs", hidden_size=32)), mpnet)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            Student(layers=9),
            r"student\.layers = 9: a student starts from the layers of an encoder that has \d layers",
        ),
        (Student(layers=1, heads=64), r"student\.heads = 64: .* \d heads"),
        (Student(layers=1, units=9999), r"student\.units = 9999: .* \d+ units"),
    ],
)
def test_more_than_there_is_to_copy_is_refused(tmp_path: Path, student: Student, message: str) -> None:
    encoder = small_random_bert(RECIPE, tiny_arrays(), tmp_path)
    check_start(recipe_of(Student(layers=1)), encoder)
    with pytest.raises(RecipeError, match=message):
        check_start(recipe_of(student), encoder)


def test_a_tokens_output_is_the_mean_state_of_that_token_alone() -> None:
    bert = tiny_teacher(tiny_arrays()).eval().text.backbone
    outputs = token_outputs(bert, [7, 9], ENDS)
    ids = torch.tensor([[ENDS[0], 9, ENDS[1]]])
    alone = bert(input_ids=ids, attention_mask=torch.ones_like(ids))[0].mean(1)
    assert torch.allclose(outputs[1], alone[0], atol=1e-6)


def test_new_layers_add_nothing_at_first() -> None:
    teacher, words = tiny_teacher(tiny_arrays()).eval(), range(len(vocabulary_for(tiny_arrays())))
    still, layered = (
        new_student(
            recipe_of(Student("outputs", layers=layers, embedding_size=0, heads=1, units=16)), teacher, words, ends=ENDS
        )
        for layers in (0, 2)
    )
    ids = torch.tensor([[2, 9, 11, 3]])
    first, second = (model.eval().text(ids, torch.ones_like(ids))[0] for model in (still, layered))
    assert torch.nn.functional.cosine_similarity(first, second, dim=-1).min() > 0.999  # a norm again is the same norm


def test_a_fitted_projection_brings_static_words_near_the_teacher() -> None:
    arrays = tiny_arrays()
    teacher, tokens = tiny_teacher(arrays).eval(), tokens_for(arrays)
    words = range(len(vocabulary_for(arrays)))
    student = new_student(recipe_of(Student("outputs", layers=0, embedding_size=0)), teacher, words, ends=ENDS).eval()
    target = torch.from_numpy(encode_all(teacher, tokens, device=CPU).vectors)
    fit_projection(student, encode_pooled(student, tokens, CPU, torch.float32), target)
    found = encode_all(student, tokens, device=CPU).vectors
    assert (found * target.numpy()).sum(1).mean() > 0.95


def test_a_narrow_student_keeps_the_widest_directions() -> None:
    teacher, words = tiny_teacher(tiny_arrays()).eval(), range(len(vocabulary_for(tiny_arrays())))
    settings = Student("outputs", layers=1, hidden_size=16, embedding_size=8, heads=1, units=16)
    student = new_student(recipe_of(settings), teacher, words, ends=ENDS)
    backbone = student.text.backbone
    assert isinstance(backbone, CompactBert)
    assert (backbone.shape.hidden_size, backbone.shape.embedding_size, backbone.shape.layers) == (16, 8, ((1, 16),))
    embeddings = backbone.embeddings
    found = (embeddings.expand(embeddings.word.weight) + embeddings.position[0]).detach()
    outputs = token_outputs(teacher.text.backbone, words, ENDS)
    rows = outputs @ torch.linalg.svd(outputs, full_matrices=False)[2][:16].T
    lost = torch.linalg.svdvals(rows - rows.mean(0))[8:].square().sum()  # of words without their mean
    assert np.isclose(float((found - rows).square().sum()), float(lost), rtol=1e-3)


def test_a_window_reads_of_the_neighbours_nothing_at_first() -> None:
    teacher, words = tiny_teacher(tiny_arrays()).eval(), range(len(vocabulary_for(tiny_arrays())))
    ids, mask = torch.tensor([[2, 9, 11, 3]]), torch.ones(1, 4, dtype=torch.long)
    plain, wide = (
        new_student(recipe_of(Student(layers=1, token_window=window)), teacher, words, ends=ENDS).eval()
        for window in (1, 3)
    )
    token = next(number for number, task in enumerate(wide.text_tasks) if task.kind is Kind.TOKEN)
    assert wide.text_heads[token].in_features == 3 * plain.text_heads[token].in_features
    with torch.no_grad():
        for name, logits in wide.encode(ids, mask).items():
            assert torch.allclose(logits, plain.encode(ids, mask)[name], atol=1e-6)
