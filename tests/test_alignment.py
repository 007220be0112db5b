"""Items with the same users: targets by hand, and vectors that learn to lie by their company."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_training import SETTINGS, source_for, tiny_arrays, tiny_learner, world_arrays
from torch.nn import functional as F

from mtrec_edge_compress import losses
from mtrec_edge_compress.alignment import LEAST_POSITIVES, SHRINKAGE, TEMPERATURE, CoConsumption
from mtrec_edge_compress.baselines.signals import Signals
from mtrec_edge_compress.learner import ALIGNMENT

ALL = slice(0, None)
NONE = np.zeros(0, np.int64)


def test_a_target_is_the_softmax_of_the_users_in_common_by_hand() -> None:
    found = CoConsumption(world_arrays(), NONE)
    for signals, company in zip(found.domains, found.sample(np.random.default_rng(0), NONE, ALL), strict=True):
        likes = signals.positives.toarray()[:, company.references - signals.rows.start]
        common, count = likes.T @ likes, likes.sum(0)
        for query in range(len(count)):
            weight = np.exp(common[query] / (np.sqrt(count[query] * count) + SHRINKAGE) / TEMPERATURE)
            weight[query] = 0  # an item is not its own company
            np.testing.assert_allclose(company.target[query], weight / weight.sum(), rtol=1e-3, atol=1e-6)


def test_queries_are_the_texts_with_company_and_every_reference_and_their_shares_sum_to_1() -> None:
    arrays = world_arrays()
    found = CoConsumption(arrays, NONE)
    texts = np.arange(0, len(arrays.item_ids), 3)
    parts = found.sample(np.random.default_rng(0), texts, ALL)
    assert [len(part.target) for part in parts] == [len(part.fresh) + len(part.cached) for part in parts]
    fresh = np.sort(np.concatenate([part.fresh for part in parts]))
    assert fresh.tolist() == np.intersect1d(texts, found.rows).tolist() and len(fresh)
    assert sum(part.share.sum() for part in parts) == pytest.approx(1)
    assert all(part.share.min() > 0 for part in parts)


def test_unread_items_are_nobodys_company() -> None:
    arrays = world_arrays()
    every = CoConsumption(arrays, NONE).rows
    found = CoConsumption(arrays, every[::4])
    assert found.rows.tolist() == np.setdiff1d(every, every[::4]).tolist()
    for part in found.sample(np.random.default_rng(0), every, ALL):
        assert not np.isin(every[::4], np.concatenate([part.references, part.fresh])).any()


def test_items_that_fewer_than_two_users_liked_have_no_company() -> None:
    arrays = world_arrays()
    rows = CoConsumption(arrays, NONE).rows
    for task in (task for task in arrays.tasks if task.negatives):
        signals = Signals(arrays, task)
        mine = rows[(rows >= signals.rows.start) & (rows < signals.rows.stop)] - signals.rows.start
        assert mine.tolist() == np.flatnonzero(signals.popularity >= LEAST_POSITIVES).tolist()
    assert not arrays.cold[rows].any()


def test_vectors_that_say_nothing_lose_exactly_1_and_the_right_ones_less() -> None:
    same = F.normalize(torch.ones(3, 4), dim=-1)
    other = 1 - torch.eye(3)
    target, share = other / 2, torch.full((3,), 1 / 3)
    assert float(losses.alignment_loss(same, same, target, other, share, 6.0)) == pytest.approx(1)
    pair = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), dim=-1)
    near = float(losses.alignment_loss(vectors, vectors, pair, other, share, 6.0))
    loss = [math.log1p(math.exp(-12.0)), math.log1p(math.exp(-12.0)), math.log(2)]
    assert near == pytest.approx(sum(loss) / 3 / math.log(2), rel=1e-4)


def test_alignment_draws_items_with_the_same_users_together() -> None:
    arrays = world_arrays()
    learner = tiny_learner(arrays)
    learner.refresh(torch.device("cpu"), torch.float32)
    source = source_for(learner, arrays, replace(SETTINGS, texts=32), with_pairs=False, with_company=True)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    reached = []
    for epoch in range(8):
        for batch in source.epoch(epoch):
            loss = learner(batch)[1][ALIGNMENT]
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            reached.append(float(loss.detach()))
    assert learner.model.text.backbone.embeddings.word_embeddings.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert np.mean(reached[-5:]) < 0.95 * np.mean(reached[:5])


def test_a_dataset_with_too_few_likes_has_no_company() -> None:
    arrays = tiny_arrays()
    nobody = replace(arrays, event_fold=np.full_like(arrays.event_fold, 2))
    assert CoConsumption(nobody, NONE).sample(np.random.default_rng(0), np.arange(5), ALL) == []
