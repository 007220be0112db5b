"""Several teachers as one: temperatures that mend too much confidence, means by hand, errors that name what differs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import dataset
from tiny_training import (
    CPU,
    source_for,
    tiny_arrays,
    tiny_student_learner,
    tiny_teacher,
    tokens_for,
    world_arrays,
)

from mtrec_edge_compress.data.arrays import build_arrays
from mtrec_edge_compress.data.schema import Fold
from mtrec_edge_compress.encoding import Encoded, encode_all
from mtrec_edge_compress.fusion import (
    FusedPairs,
    PairTeacher,
    calibrated,
    check_alike,
    fit_label_temperature,
    fuse_encoded,
    pair_temperatures,
    text_temperatures,
)
from mtrec_edge_compress.learner import rank_pairs
from mtrec_edge_compress.model import MultiTaskModel
from mtrec_edge_runtime.errors import StageError
from mtrec_edge_runtime.tasks import ORDER


def drawn(sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by honest logits of three classes, and those logits times `sharpness`."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(20_000, 3))
    chance = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    return sharpness * honest, (chance.cumsum(1) < rng.random((20_000, 1))).sum(1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_of_labels_is_how_much_too_sure_the_logits_are(sharpness: float) -> None:
    assert fit_label_temperature(*drawn(sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_a_label_ruled_out_for_all_changes_nothing() -> None:
    logits, labels = drawn(2.0)
    wider = np.concatenate([logits, np.full((len(labels), 1), -1e4)], axis=1)
    assert fit_label_temperature(wider, labels) == pytest.approx(fit_label_temperature(logits, labels), rel=1e-3)


def encoded(*logits: float) -> Encoded:
    row = np.array([logits], np.float32)
    return Encoded(np.full((1, 2), logits[0], np.float32), {"a.class": row}, {"a.tags": {5: 10 * row}})


def test_the_fused_logits_are_the_mean_of_calibrated_ones_by_hand() -> None:
    sure, unsure = encoded(8.0, -4.0), encoded(1.0, 3.0)
    fused = fuse_encoded([calibrated(sure, {"a.class": 4.0, "a.tags": 2.0}), unsure])
    assert fused.logits["a.class"].tolist() == [[1.5, 1.0]]  # (8 / 4 + 1) / 2, (-4 / 4 + 3) / 2
    assert fused.word_logits["a.tags"][5].tolist() == [[25.0, 5.0]]
    assert fused.vectors.tolist() == sure.vectors.tolist()
    assert fused.logits["a.class"].dtype == np.float32


def test_a_text_task_is_calibrated_on_the_labels_of_validation_alone() -> None:
    arrays = build_arrays(dataset(movies=1200))  # every fifth film is in VALIDATION
    label = np.arange(1200) % 3
    logits = np.zeros((len(arrays.item_ids) + 2, 3), np.float32)
    logits[np.arange(1200), label] = np.where(arrays.item_fold[:1200] == Fold.VALIDATION, 1.0, -1.0)
    told = Encoded(logits, {"movies.genre": logits}, {"products.tags": {}})
    assert text_temperatures(told, arrays) == {"movies.genre": pytest.approx(0.1, rel=0.05)}  # always right: as sure
    few = build_arrays(dataset())
    assert text_temperatures(Encoded(logits, {"movies.genre": logits}, {"products.tags": {}}), few) == {}


class Guesses:
    """Logits that have nothing to do with what is chosen."""

    def __init__(self, users: int) -> None:
        self.order = 2 * np.random.default_rng(0).normal(size=(users, 30)).astype(np.float32)

    def pair_scores(self, history, domain):
        return {"movies.like": self.order[history.user], f"movies.like{ORDER}": self.order[history.user]}


def test_what_orders_a_catalogue_has_a_temperature_of_its_own() -> None:
    arrays = build_arrays(dataset(users=400))
    assert pair_temperatures(Guesses(400), arrays)[f"movies.like{ORDER}"] > 9  # as unsure as may be
    assert pair_temperatures(Guesses(12), tiny_arrays()) == {}  # too few users to say


def other_teacher(arrays) -> MultiTaskModel:
    model = tiny_teacher(arrays)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def test_fused_pairs_are_the_mean_of_what_each_teacher_says_in_its_own_space() -> None:
    arrays = world_arrays()
    first, second, tokens = tiny_teacher(arrays).eval(), other_teacher(arrays), tokens_for(arrays)
    vectors = [torch.from_numpy(encode_all(model, tokens, device=CPU).vectors) for model in (first, second)]
    learner = tiny_student_learner(arrays)
    pairs = next(source_for(learner, arrays).epoch(0)).pairs
    assert pairs is not None
    with torch.no_grad():
        one, two = (rank_pairs(m, pairs, v[pairs.rows]) for m, v in zip((first, second), vectors, strict=True))
    halved = dict.fromkeys(one, 2.0)
    found = FusedPairs((PairTeacher(first, vectors[0], {}), PairTeacher(second, vectors[1], halved))).scores(pairs)
    assert found.keys() == one.keys()
    for name, score in found.items():
        torch.testing.assert_close(score, (one[name] + two[name] / 2) / 2)
    same = FusedPairs((PairTeacher(first, vectors[0], {}),) * 2)
    soft = replace(learner.soft, fused=same)
    alone = learner.pair_losses(pairs, {name: score + 0.5 for name, score in one.items()})
    learner._soft = (soft,)
    together = learner.pair_losses(pairs, {name: score + 0.5 for name, score in one.items()})
    assert {name: float(loss) for name, loss in together.items()} == pytest.approx(
        {name: float(loss) for name, loss in alone.items()}
    )


def test_teachers_that_cannot_be_fused_are_told_what_differs() -> None:
    movies, world = tiny_teacher(tiny_arrays()), tiny_teacher(world_arrays())
    check_alike([movies, tiny_teacher(tiny_arrays())], ["a", "b"])
    with pytest.raises(StageError, match=r"teachers a and b cannot be fused, they differ in tasks: .*movies\.rating"):
        check_alike([movies, world], ["a", "b"])
    wider = tiny_teacher(tiny_arrays())
    wider.text.backbone.resize_token_embeddings(5)
    with pytest.raises(StageError, match=r"differ in tokens in the vocabulary: \d+ and 5; the next step"):
        check_alike([movies, wider], ["a", "b"])
