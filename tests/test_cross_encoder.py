"""A cross-encoder reads no text that tests look at, learns alike with one seed, and its word reaches the student."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import (
    CPU,
    RECIPE,
    collaboration_for,
    tiny_student_learner,
    tiny_teacher,
    tokens_for,
    vocabulary_for,
    world_arrays,
)
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from mtrec_edge_compress.cross_comparison import as_facts, compare
from mtrec_edge_compress.cross_encoder import (
    CrossBatches,
    CrossModel,
    Reader,
    cross_batches,
    padded,
    readable_items,
    train_cross_encoder,
)
from mtrec_edge_compress.cross_pairs import CrossPairs, CrossTaught, load_cross_pairs, save_cross_pairs, score_windows
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.encoding import encode_all
from mtrec_edge_compress.learner import CROSS, margins
from mtrec_edge_compress.losses import margin_loss
from mtrec_edge_compress.pipeline import CROSS_ENCODER, STAGES, _of_cross_encoder
from mtrec_edge_compress.recipe import CrossEncoder
from mtrec_edge_compress.scorer import VectorScorer, torch_ranker
from mtrec_edge_compress.student_training import StudentTraining
from mtrec_edge_compress.tokens import Tokens
from mtrec_edge_runtime.errors import RecipeError

SETTINGS = CrossEncoder(
    windows=24, events=3, max_tokens=32, targets=3, negatives=3, candidates=5, steps=3, users=4, precision="fp32"
)
WORLD = replace(RECIPE, cross_encoder=SETTINGS)


def ids(*rows: list[int]) -> Tokens:
    """Texts as ids between [CLS] = 1 and [SEP] = 2."""
    return Tokens(tuple(np.array([1, *row, 2]) for row in rows), tuple(np.zeros(0, np.int64) for _ in rows))


def test_a_sequence_by_hand() -> None:
    reader = Reader(ids([10, 11], [20], [30, 31, 32], [40]), np.array([True, True, True, False]), 2, 16)
    found = reader.sequence(np.array([3, 1, 0, 2]), 2)  # 3 may not be read, 2 is one event too many
    assert found.ids.tolist() == [1, 20, 2, 10, 11, 2, 30, 31, 32, 2]
    tokens, mask, types = padded([found, reader.sequence(np.zeros(0, np.int64), 1)])
    assert tokens[1].tolist() == [1, 20, 2] + [0] * 7 and mask.sum(1).tolist() == [10, 3]
    assert types.tolist() == [[0] * 6 + [1] * 4, [0, 1, 1] + [0] * 7]


def test_long_texts_are_cut_so_that_the_whole_fits() -> None:
    reader = Reader(ids(list(range(10, 30)), list(range(40, 60))), np.array([True, True]), 2, 14)
    found = reader.sequence(np.array([0, 0]), 1)  # room for 10 tokens: 2 for each event, the rest for the candidate
    assert found.ids.tolist() == [1, 10, 11, 2, 10, 11, 2, *range(40, 46), 2] and len(found.ids) == 14


def test_margins_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0, 1.0, 2.0]]), torch.tensor([[2.0, 5.0, 1.0, 4.0]])
    own, said = margins(student, 2), margins(teacher, 2)
    assert own.tolist() == [[[2.0, 1.0], [-1.0, -2.0]]] and said.tolist() == [[[1.0, -2.0], [4.0, 1.0]]]
    positive = torch.tensor([[[True, True], [False, False]]])
    loss = margin_loss(own, said, positive, square=2.5, count=2.0)  # ((2 - 1)^2 + (1 + 2)^2) / 2.5 / 2
    assert float(loss) == pytest.approx(2.0)
    equal = margin_loss(torch.zeros_like(said), said, positive, square=2.5, count=2.0)  # (1 + 4) / 2.5 / 2
    assert float(equal) == pytest.approx(1.0)


def test_a_margin_nobody_knows_gives_no_gradient() -> None:
    own = torch.ones(1, 1, 2, requires_grad=True)
    said = torch.tensor([[[torch.nan, 3.0]]])
    margin_loss(own, said, ~torch.isnan(said), 1.0, 1.0).backward()
    assert own.grad is not None and own.grad.tolist() == [[[0.0, -4.0]]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of two layers, as a folder."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary_for(world_arrays())),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@cache
def batches() -> CrossBatches:
    arrays = world_arrays()
    return cross_batches(WORLD, arrays, tokens_for(arrays), collaboration_for(arrays))


def trained(encoder: str, folder: Path) -> tuple[CrossModel, Reader]:
    return train_cross_encoder(WORLD, batches(), encoder, folder=folder, device="cpu", progress=False)


@pytest.fixture(scope="module")
def taught(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CrossModel, Reader]]:
    yield trained(encoder, tmp_path_factory.mktemp("cross"))


@pytest.fixture(scope="module")
def scored(taught: tuple[CrossModel, Reader]) -> CrossPairs:
    return score_windows(*taught, batches(), windows=SETTINGS.windows, progress=False)


def test_training_and_scores_are_the_same_for_the_same_seed(encoder: str, scored: CrossPairs, tmp_path: Path) -> None:
    again = score_windows(*trained(encoder, tmp_path), batches(), windows=SETTINGS.windows, progress=False)
    for name in ("users", "targets", "negatives", "scores"):
        assert np.array_equal(getattr(again, name), getattr(scored, name), equal_nan=name == "scores")


def test_no_cold_item_and_none_of_the_test_fold_is_read(scored: CrossPairs) -> None:
    arrays = world_arrays()
    readable = readable_items(arrays)
    assert not readable[arrays.cold].any() and not readable[arrays.item_fold == Fold.TEST].any()
    assert (~readable).sum() > 0 < readable.sum()
    events = scored.targets[scored.targets >= 0]
    assert (arrays.event_fold[events] == Fold.TRAIN).all()
    assert readable[arrays.event_item[events]].all() and readable[scored.negatives].all()
    for batch in batches().epoch(0):
        assert batch.pairs is not None
        candidates = batch.pairs.rows[batch.pairs.candidates]
        exists = torch.stack([~label.isnan() for label in batch.pairs.labels.values()]).any(0)
        assert readable[candidates[:, : exists.shape[1]][exists].numpy()].all()
        assert readable[candidates[:, exists.shape[1] :].numpy()].all()


def test_every_scored_pair_has_a_score_of_each_task_of_its_domain_alone(scored: CrossPairs) -> None:
    arrays = world_arrays()
    assert len(scored.users) == SETTINGS.windows and scored.scores.shape[1] == 6
    for window in range(SETTINGS.windows):
        item = int(arrays.event_item[scored.targets[window, 0]])
        domain = next(name for name, span in arrays.domains.items() if span.start <= item < span.stop)
        for number, name in enumerate(scored.outputs):
            known = ~np.isnan(scored.scores[window, :, number])
            assert known.any() == (name.split(".")[0] == domain)
            assert not known[:3][scored.targets[window] < 0].any()


def test_scored_pairs_are_mapped_as_they_were_written(scored: CrossPairs, tmp_path: Path) -> None:
    save_cross_pairs(scored, tmp_path / "pairs")
    found = load_cross_pairs(tmp_path / "pairs")
    assert isinstance(found.scores, np.memmap) and found.outputs == scored.outputs
    assert np.array_equal(found.scores, scored.scores, equal_nan=True)
    assert np.array_equal(found.targets, scored.targets)


def test_the_comparison_knows_tower_cross_encoder_and_their_mean(taught: tuple[CrossModel, Reader]) -> None:
    arrays = world_arrays()
    tower = tiny_teacher(arrays).eval()
    encoded = encode_all(tower, tokens_for(arrays), device=CPU)
    scorer = VectorScorer(arrays, encoded, torch_ranker(tower), 8, collaboration_for(arrays).whole)
    found = compare(scorer, *taught, arrays, candidates=5, users_per_domain=10, seed=0)
    assert set(found["tasks"]) <= {task.name for task in arrays.tasks if task.source == "events"}
    for task in ("shop.click", "video.like"):
        for metric in ("ndcg@10", "auc"):
            values = found["tasks"][task][metric]
            assert list(values) == ["tower", "cross_encoder", "mean"] and all(0 <= v <= 1 for v in values.values())
    assert min(found["tasks"]["video.rating"]["rmse"].values()) > 0
    assert json.loads(json.dumps(found)) == found
    assert "among 5 sampled" in as_facts(found)["cross-encoder, shop.click auc, VALIDATION"]


def losses_of(share: float, scored: CrossPairs | None) -> tuple[dict[str, float], torch.Tensor]:
    """Return a first step's losses and the gradient it gives the task heads."""
    arrays = world_arrays()
    recipe = replace(WORLD, cross_encoder=replace(SETTINGS, share=share))
    torch.manual_seed(0)
    learner = tiny_student_learner(arrays, recipe)
    learner._soft = (replace(learner.soft, cross=scored),)
    training = StudentTraining(recipe, learner, arrays, collaboration_for(arrays), "cpu", progress=False)
    source = training.batches(RECIPE.distill.tasks, with_pairs=True)
    batch = next(batch for batch in source.epoch(0) if scored is None or batch.cross is not None)
    total, found = learner(batch)
    total.backward()
    gradient = learner.model.heads.linear.weight.grad
    assert gradient is not None
    return {name: float(loss.detach()) for name, loss in found.items()}, gradient


def test_the_scored_pairs_teach_the_student(scored: CrossPairs) -> None:
    with_it, without = losses_of(0.5, scored), losses_of(0.0, scored)
    assert with_it[0] == without[0] and with_it[0][CROSS] > 0
    assert (with_it[1] - without[1]).abs().max() > 1e-6


def test_without_scored_pairs_a_student_learns_as_before() -> None:
    found, _ = losses_of(0.5, None)
    assert CROSS not in found


def test_a_phase_of_texts_alone_asks_no_pairs(scored: CrossPairs) -> None:
    source = replace(batches_of_texts(), scored=scored)
    assert all(batch.cross is None for batch in source.epoch(0))


def batches_of_texts() -> CrossTaught:
    arrays = world_arrays()
    return CrossTaught(
        arrays, tokens_for(arrays), collaboration_for(arrays), RECIPE.distill.represent, 8, 0, False, every_text=True
    )


def test_two_processes_read_what_one_does(scored: CrossPairs) -> None:
    alone = replace(batches_of_texts(), with_pairs=True, scored=scored)
    first, second = (replace(alone, rank=rank, world=2) for rank in (0, 1))
    for whole, *halves in zip(alone.epoch(0), first.epoch(0), second.epoch(0), strict=True):
        if whole.cross is None:  # no window of this domain was scored
            continue
        for task, said in whole.cross.scores.items():
            for rank, half in enumerate(halves):
                assert half.cross is not None
                assert torch.equal(half.cross.scores[task].nan_to_num(), said[rank::2].nan_to_num())


def test_a_backbone_without_token_types_is_read_too() -> None:
    torch.manual_seed(0)
    backbone = DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32))
    model = CrossModel(backbone, 16, world_arrays().tasks).eval()
    reader = Reader(ids([10, 11], [20]), np.array([True, True]), 2, 16)
    pairs = [reader.sequence(np.array([0]), 1), reader.sequence(np.array([1, 0]), 0)]
    with torch.no_grad():
        both, alone = model.score(pairs), model.score(pairs[1:])
    assert both.shape == (2, len(model.outputs)) and torch.allclose(both[1:], alone, atol=1e-5)


def test_a_backbone_that_reads_too_little_is_told(encoder: str, tmp_path: Path) -> None:
    recipe = replace(WORLD, cross_encoder=replace(SETTINGS, max_tokens=64))
    with pytest.raises(RecipeError, match=r"cross_encoder\.max_tokens = 64, but .* reads at most 32 tokens"):
        train_cross_encoder(recipe, batches(), encoder, folder=tmp_path, device="cpu", progress=False)


def test_off_adds_nothing_to_what_stages_depend_on() -> None:
    names = [name for name, _, _ in STAGES]
    assert all(_of_cross_encoder(CrossEncoder(), name) == {} for name in names)
    added = {name for name in names if _of_cross_encoder(SETTINGS, name)}
    assert added == {CROSS_ENCODER, "distill"}
    other = replace(SETTINGS, share=0.1)
    assert _of_cross_encoder(other, CROSS_ENCODER) == _of_cross_encoder(SETTINGS, CROSS_ENCODER)
    assert _of_cross_encoder(other, "distill") != _of_cross_encoder(SETTINGS, "distill")
