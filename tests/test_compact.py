"""CompactBert computes what BertModel does, and starts a factorised student as well as its rank allows."""

import pytest
import torch
from transformers import BertConfig, BertModel

from mtrec_edge_compress.compact import CompactBert, compact_from_bert, narrow_words
from mtrec_edge_runtime.errors import StageError


def tiny_bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=20,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]])
    return ids, (ids > 0).long()


def whole_student(bert: BertModel, *, embedding_size: int = 32) -> CompactBert:
    return compact_from_bert(bert, [0, 1, 2], token_ids=range(50), embedding_size=embedding_size, positions=10).eval()


def test_unfactorised_student_equals_bert() -> None:
    bert, (ids, mask) = tiny_bert(), padded_batch()
    with torch.no_grad():
        expected = bert(input_ids=ids, attention_mask=mask)[0]
        found = whole_student(bert)(ids, mask)[0]
    kept = mask.bool()
    assert (expected[kept] - found[kept]).abs().max() < 2e-6


def test_full_rank_factorisation_loses_nothing() -> None:
    bert = tiny_bert()
    student = whole_student(bert, embedding_size=31)  # rows less their mean have rank <= 31 in 32 columns after SVD
    words = bert.embeddings.word_embeddings.weight
    rebuilt = student.embeddings.expand(student.embeddings.word.weight)
    lost = (words - words.mean(0) - rebuilt).norm() / words.norm()
    assert lost < 0.15  # one of 32 directions, the weakest


def test_trimmed_rows_are_the_kept_tokens_rows() -> None:
    bert = tiny_bert()
    student = compact_from_bert(bert, [2], token_ids=[0, 3, 7], embedding_size=32, positions=10)
    assert torch.equal(student.embeddings.word.weight[2], bert.embeddings.word_embeddings.weight[7])
    assert torch.equal(student.layers[0].up.weight, bert.encoder.layer[2].intermediate.dense.weight)


def test_padding_changes_nothing() -> None:
    student = whole_student(tiny_bert())
    with torch.no_grad():
        alone = student(torch.tensor([[2, 8, 3]]), torch.ones(1, 3, dtype=torch.long))[0]
        ids, mask = padded_batch()
        together = student(ids, mask)[0][1:, :3]
    assert (alone - together).abs().max() < 2e-6


@torch.no_grad()
def test_narrower_words_are_the_best_rank_there_is_and_keep_their_mean() -> None:
    student = whole_student(tiny_bert())
    words = student.embeddings
    before, place = words.word.weight.clone(), words.position.clone()
    narrow_words(student, before.shape[1])
    assert isinstance(words.expand, torch.nn.Identity)  # as narrow as it was
    for size in (5, 3):  # a narrow table may become narrower
        narrow_words(student, size)
        assert student.shape.embedding_size == words.word.embedding_dim == size
        found = words.expand(words.word.weight) + (words.position - place)[0]
        lost = torch.linalg.svdvals(before - before.mean(0))[size:].square().sum()
        assert float((found - before).square().sum()) == pytest.approx(float(lost), rel=1e-3)


@torch.no_grad()
def test_words_are_never_wider_than_there_are_words() -> None:
    student = compact_from_bert(tiny_bert(), [0], token_ids=range(6), embedding_size=20, positions=10)
    assert student.shape.embedding_size == student.embeddings.word.embedding_dim == 6


def test_layers_that_compute_another_activation_are_refused() -> None:
    bert = tiny_bert()
    bert.config.hidden_act = "relu"
    with pytest.raises(StageError, match="a student's layers compute gelu, the encoder's 'relu'"):
        compact_from_bert(bert, [0], token_ids=[0, 1], embedding_size=32, positions=10)


def test_a_backbone_without_bert_layers_is_refused() -> None:
    with pytest.raises(StageError, match=r"cannot be started from the layers of CompactBert.*student\.encoder"):
        compact_from_bert(
            _with_config(whole_student(tiny_bert())), [0], token_ids=[0, 1], embedding_size=32, positions=10
        )


def _with_config(model: CompactBert) -> CompactBert:
    model.config = tiny_bert().config  # type: ignore[assignment]
    return model
