"""Losses against hand-worked numbers: a constant predictor loses 1, a missing label nothing."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtrec_edge_compress import losses

NAN = math.nan


def test_the_mean_rating_loses_exactly_1() -> None:
    label = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    deviation = float(label.std(unbiased=False))
    assert losses.regression_loss(torch.full_like(label, 2.5), label, deviation, 4) == pytest.approx(1, abs=1e-6)


def test_the_base_rate_loses_exactly_1() -> None:
    label = torch.tensor([1.0, 0.0, 0.0, 0.0])
    logit = torch.full((4,), math.log(0.25 / 0.75))
    assert losses.binary_loss(logit, label, 0.25, 4) == pytest.approx(1, abs=1e-6)


def test_the_label_distribution_loses_exactly_1() -> None:
    label, share = torch.tensor([0, 0, 0, 1]), torch.tensor([0.75, 0.25])
    entropy = -float((share * share.log()).sum())
    assert losses.class_loss(share.log().repeat(4, 1), label, entropy, 4) == pytest.approx(1, abs=1e-6)


def test_equal_scores_lose_exactly_1_among_sampled_negatives() -> None:
    target, negative = torch.zeros(3, 2), torch.zeros(3, 9)
    every, allowed = torch.ones_like(target), torch.ones_like(negative)
    assert losses.sampled_softmax_loss(target, every, negative, allowed, 6) == pytest.approx(1, abs=1e-6)
    assert losses.balanced_negative_loss(target, every, negative, allowed, 6) == pytest.approx(1, abs=1e-6)


def test_squared_error_by_hand() -> None:
    found = losses.regression_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]), deviation=2.0, count=2)
    assert float(found) == pytest.approx((4 + 1) / 4 / 2)


def _gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def test_a_missing_label_costs_nothing_and_pushes_nothing() -> None:
    score = torch.tensor([5.0, 0.5], requires_grad=True)
    label = torch.tensor([NAN, 1.0])
    rating, like = losses.regression_loss(score, label, 1.0, 1), losses.binary_loss(score, label, 0.5, 1)
    assert float(rating.detach()) == pytest.approx(0.25)
    assert float(like.detach()) == pytest.approx(math.log(1 + math.exp(-0.5)) / math.log(2))
    assert _gradient(rating, score)[0] == 0 and _gradient(like, score)[0] == 0


def test_a_missing_class_costs_nothing() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    found = losses.class_loss(logits, torch.tensor([-1, 0]), 1.0, 1)
    assert float(found) == pytest.approx(math.log(2))


def test_no_label_at_all_is_zero_and_no_nan() -> None:
    nothing = torch.tensor([[NAN, NAN]])
    assert losses.regression_loss(torch.ones(1, 2), nothing, 1.0, 0) == 0
    assert losses.binary_loss(torch.ones(1, 2), nothing, 0.5, 0) == 0
    assert losses.class_loss(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), 1.0, 0) == 0


def test_sampling_every_other_item_is_the_full_softmax() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.7]])  # item 0 is the positive
    full = F.cross_entropy(scores, torch.tensor([0])) / math.log(4)
    sampled = losses.sampled_softmax_loss(scores[:, :1], torch.ones(1, 1), scores[:, 1:], torch.ones(1, 3), 1)
    assert float(sampled) == pytest.approx(float(full), rel=1e-6)


def test_an_observed_item_is_no_negative() -> None:
    target, every = torch.zeros(1, 1), torch.ones(1, 1)
    allowed = torch.tensor([[1.0, 0.0]])
    for loss in (losses.sampled_softmax_loss, losses.balanced_negative_loss):
        small = loss(target, every, torch.tensor([[0.0, -50.0]]), allowed, 1)
        large = loss(target, every, torch.tensor([[0.0, 50.0]]), allowed, 1)
        assert float(small) == pytest.approx(float(large))


def test_an_event_that_is_no_positive_attracts_nothing() -> None:
    target = torch.tensor([[1.0, -2.0]], requires_grad=True)
    loss = losses.sampled_softmax_loss(target, torch.tensor([[1.0, 0.0]]), torch.zeros(1, 3), torch.ones(1, 3), 1)
    assert _gradient(loss, target)[0, 1] == 0


def test_balanced_negatives_weigh_as_much_as_the_positives() -> None:
    positive, negative = torch.tensor([[2.0]]), torch.tensor([[-1.0, 1.0]])
    found = losses.balanced_negative_loss(positive, torch.ones(1, 1), negative, torch.ones(1, 2), 1)
    attract = math.log(1 + math.exp(-2))
    repel = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(found) == pytest.approx(0.5 * (attract + repel) / math.log(2), rel=1e-6)


def test_soft_targets_cost_nothing_when_equal_and_something_when_not() -> None:
    teacher = torch.tensor([[1.0, 2.0, -1.0]])
    assert float(losses.soft_class_loss(teacher, teacher, 2.0, 1.0, 1)) == pytest.approx(0, abs=1e-6)
    assert float(losses.soft_class_loss(teacher + 5, teacher, 2.0, 1.0, 1)) == pytest.approx(0, abs=1e-6)
    assert float(losses.soft_class_loss(torch.zeros(1, 3), teacher, 2.0, 1.0, 1)) > 0.1


def test_kl_of_two_classes_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # 0.75, 0.25 at temperature 1
    found = losses.soft_class_loss(torch.zeros(1, 2), teacher, 1.0, entropy=0.5, count=1)
    assert float(found) == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 0.5, rel=1e-5)


def test_cosine_by_hand() -> None:
    found = losses.cosine_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2)
    assert float(found) == pytest.approx(0.5)


def test_the_shares_of_two_processes_add_up() -> None:
    prediction, label = torch.randn(6), torch.randn(6)
    whole = losses.regression_loss(prediction, label, 1.5, 6)
    parts = [losses.regression_loss(prediction[rank::2], label[rank::2], 1.5, 6) for rank in (0, 1)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
