"""The model's parts against hand-worked cases."""

import numpy as np
import torch
from tiny_training import tiny_learner, world_arrays
from torch import Tensor
from torch.nn import functional as F

from mtrec_edge_compress.model import SHARPNESS, HistoryMatch, ModelShape

SHAPE = ModelShape(vector_size=4, max_history=3)


def inputs(events: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the vectors of a history, its values, ages and mask; two candidates are the first two events' vectors."""
    history = F.normalize(torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    value, age = torch.tensor([[1.0, -1.0, 0.5]]), torch.arange(3).expand(1, 3)
    return history, value, age, (torch.arange(3) < events).long()[None]


def test_history_match_is_the_kernel_density_and_the_kernel_regression_by_hand() -> None:
    history, value, age, mask = inputs(events=2)
    match = HistoryMatch(SHAPE)
    torch.nn.init.normal_(match.age_bias)
    found = match(history, value, age, mask, history[:, :2]).detach().numpy()
    cosine = (history[0, :2] @ history[0, :2].T).numpy()
    for number, sharpness in enumerate(SHARPNESS):
        weights = np.exp(sharpness * (cosine - 1) + match.age_bias[:2, number].detach().numpy())
        np.testing.assert_allclose(found[0, :, number], np.log(weights.sum(1)), rtol=1e-4, atol=1e-5)
        expected = weights @ value[0, :2].numpy() / weights.sum(1)
        np.testing.assert_allclose(found[0, :, len(SHARPNESS) + number], expected, rtol=1e-4, atol=1e-5)


def test_a_history_that_is_all_padding_matches_nothing() -> None:
    history, value, age, mask = inputs(events=0)
    found = HistoryMatch(SHAPE)(history, value, age, mask, history)
    assert torch.isfinite(found).all()
    assert (found[..., : len(SHARPNESS)] == 0).all()


def test_an_untrained_model_ranks_the_neighbours_of_the_history_first() -> None:
    model = tiny_learner(world_arrays()).model.eval()
    ranked = [task.name for task in model.pair_tasks if task.negatives]
    assert ranked
    generator = torch.Generator().manual_seed(2)
    history = F.normalize(torch.randn(1, 2, model.vector_size, generator=generator), dim=-1)
    others = F.normalize(torch.randn(1, 50, model.vector_size, generator=generator), dim=-1)
    near = F.normalize(history + 0.1 * torch.randn(history.shape, generator=generator), dim=-1)
    ones, zeros = torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.int64)
    scores = model.rank(
        history, zeros, ones, torch.arange(2)[None], zeros + 1, torch.cat([near, others], 1), torch.zeros(1, 52, 3)
    )
    for name in ranked:
        assert set(scores[name][0].topk(2).indices.tolist()) == {0, 1}
