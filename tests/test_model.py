"""The model's parts against hand-worked cases."""

import numpy as np
import pytest
import torch
from tiny_models import TASKS, with_tasks
from tiny_training import tiny_arrays, tiny_learner, tiny_student_learner, world_arrays
from torch import Tensor
from torch.nn import functional as F

from mtrec_edge_compress.model import (
    AFFINITY_SCALE,
    NEAR,
    SHARPNESS,
    Affinity,
    HistoryMatch,
    ModelShape,
    MultiTaskModel,
)

SHAPE = ModelShape(vector_size=4, max_history=3)


def inputs(events: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the vectors of a history, its values, ages and mask; two candidates are the first two events' vectors."""
    history = F.normalize(torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    value, age = torch.tensor([[1.0, -1.0, 0.5]]), torch.arange(3).expand(1, 3)
    return history, value, age, (torch.arange(3) < events).long()[None]


def rank(
    model: MultiTaskModel, history: Tensor, candidates: Tensor, affinity: Tensor, *, events: int = 2
) -> dict[str, Tensor]:
    """Return the scores of candidates without priors; of the history's two events the first `events` are known."""
    age = torch.arange(2)[None]
    priors = torch.zeros(1, candidates.shape[1], 3)
    with torch.no_grad():
        return model.rank(
            history, torch.zeros_like(age), torch.ones(1, 2), age, (age < events).long(), candidates, priors, affinity
        )


def order_of(scores: dict[str, Tensor], task: str) -> Tensor:
    """Return what the catalogue is ordered by: an output of its own, or the task's."""
    return scores.get(f"{task}.order", scores[task])[0]


def test_history_match_is_the_kernel_density_and_the_kernel_regression_by_hand() -> None:
    history, value, age, mask = inputs(events=2)
    match = HistoryMatch(SHAPE)
    torch.nn.init.normal_(match.age_bias.table)
    behaviour = torch.zeros_like(age)
    bias = match.age_bias(behaviour, age).detach().numpy()[0, :2]
    rated = torch.tensor([[1.0, 0.0, 1.0]])  # the second event has no value
    residual = value * rated
    found = match(history, behaviour, residual, rated, age, mask, history[:, :2]).detach().numpy()
    cosine = (history[0, :2] @ history[0, :2].T).numpy()
    for number, sharpness in enumerate(SHARPNESS):
        weights = np.exp(sharpness * (cosine - 1) + bias[:, number])
        np.testing.assert_allclose(found[0, :, number], np.log(weights.sum(1)), rtol=1e-4, atol=1e-5)
        expected = weights[:, 0] * float(value[0, 0]) / (weights[:, 0] + np.exp(sharpness * (NEAR - 1)))
        np.testing.assert_allclose(found[0, :, len(SHARPNESS) + number], expected, rtol=1e-4, atol=1e-5)


def test_a_history_that_is_all_padding_matches_nothing() -> None:
    history, value, age, mask = inputs(events=0)
    found = HistoryMatch(SHAPE)(
        history, torch.zeros_like(age), torch.zeros_like(value), torch.zeros_like(value), age, mask, history
    )
    assert (found == 0).all()


def test_an_untrained_model_ranks_the_neighbours_of_the_history_first() -> None:
    model = tiny_learner(world_arrays()).model.eval()
    ranked = [task.name for task in model.pair_tasks if task.negatives]
    assert ranked
    generator = torch.Generator().manual_seed(2)
    history = F.normalize(torch.randn(1, 2, model.vector_size, generator=generator), dim=-1)
    others = F.normalize(torch.randn(1, 50, model.vector_size, generator=generator), dim=-1)
    near = F.normalize(history + 0.1 * torch.randn(history.shape, generator=generator), dim=-1)
    scores = rank(model, history, torch.cat([near, others], 1), torch.zeros(1, 52, 2))
    for name in ranked:
        assert set(order_of(scores, name).topk(2).indices.tolist()) == {0, 1}


def test_affinities_are_added_up_as_their_events_behaviour_value_and_age_say_by_hand() -> None:
    affinity = Affinity(ModelShape(vector_size=4, max_history=3, behaviours=2))
    with torch.no_grad():
        affinity.gain.copy_(torch.tensor([[1.0, 2.0], [0.75, 3.0]]))  # of each behaviour, in two ways
        affinity.slope.copy_(torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
        affinity.age_bias.table.copy_(
            torch.tensor([[0.0, 0.0], [7.0, 7.0], [9.0, 9.0], [7.0, 7.0], [np.log(2), 0.0], [7.0, 7.0]])
        )  # ages 0, 1, 2 of the first behaviour, then of the second
    behaviour, value, age = torch.tensor([[0, 1, 0]]), torch.tensor([[1.0, -1.0, 5.0]]), torch.arange(3)[None]
    found = affinity(
        torch.tensor([[[0.2, 0.1, 0.9], [0.0, -0.4, 0.9], [0.0, 0.0, 0.9]]]),
        behaviour,
        value,
        age,
        torch.tensor([[1, 1, 0]]),
    )
    # the events' say: (1 + 0.5 * 1) * 1 = 1.5 and 2; (0.75 - 0.5 * 1) * 2 = 0.5 and 3; the third is padding
    sums = torch.tensor([[0.2 * 1.5 + 0.1 * 0.5, 0.2 * 2 + 0.1 * 3], [-0.4 * 0.5, -0.4 * 3], [0.0, 0.0]])
    assert torch.allclose(found[0, :, :2], AFFINITY_SCALE * sums)
    assert found[0, :, -1].tolist() == pytest.approx([np.log(3) / 2, np.log(2) / 2, 0.0])  # 2, 1 and 0 events say so


def test_an_untrained_model_weighs_the_latest_events_more_in_its_second_memory() -> None:
    events, shape = 21, ModelShape(vector_size=4, max_history=21)
    age, behaviour = torch.arange(events)[None], torch.zeros(1, events, dtype=torch.int64)
    found = Affinity(shape)(torch.eye(events)[None], behaviour, torch.zeros(1, events), age, torch.ones(1, events))
    assert torch.allclose(found[0, :, 0], torch.full((events,), AFFINITY_SCALE))
    assert found[0, [0, 10, 20], 1].tolist() == pytest.approx([3 * 1.3, 3 * 0.8, 3 * 0.55])


def test_an_untrained_model_ranks_what_is_linked_to_the_history_first() -> None:
    model = tiny_learner(world_arrays()).model.eval()
    history = F.normalize(torch.randn(1, 2, model.vector_size, generator=torch.Generator().manual_seed(2)), dim=-1)
    candidates = F.normalize(torch.ones(1, 5, model.vector_size), dim=-1)  # all alike
    affinity = torch.zeros(1, 5, 2)
    affinity[0, 3, 1] = 0.1
    scores = rank(model, history, candidates, affinity)
    for name in (task.name for task in model.pair_tasks if task.negatives):
        assert order_of(scores, name).argmax() == 3


def test_what_padding_says_changes_nothing() -> None:
    model = tiny_learner(world_arrays()).model.eval()
    history, candidates = (torch.randn(1, n, model.vector_size) for n in (2, 5))
    affinity = torch.rand(1, 5, 2)
    other = torch.cat([affinity[..., :1], affinity[..., 1:] - 7.0], -1)
    first, again = (rank(model, history, candidates, part, events=1) for part in (affinity, other))
    whole = rank(model, history, candidates, other)
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.allclose(first[name], whole[name])


def test_users_without_history_are_all_alike_whatever_the_padding_says() -> None:
    model = tiny_learner(world_arrays()).model.eval()
    items = F.normalize(torch.randn(1, 5, model.vector_size, generator=torch.Generator().manual_seed(0)), dim=-1)
    nothing = torch.zeros(1, 3, 2)
    one = rank(model, items[:, :2], items[:, 2:], nothing, events=0)
    other = rank(model, items[:, 1:3] * 0, items[:, 2:], nothing, events=0)
    known = rank(model, items[:, :2], items[:, 2:], nothing, events=1)
    for name, scores in one.items():
        assert torch.equal(scores, other[name])
    assert any(not torch.allclose(one[name], known[name]) for name in one)


def test_token_heads_read_the_neighbours_and_nothing_beyond_the_ends_by_hand() -> None:
    model = with_tasks(TASKS, window=3)
    states = torch.arange(1.0, 4.0).view(1, 3, 1).expand(1, 3, 2)
    read = model.around(states)
    assert read[0].tolist() == [[0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 3, 3], [2, 2, 3, 3, 0, 0]]
    assert with_tasks(TASKS).around(states) is states
    text, position = torch.tensor([0, 0]), torch.tensor([2, 0])
    for some in (model, with_tasks(TASKS)):
        assert torch.equal(some.around_words(states, text, position), some.around(states)[text, position])


def test_padding_is_no_neighbour() -> None:
    model = with_tasks(TASKS, window=3)
    ids = torch.tensor([[2, 9, 3, 7, 7]])
    with torch.no_grad():
        alone = model.encode(ids[:, :3], torch.ones(1, 3, dtype=torch.long))["products.tags"]
        padded = model.encode(ids, torch.tensor([[1, 1, 1, 0, 0]]))["products.tags"]
    assert torch.allclose(alone, padded[:, :3], atol=1e-6)


@pytest.mark.parametrize("student", [False, True])
def test_words_looked_up_for_several_groups_at_once_are_read_as_their_ids_are(student: bool) -> None:
    text = (tiny_student_learner if student else tiny_learner)(tiny_arrays()).model.eval().text
    groups = [torch.tensor([[2, 7, 9, 3]]), torch.tensor([[2, 8, 3], [2, 3, 0]])]
    for ids, words in zip(groups, text.look_up(groups), strict=True):
        mask = (ids > 0).long()
        for found, expected in zip(text(None, mask, words), text(ids, mask), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)
